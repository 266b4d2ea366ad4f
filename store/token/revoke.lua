-- Revokes one token: its state no longer lists it.
-- KEYS: 1 token, 2 events of the partition, 3 answer to the request (the same as 2: it cannot be repeated), then the state if it was
--       asked for
-- ARGV: 1 namespace, 2 id, 3 prefix of states
-- RETURNS: 1 if the token was open, else 0

local request = KEYS[3] ~= KEYS[2] and KEYS[3] or nil
local before = answered(request)
if before then
  return tonumber(before)
end
local t = load_token(KEYS[1])
if not t then
  return 0
end
local state_key = state_key_of(ARGV[3], t.subject_hash, t.purpose)
local ask = elsewhere({state_key})
if ask then
  return ask
end
local now = now_ms()
local open = redis.call('HDEL', state_key, open_field(ARGV[2]))
if open == 1 and now >= t.expires then
  open = 0
end
if open == 1 then
  emit(KEYS[2], now, 'token_revoked', ARGV[1], '', t.subject, {'token', ARGV[2], 'purpose', t.purpose})
end
answer(request, ms(open))
return open
