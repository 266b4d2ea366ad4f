-- Reads a token and what its state says of it at one moment.
-- KEYS: 1 token, then the state if it was asked for
-- ARGV: 1 id, 2 prefix of states
-- RETURNS: {values of the record's fields k, sub, pu, h, bd, exp, att, max, us, left, ct; values of the state's fields for the token,
--          f, fu and st; the time in milliseconds, 0 if it cannot be told}

local f = redis.call('HMGET', KEYS[1], 'k', 'sub', 'pu', 'h', 'bd', 'exp', 'att', 'max', 'us', 'left', 'ct', 'sh')
if not f[1] then
  return {{}, {}, '0'}
end
local state_key = state_key_of(ARGV[2], f[12], f[3])
local ask = elsewhere({state_key})
if ask then
  return ask
end
-- The embedded store refuses TIME in read-only scripts.
local time = redis.pcall('TIME')
local now = time.err and '0' or ms(time[1] * 1000 + math.floor(time[2] / 1000))
return {f, redis.call('HMGET', state_key, open_field(ARGV[1]), 'f', 'fu', 'st'), now}
