-- Reads a page of a subject's sessions in the order of their expiry, then of their ids. It is read-only.
-- KEYS: 1 device classes of the subject, 2 index of the subject, 3 subject, 4 index of the device class
-- ARGV: 1 device class ('': all), 2 expiry in milliseconds and 3 id of the last session of the page before, 4 maximum number of
--       sessions, 5 the caller's estimate of the time in milliseconds, 6 prefix of records, 7 of attributes, 8 of subject keys
-- RETURNS: {1 if there are more; for each session {id, expiry in milliseconds, device class, snapshot as read.lua returns it}}

local classes, index = KEYS[1], KEYS[2]
local class, after, after_id, count, now = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local record_prefix, attributes_prefix, subject_prefix = ARGV[6], ARGV[7], ARGV[8]

local listed, indexes = class == '' and classes_of(classes) or {class}, {}
for i, c in ipairs(listed) do
  indexes[i] = index_of(index, c)
end
local ask = elsewhere(indexes)
if ask then
  return ask
end

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
for i, c in ipairs(listed) do
  if after > now then
    look(indexes[i], c, ms(after), ms(after))
  end
  look(indexes[i], c, '(' .. ms(math.max(after, now)), '+inf', 'LIMIT', 0, count + 1)
end
table.sort(found, function(a, b)
  if a.ends ~= b.ends then
    return a.ends < b.ends
  end
  return a.id < b.id
end)

local keys, shown = {}, math.min(#found, count)
for i = 1, shown do
  local record = record_prefix .. found[i].id
  found[i].known = known(record)
  if not found[i].known[1] then
    keys[#keys + 1] = record
  elseif found[i].known[4] == '1' then
    keys[#keys + 1] = attributes_prefix .. found[i].id
  end
end
ask = elsewhere(keys)
if ask then
  return ask
end
-- A page ends early once it is large, which bounds the time that it takes: about 2 ms.
local PAGE_BYTES = 524288
local page, bytes = {#found > count and 1 or 0}, 0
for i = 1, shown do
  if bytes >= PAGE_BYTES then
    page[1] = 1
    break
  end
  local s = found[i]
  local snap = snapshot(record_prefix .. s.id, attributes_prefix .. s.id, subject_prefix, s.known)
  for part = 1, 2 do
    for _, text in ipairs(snap[part]) do
      bytes = bytes + #text
    end
  end
  page[i + 1] = {s.id, ms(s.ends), s.class, snap}
end
return page
