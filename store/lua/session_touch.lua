-- Records activity of a session, at most once per interval.
-- KEYS: 1-4 see session.lua
-- ARGV: 1-4 see session.lua, 5 interval in milliseconds (0: in any case)
-- RETURNS: the time of the last activity in milliseconds, or 0 if the session has ended

local record, ends = KEYS[1], KEYS[4]
local namespace, id, subject_prefix, index_prefix, interval = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local now = now_ms()
local s = active(record, subject_prefix, now)
if not s then
  return 0
end
if now - s.last_active < interval or now <= s.last_active then
  return s.last_active
end
s.last_active = now
redis.call('HSET', record, 'la', ms(now))
local expires = expires_at(s)
redis.call('PEXPIREAT', record, ms(expires + RETAIN))
ends_at(ends, namespace, id, s.subject_hash ~= '' and index_prefix .. s.subject_hash, expires)
return now
