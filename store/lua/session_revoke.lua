-- Ends one session.
-- KEYS: 1-4 see session.lua
-- ARGV: 1-4 see session.lua, 5 hash of the presented secret ('': by id)
-- RETURNS: 1 if it was active, else 0

local record, attributes, events, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local namespace, id, subject_prefix, index_prefix, secret_hash = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local now = now_ms()
local s = active(record, subject_prefix, now)
if s and secret_hash ~= '' and secret_hash ~= s.secret_hash then
  return 0
end
if not s then
  return 0
end
redis.call('DEL', record, attributes)
redis.call('ZREM', ends, namespace .. ':' .. id)
if s.subject_hash ~= '' then
  redis.call('ZREM', index_prefix .. s.subject_hash, id)
end
emit(events, now, 'revoked', namespace, id, s.subject, {'reason', 'revoked'})
return 1
