-- Clears the failures and the cooldown of a subject and purpose. Its tokens stay open.
-- KEYS: 1 state, 2 events of the partition
-- ARGV: 1 namespace, 2 subject, 3 purpose
-- RETURNS: number of fields that were cleared

local cleared = redis.call('HDEL', KEYS[1], 'f', 'fu', 'st', 'n', 'ca')
if cleared > 0 then
  emit(KEYS[2], now_ms(), 'token_subject_reset', ARGV[1], '', ARGV[2], {'purpose', ARGV[3]})
end
return cleared
