-- Completes the promotion of an anonymous session: removes it, once the session that replaces it exists, and keeps for a while
-- what a repeated call needs. If that session was refused, it makes the anonymous session active again. It completes nothing if
-- the anonymous session was revoked since the promotion began, or is active again because that took too long: then the caller
-- must revoke the session that was to replace it.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 id of the new session, 6 how long to keep the promotion in milliseconds (0: it was refused)
-- RETURNS: 1 if it is done, by this call or before, else 0

local record, attributes, events, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local namespace, id, to, window = ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[6])

local now = now_ms()
local s = load(record)
if not s or s.promoted_to ~= to then
  return 0
end
if s.promoted then
  return 1
end
if window == 0 then
  redis.call('HDEL', record, 'to', 'to_salt', 'to_sh', 'to_at', 'to_until')
  return 1
end
if not promoting(s, now) then
  return 0
end
redis.call('HSET', record, 'to_done', '1')
redis.call('PEXPIREAT', record, ms(now + window))
redis.call('DEL', attributes)
redis.call('ZREM', ends, namespace .. ':' .. id)
emit(events, now, 'revoked', namespace, id, '', {'reason', 'promoted', 'to', to})
return 1
