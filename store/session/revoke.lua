-- Revokes one session.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token
-- RETURNS: 1 if the session was active, else 0

local record, events = KEYS[1], KEYS[3]
local namespace, id, subject_prefix, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[5]

local now = now_ms()
local s = active(record, subject_prefix, now, proof)
if not s or not authorized(s, proof, now) then
  return 0
end
remove(s)
emit(events, now, 'revoked', namespace, id, s.subject, {'reason', 'revoked'})
return 1
