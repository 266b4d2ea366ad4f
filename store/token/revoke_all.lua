-- Revokes all tokens of a subject and purpose.
-- KEYS: 1 state, 2 events of the partition, 3 answer to the request (the same as 2: it cannot be repeated)
-- ARGV: 1 namespace, 2 subject, 3 purpose
-- RETURNS: number of tokens that were open

local request = KEYS[3] ~= KEYS[2] and KEYS[3] or nil
local before = answered(request)
if before then
  return tonumber(before)
end
local now, open, gone = now_ms(), 0, {}
for id, o in pairs(load_state(KEYS[1]).open) do
  gone[#gone + 1] = open_field(id)
  if now < o.expires then
    open = open + 1
  end
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
if open > 0 then
  emit(KEYS[2], now, 'token_revoked', ARGV[1], '', ARGV[2], {'purpose', ARGV[3]})
end
answer(request, ms(open))
return open
