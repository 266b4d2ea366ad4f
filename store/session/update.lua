-- Changes attributes of an active session, all or none. Writing the value that an attribute already has is no change.
-- KEYS: 1-4 as in common.lua, to increment also 5 a key to compute sums in, which is gone when the script ends
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 expected version (0:
--       any), 7 maximum number of attributes and 8 maximum bytes of their names and values, 9 number of attributes to set, 10 to
--       set if absent, 11 to increment, then name and value of each, then names to delete
-- RETURNS: {1 done, 0 not active, 2 another version; the version afterwards; the sums; for each attribute to set if absent 1 if
--          it was set, else 0}

local record, attributes, events, scratch = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
local namespace, id, subject_prefix, proof, expected = ARGV[1], ARGV[2], ARGV[3], ARGV[5], tonumber(ARGV[6])
local max_attributes, max_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local first_set = 12
local first_absent = first_set + 2 * tonumber(ARGV[9])
local first_sum = first_absent + 2 * tonumber(ARGV[10])
local first_delete = first_sum + 2 * tonumber(ARGV[11])

local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
s = active(s, attributes, subject_prefix, now)
if not s or not authorized(s, proof, now) then
  return {0, 0, {}, {}}
end
if expected ~= 0 and expected ~= s.version then
  return {2, s.version, {}, {}}
end

-- add returns the sum as text, or an error reply as a table. Redis adds: Lua's numbers are exact up to 2^53 only.
local function add(value, delta)
  if not (string.match(value, '^%-?[1-9]%d*$') or value == '0') then
    return redis.error_reply('LARDER_NOT_COUNTER not an integer')
  end
  redis.call('SET', scratch, value)
  local added = redis.pcall('INCRBY', scratch, delta)
  local sum = redis.call('GET', scratch)
  redis.call('DEL', scratch)
  if type(added) ~= 'table' then
    return sum
  end
  if string.find(added.err, 'overflow') then
    return redis.error_reply('LARDER_OVERFLOW beyond 64 bits')
  end
  return redis.error_reply('LARDER_NOT_COUNTER not an integer of 64 bits')
end

local before, after = {}, {}
local stored = redis.call('HGETALL', attributes)
for i = 1, #stored, 2 do
  before[stored[i]], after[stored[i]] = stored[i + 1], stored[i + 1]
end
local sums, applied = {}, {}
for i = first_set, first_absent - 1, 2 do
  after[ARGV[i]] = ARGV[i + 1]
end
for i = first_absent, first_sum - 1, 2 do
  local absent = before[ARGV[i]] == nil
  if absent then
    after[ARGV[i]] = ARGV[i + 1]
  end
  applied[#applied + 1] = absent and 1 or 0
end
for i = first_sum, first_delete - 1, 2 do
  local sum = add(before[ARGV[i]] or '0', ARGV[i + 1])
  if type(sum) == 'table' then
    return sum
  end
  after[ARGV[i]] = sum
  sums[#sums + 1] = sum
end
for i = first_delete, #ARGV do
  after[ARGV[i]] = nil
end

-- size returns the length of a value before encryption; docs/redis.md shows the layout of encrypted values.
local function size(value)
  if string.sub(value, 1, 4) == '\193LE\1' then
    return #value - 33 - string.byte(value, 5)
  end
  return #value
end

local count, bytes, set, delete = 0, 0, {}, {}
for name, value in pairs(after) do
  count, bytes = count + 1, bytes + #name + size(value)
  if value ~= before[name] then
    set[#set + 1], set[#set + 2] = name, value
  end
end
for name in pairs(before) do
  if after[name] == nil then
    delete[#delete + 1] = name
  end
end
if count > max_attributes or bytes > max_bytes then
  return redis.error_reply('LARDER_TOO_MANY_ATTRIBUTES over the limit')
end
if #set + #delete == 0 then
  return {1, s.version, sums, applied}
end

if #set > 0 then
  redis.call('HSET', attributes, unpack(set))
end
if #delete > 0 then
  redis.call('HDEL', attributes, unpack(delete))
end
redis.call('PEXPIREAT', attributes, ms(s.absolute + RETAIN))
redis.call('HSET', record, 'v', ms(s.version + 1), 'da', count > 0 and '1' or '0')
emit(events, now, 'attributes_changed', namespace, id, s.subject)
return {1, s.version + 1, sums, applied}
