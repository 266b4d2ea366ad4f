-- Ends a reservation: charges what was used in the end instead of what was reserved, or gives that back.
-- KEYS: the usage of each limit, as when it was reserved; then the reservation
-- ARGV: 1 'committed' or 'cancelled', 2 what was used, 0 if cancelled, -1 for what was reserved, 3 the name of the request that reserved, as in
--       consume.lua, 4 how long the answer is kept for repetitions, in milliseconds
-- RETURNS: numbers: 0 there is no such reservation (it has expired, or never was), 1 ended now or by an earlier attempt, 2 ended
--       before in the other way; then for each limit what it was charged, full, and what tell appends

local outcome, used, request, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local count = #KEYS - 1
local record = KEYS[#KEYS]

local lines = {}
for line in string.gmatch(redis.call('GET', record) or '', '[^\n]+') do
  lines[#lines + 1] = line
end
if lines[1] == 'committed ' .. request or lines[1] == 'cancelled ' .. request then
  local before = numbers(lines[2])
  before[1] = lines[1] == outcome .. ' ' .. request and 1 or 2
  return before
end
if lines[1] ~= request or #lines ~= count + 2 then
  return {0}
end

local time = now()
local limits, usage = {}, {}
for i = 1, count do
  local verdict, charged, first, second, third, algorithm, full, capacity, period, align =
    string.match(lines[i + 2], '^(%d+),(%d+),(%d+),(%d+),(%d+),(%a),(%d+),(%d+),(%d+),(.*)$')
  local l = usage[KEYS[i]]
  if not l then
    l = {
      key = KEYS[i], algorithm = algorithm, full = tonumber(full), capacity = tonumber(capacity), period = tonumber(period),
      align = align,
    }
    load(l, time)
    usage[l.key] = l
  end
  charged = tonumber(charged)
  -- A limit that only seemed to be enforced and denied was not charged.
  if verdict == '1' and used >= 0 and used ~= charged then
    if used > charged then
      l.is.add(l, used - charged)
    else
      l.is.give(l, charged - used, tonumber(first), tonumber(second), tonumber(third))
    end
    l.dirty = true
    charged = used
  end
  limits[i] = {l, charged = charged}
end

local answer = {1}
for _, c in ipairs(limits) do
  answer[#answer + 1] = c.charged
  answer[#answer + 1] = c[1].full
  tell(answer, c[1])
end
for _, l in pairs(usage) do
  if l.dirty then
    save(l)
  end
end
local told = {}
for i, n in ipairs(answer) do
  told[i] = digits(n)
end
redis.call('SET', record, outcome .. ' ' .. request .. '\n' .. table.concat(told, ' ') .. '\n' .. lines[2], 'PX', keep)
return answer
