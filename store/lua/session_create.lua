-- Writes a new session.
-- KEYS: 1-4 see session.lua, and unless it is anonymous 5 the subject, 6 the subject's index, 7 the mark of a promotion
-- ARGV: 1-4 see session.lua, 5 subject, 6 subject hash ('': anonymous), 7 hash of the secret, 8 idle timeout and
--       9 absolute timeout in milliseconds, 10 ip, 11 user agent, 12 label, 13 level of assurance, 14 methods of
--       authentication, 15 when that was in milliseconds ('': now), 16 id of the anonymous session that is promoted
--       ('': none), 17 how long to remember that in milliseconds, then name and value of each attribute
-- RETURNS: the time of creation in milliseconds, or 0 if the record exists or its promotion was done before

local record, attributes, events, ends, subject_key, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local namespace, id = ARGV[1], ARGV[2]
local subject, subject_hash, secret_hash = ARGV[5], ARGV[6], ARGV[7]
local idle, absolute_timeout, ip, user_agent, label = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
local aal, methods, authenticated, from, window = ARGV[13], ARGV[14], ARGV[15], ARGV[16], ARGV[17]
local promotion = KEYS[7]
local first_attribute = 18

if redis.call('EXISTS', record) == 1 then
  return 0
end
-- A session that was made by a promotion and ended since is not made again by a late retry.
if from ~= '' and not redis.call('SET', promotion, '', 'NX', 'PX', window) then
  return 0
end
local now = now_ms()
local absolute = now + absolute_timeout
local epoch = now
if subject_hash ~= '' then
  epoch = math.max(epoch, tonumber(redis.call('HGET', subject_key, 'ep') or '0'))
end

redis.call('HSET', record, 'sub', subject, 'sh', subject_hash, 'h', secret_hash,
  'ct', ms(now), 'la', ms(now), 'idle', ms(idle), 'abs', ms(absolute), 'ep', ms(epoch), 'v', '1',
  'ip', ip, 'ua', user_agent, 'label', label)
if subject_hash ~= '' then
  redis.call('HSET', record, 'aal', aal, 'amr', methods, 'at', authenticated == '' and ms(now) or authenticated)
end
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
ends_at(ends, namespace, id, nil, expires)
if from == '' then
  emit(events, now, 'created', namespace, id, subject)
else
  emit(events, now, 'promoted', namespace, id, subject, {'from', from})
end
return now
