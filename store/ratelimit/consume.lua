-- Charges several limits, all of them or none, or each by itself.
-- KEYS: the usage of each limit, which may be named several times; then the record of the request, if it has an id
-- ARGV: 1 mode: 'all' (a limit that denies keeps the others from being charged), 'partial' (as all, but as much as every limit
--       allows is charged) or 'each' (each limit is charged whatever the others say, also beyond its capacity)
--       2 how long the record is kept, in milliseconds, and 3 what it says of the request; '' and '' without a record
--       then for each limit: algorithm, full, capacity, period, align as in common.lua, the cost (0 and 'k' below change
--       nothing, a negative one is given back whatever the limits say), and flags: 's' its denial is no denial of the call,
--       'p' it is charged up to full also if the call is denied, 'k' it is looked at and not charged
-- RETURNS: numbers: 1 if the record has answered, else 0; 1 if the call is denied, else 0; how much was granted; then for each
--       limit whether it allows (1), denies (2) or never allows (3) the cost, what it was charged, and what tell appends

local mode, keep, request = ARGV[1], ARGV[2], ARGV[3]
local FIRST, ARGS = 4, 7
local count = math.floor((#ARGV - FIRST + 1) / ARGS)
local record = KEYS[count + 1]

if record then
  local before = redis.call('GET', record) or ''
  -- The answer is the second line, or, once a reservation has ended, the third.
  local answer = string.match(before, '^%x+\n([^\n]*)') or string.match(before, '^%a+ [^\n]*\n[^\n]*\n([^\n]*)')
  if answer then
    answer = numbers(answer)
    answer[1] = 1
    return answer
  end
end

local time = now()
local limits, usage = {}, {}
for i = 1, count do
  local a = FIRST + (i - 1) * ARGS
  local key, flags = KEYS[i], ARGV[a + 6]
  local l = usage[key]
  if not l then
    l = {
      key = key, algorithm = ARGV[a], full = tonumber(ARGV[a + 1]), capacity = tonumber(ARGV[a + 2]),
      period = tonumber(ARGV[a + 3]), align = ARGV[a + 4],
    }
    load(l, time)
    usage[key] = l
  end
  -- Two charges of one key may be under rules that differ in full.
  limits[i] = {
    l, full = tonumber(ARGV[a + 1]), cost = tonumber(ARGV[a + 5]), charged = 0, verdict = 1, a = a,
  }
  if flags ~= '' then
    limits[i].shadow = string.find(flags, 's', 1, true)
    limits[i].penalize = string.find(flags, 'p', 1, true)
    limits[i].peek = string.find(flags, 'k', 1, true)
  end
end

-- How much all limits allow.
local granted = limits[1].cost
if mode == 'partial' then
  for _, c in ipairs(limits) do
    if not c.shadow then
      granted = math.min(granted, c.cost, c.full - c[1].is.used(c[1]))
    end
  end
  granted = math.max(granted, limits[1].cost > 0 and 1 or 0)
end

local denied, more = 0, mode == 'each'
for _, c in ipairs(limits) do
  local l = c[1]
  local cost = mode == 'partial' and math.min(c.cost, granted) or c.cost
  if cost > c.full then
    c.verdict = 3
  elseif cost >= 0 and l.is.used(l) + cost > c.full then
    c.verdict = 2
  elseif cost > 0 and not c.peek then
    l.is.add(l, cost)
    c.charged, l.dirty = cost, true
  end
  if c.verdict ~= 1 and not c.shadow then
    denied = 1
  end
  more = more or cost < 0
end

if denied == 1 and mode ~= 'each' then
  for _, c in ipairs(limits) do
    if c.charged > 0 then
      c[1].is.add(c[1], -c.charged)
      c.charged, c[1].dirty = 0, nil
    end
  end
end
for _, c in ipairs((denied == 1 or more) and limits or {}) do
  local l = c[1]
  if c.cost < 0 and not c.peek then
    if l.is.used(l) > 0 then
      l.is.add(l, c.cost)
      l.dirty = true
    end
  elseif c.cost > 0 and c.charged == 0 and not c.peek then
    local over = 0
    if mode == 'each' and c.verdict ~= 1 then
      over = l.algorithm == 'g' and math.min(c.cost, c.full - l.is.used(l)) or c.cost
    elseif denied == 1 and c.penalize and c.verdict ~= 3 then
      over = math.min(c.cost, c.full - l.is.used(l))
    end
    if over > 0 then
      l.is.add(l, over)
      c.charged, l.dirty = over, true
    end
  end
end

for _, c in ipairs(limits) do
  if c[1].moved and c.cost > 0 and not c.peek then
    c[1].dirty = true
  end
end

if denied == 1 and mode ~= 'each' then
  granted = 0
end
local answer = {0, denied, granted}
for _, c in ipairs(limits) do
  answer[#answer + 1] = c.verdict
  answer[#answer + 1] = c.charged
  c[1].full = c.full
  tell(answer, c[1], c.verdict ~= 1 and (mode == 'partial' and math.min(c.cost, 1) or c.cost) or nil)
end
for _, l in pairs(usage) do
  if l.dirty then
    save(l)
  end
end

if record and denied == 0 then
  local lines = {request}
  local told = {}
  for i, n in ipairs(answer) do
    told[i] = digits(n)
  end
  lines[2] = table.concat(told, ' ')
  for i, c in ipairs(limits) do
    local first, second, third = c[1].is.mark(c[1])
    lines[#lines + 1] = table.concat({
      digits(c.verdict), digits(c.charged), digits(first), digits(second), digits(third),
      ARGV[c.a], ARGV[c.a + 1], ARGV[c.a + 2], ARGV[c.a + 3], ARGV[c.a + 4],
    }, ',')
  end
  redis.call('SET', record, table.concat(lines, '\n'), 'PX', keep)
end
return answer
