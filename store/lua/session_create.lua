-- Writes a new session.
-- KEYS: 1 the record, 2 the attributes, and unless it is anonymous 3 the subject, 4 the subject's index
-- ARGV: 1 session id, 2 subject, 3 subject hash ('': anonymous), 4 hash of the secret, 5 salt, 6 idle timeout and
--       7 absolute timeout in milliseconds, 8 ip, 9 user agent, 10 label, then name and value of each attribute
-- RETURNS: the time of creation in milliseconds, or 0 if the record exists

local record, attributes, subject_key, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, subject, subject_hash, secret_hash, salt = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local idle, absolute_timeout, ip, user_agent, label = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local first_attribute = 11

if redis.call('EXISTS', record) == 1 then
  return 0
end
local now = now_ms()
local absolute = now + absolute_timeout
local epoch = now
if subject_hash ~= '' then
  epoch = math.max(epoch, tonumber(redis.call('HGET', subject_key, 'ep') or '0'))
end

redis.call('HSET', record, 'sub', subject, 'sh', subject_hash, 'h', secret_hash, 'salt', salt,
  'ct', ms(now), 'la', ms(now), 'idle', ms(idle), 'abs', ms(absolute), 'ep', ms(epoch), 'v', '1',
  'ip', ip, 'ua', user_agent, 'label', label)
local expires = math.min(absolute, now + idle)
redis.call('PEXPIREAT', record, ms(expires + RETAIN))
if #ARGV >= first_attribute then
  for i = first_attribute, #ARGV, 2 do
    redis.call('HSET', attributes, ARGV[i], ARGV[i + 1])
  end
  redis.call('PEXPIREAT', attributes, ms(absolute + RETAIN))
end
if subject_hash ~= '' then
  redis.call('ZREMRANGEBYSCORE', index, '-inf', ms(now))
  redis.call('ZADD', index, ms(expires), id)
  if redis.call('PTTL', index) < absolute + RETAIN - now then
    redis.call('PEXPIREAT', index, ms(absolute + RETAIN))
  end
end
return now
