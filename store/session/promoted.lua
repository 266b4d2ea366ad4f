-- Completes the promotion of an anonymous session: removes it, once the session that replaces it exists, and keeps for a while
-- what a repeated call needs. If that session was refused, it makes the anonymous session active again.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 id of the new session, 6 how long to keep the promotion in milliseconds (0: it was refused)
-- RETURNS: 1, or 0 if there is no such promotion

local record, attributes, events, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local namespace, id, to, window = ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[6])

local f = redis.call('HMGET', record, 'to', 'to_done', 'h')
if not f[3] or f[2] or (f[1] or to) ~= to then
  return 0
end
if window == 0 then
  redis.call('HDEL', record, 'to', 'to_salt', 'to_sh', 'to_at')
  return 1
end
local now = now_ms()
redis.call('HSET', record, 'to', to, 'to_done', '1')
redis.call('PEXPIREAT', record, ms(now + window))
redis.call('DEL', attributes)
redis.call('ZREM', ends, namespace .. ':' .. id)
emit(events, now, 'revoked', namespace, id, '', {'reason', 'promoted', 'to', to})
return 1
