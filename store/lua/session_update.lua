-- Changes attributes of an active session, each by itself.
-- KEYS: 1-4 see session.lua
-- ARGV: 1-4 see session.lua, 5 hash of the presented secret ('': by id), 6 expected version (0: any), 7 most attributes
--       and 8 most bytes of names and values allowed afterwards, 9 number of attributes to set, then name and value of
--       each, then names to delete
-- RETURNS: the new version, or 0 if the session has ended

local record, attributes, events = KEYS[1], KEYS[2], KEYS[3]
local namespace, id, subject_prefix, secret_hash, expected = ARGV[1], ARGV[2], ARGV[3], ARGV[5], tonumber(ARGV[6])
local most, most_bytes, sets = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local first_set, first_delete = 10, 10 + 2 * sets

local now = now_ms()
local s = active(record, subject_prefix, now)
if not s or not authorized(s, secret_hash, now) then
  return 0
end
if expected ~= 0 and expected ~= s.version then
  return redis.error_reply('LARDER_VERSION_MISMATCH another version')
end

local after, count, bytes = {}, 0, 0
local stored = redis.call('HGETALL', attributes)
for i = 1, #stored, 2 do
  after[stored[i]] = stored[i + 1]
end
for i = first_set, first_delete - 1, 2 do
  after[ARGV[i]] = ARGV[i + 1]
end
for i = first_delete, #ARGV do
  after[ARGV[i]] = nil
end
for name, value in pairs(after) do
  count, bytes = count + 1, bytes + #name + #value
end
if count > most or bytes > most_bytes then
  return redis.error_reply('LARDER_TOO_MANY_ATTRIBUTES over the limit')
end

for i = first_set, first_delete - 1, 2 do
  redis.call('HSET', attributes, ARGV[i], ARGV[i + 1])
end
for i = first_delete, #ARGV do
  redis.call('HDEL', attributes, ARGV[i])
end
redis.call('PEXPIREAT', attributes, ms(s.absolute + RETAIN))
redis.call('HSET', record, 'v', ms(s.version + 1))
emit(events, now, 'attributes_changed', namespace, id, s.subject)
return s.version + 1
