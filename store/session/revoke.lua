-- Ends one session.
-- KEYS: 1-4 see session.lua
-- ARGV: 1-4 see session.lua, 5 hash of the presented secret ('': by id)
-- RETURNS: 1 if it was active, else 0

local record, events = KEYS[1], KEYS[3]
local namespace, id, subject_prefix, secret_hash = ARGV[1], ARGV[2], ARGV[3], ARGV[5]

local now = now_ms()
local s = active(record, subject_prefix, now)
if not s or not authorized(s, secret_hash, now) then
  return 0
end
remove(s)
emit(events, now, 'revoked', namespace, id, s.subject, {'reason', 'revoked'})
return 1
