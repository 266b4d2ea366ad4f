-- Revokes one session. One that is being promoted is revoked as well, and the promotion with it.
-- KEYS: 1-4 as in common.lua, if the request can be repeated also 5 its answer
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 '1' if the request can be repeated
-- RETURNS: {1 if this request has ended the session, now or before, else 0; id of the session that it was being promoted to, which
--          may exist already ('': none)}

local events, request = KEYS[3], ARGV[6] == '1' and KEYS[5] or nil
local namespace, id, subject_prefix, proof = ARGV[1], ARGV[2], ARGV[3], ARGV[5]

local before = answered(request)
if before then
  return {1, before}
end
local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
s = unrevoked(s, subject_prefix)
if not s or now >= expires_at(s) or not authorized(s, proof, now) then
  return {0, ''}
end
remove(s)
emit(events, now, 'revoked', namespace, id, s.subject, {'reason', 'revoked'})
answer(request, s.promoted_to)
return {1, s.promoted_to}
