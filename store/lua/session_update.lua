-- Changes attributes of an active session, each by itself.
-- KEYS: 1 the record, 2 the attributes
-- ARGV: 1 prefix of subject keys, 2 hash of the presented secret ('': by id), 3 expected version (0: any), 4 most
--       attributes and 5 most bytes of names and values allowed afterwards, 6 number of attributes to set, then name and
--       value of each, then names to delete
-- RETURNS: the new version, or 0 if the session has ended

local record, attributes = KEYS[1], KEYS[2]
local subject_prefix, secret_hash, expected = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most, most_bytes, sets = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local first_delete = 7 + 2 * sets

local s = active(record, subject_prefix, now_ms())
if not s or (secret_hash ~= '' and secret_hash ~= s.secret_hash) then
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
for i = 7, first_delete - 1, 2 do
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

for i = 7, first_delete - 1, 2 do
  redis.call('HSET', attributes, ARGV[i], ARGV[i + 1])
end
for i = first_delete, #ARGV do
  redis.call('HDEL', attributes, ARGV[i])
end
redis.call('PEXPIREAT', attributes, ms(s.absolute + RETAIN))
redis.call('HSET', record, 'v', ms(s.version + 1))
return s.version + 1
