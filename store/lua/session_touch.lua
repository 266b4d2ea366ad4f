-- Records activity of a session, at most once per interval.
-- KEYS: 1 the record
-- ARGV: 1 session id, 2 prefix of subject keys, 3 prefix of indexes, 4 interval in milliseconds (0: in any case)
-- RETURNS: the time of the last activity in milliseconds, or 0 if the session has ended

local record = KEYS[1]
local id, subject_prefix, index_prefix, interval = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

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
if s.subject_hash ~= '' then
  redis.call('ZADD', index_prefix .. s.subject_hash, 'XX', ms(expires), id)
end
return now
