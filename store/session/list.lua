-- Reads a page of a subject's sessions in the order of their expiry, then of their ids. It is read-only.
-- KEYS: 1 device classes of the subject
-- ARGV: 1 index of the subject, 2 device class ('': all), 3 expiry in milliseconds and 4 id of the last session of the page
--       before, 5 maximum number of sessions, 6 the caller's estimate of the time in milliseconds, 7 prefix of records, 8 of
--       attributes, 9 of subject keys
-- RETURNS: {1 if there are more; for each session {id, expiry in milliseconds, device class, snapshot as read.lua returns it}}

local classes = KEYS[1]
local index, class, after, after_id, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local now, record_prefix, attributes_prefix, subject_prefix = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]

local found = {}
local function look(key, c, from, to, ...)
  local scored = redis.call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES', ...)
  for i = 1, #scored, 2 do
    local ends = tonumber(scored[i + 1])
    if ends > after or scored[i] > after_id then
      found[#found + 1] = {id = scored[i], ends = ends, class = c}
    end
  end
end

-- First the sessions with the same expiry as the last one of the page before, then those that expire later. A page begins at
-- an expiry and not at a rank: a session only ever moves to a later expiry, so the pages may repeat it but leave out none.
for _, c in ipairs(class == '' and classes_of(classes) or {class}) do
  local key = index_of(index, c)
  if after > now then
    look(key, c, ms(after), ms(after))
  end
  look(key, c, '(' .. ms(math.max(after, now)), '+inf', 'LIMIT', 0, count + 1)
end
table.sort(found, function(a, b)
  if a.ends ~= b.ends then
    return a.ends < b.ends
  end
  return a.id < b.id
end)

local page = {#found > count and 1 or 0}
for i = 1, math.min(#found, count) do
  local s = found[i]
  page[i + 1] = {s.id, ms(s.ends), s.class, snapshot(record_prefix .. s.id, attributes_prefix .. s.id, subject_prefix)}
end
return page
