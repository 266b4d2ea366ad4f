-- Supersedes the secret of a session. If the presented secret was superseded before and is still good, it changes nothing and
-- returns the salt from which the caller derives the same successor.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 salt and 7 proof of the successor, 8 rotation grace and 9 after
--       how long the presented secret counts as stolen, both in milliseconds
-- RETURNS: the session as read.lua returns it, or NOTHING if it is not active

local record, attributes, events = KEYS[1], KEYS[2], KEYS[3]
local namespace, id, subject_prefix = ARGV[1], ARGV[2], ARGV[3]
local proof, salt, successor = ARGV[5], ARGV[6], ARGV[7]
local grace, reuse_after = tonumber(ARGV[8]), tonumber(ARGV[9])

local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
s = active(s, attributes, subject_prefix, now)
local as = s and authorized(s, proof, now)
-- A caller that repeats a request repeats its salt: it gets the same successor, even without a grace.
local again = s and not as and string.sub(proof, 1, 32) == s.previous and salt == s.salt and redis.call('EXISTS', record) == 1
if not as and not again then
  return NOTHING
end
if as == 'current' then
  supersede(record, s, successor, salt, now, grace, reuse_after)
  emit(events, now, 'rotated', namespace, id, s.subject)
end
return snapshot(record, attributes, subject_prefix)
