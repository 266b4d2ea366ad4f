-- Ends one session.
-- KEYS: 1 the record, 2 the attributes
-- ARGV: 1 session id, 2 prefix of subject keys, 3 prefix of indexes, 4 hash of the presented secret ('': by id)
-- RETURNS: 1 if it was active, else 0

local record, attributes = KEYS[1], KEYS[2]
local id, subject_prefix, index_prefix, secret_hash = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local s = active(record, subject_prefix, now_ms())
if s and secret_hash ~= '' and secret_hash ~= s.secret_hash then
  return 0
end
redis.call('DEL', record, attributes)
if not s then
  return 0
end
if s.subject_hash ~= '' then
  redis.call('ZREM', index_prefix .. s.subject_hash, id)
end
return 1
