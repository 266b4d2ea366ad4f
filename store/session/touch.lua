-- Records that a secret was presented: that the current secret has reached its holder, and activity, at most once per interval.
-- A stolen secret ends the session.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 interval in milliseconds (0: always, -1: no
--       activity)
-- RETURNS: the last recorded activity in milliseconds, or 0 if the session is not active or the secret is not good

local record, attributes, ends = KEYS[1], KEYS[2], KEYS[4]
local namespace, id, subject_prefix, index_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local proof, interval = ARGV[5], tonumber(ARGV[6])

local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
s = active(s, attributes, subject_prefix, now)
local as = s and authorized(s, proof, now)
if not as then
  return 0
end
if interval < 0 or now - s.last_active < interval or now <= s.last_active then
  return s.last_active
end
s.last_active = now
redis.call('HSET', record, 'la', ms(now))
local expires = expires_at(s)
redis.call('PEXPIREAT', record, ms(expires + RETAIN))
ends_at(ends, namespace, id, s.subject_hash ~= '' and index_of(index_prefix .. s.subject_hash, s.class), expires)
return now
