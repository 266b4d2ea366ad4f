-- Claims an identifier once, or a number that must be greater than every one before. The claims of a partition are in one sorted
-- set, and the numbers in one hash, so that Redis evicts all or none of them. A key without expiry says until when there are
-- claims: if they are gone before that, they were evicted, and nothing can be claimed until they would have ended.
-- KEYS: 1 claims, by when they end, 2 numbers, 3 until when there are any, 4 answer to the request (the same as 3: it cannot be
--       repeated)
-- ARGV: 1 identifier, 2 ttl in milliseconds, 3 the number in 19 digits ('': an identifier is claimed)
-- RETURNS: {'claimed', 'refused' or 'uncertain'; greatest number; milliseconds until the claims that were evicted would have ended}

local claims, numbers, bounds = KEYS[1], KEYS[2], KEYS[3]
local member, ttl, number = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local request = KEYS[4] ~= KEYS[3] and KEYS[4] or nil

-- How many claims that have ended are removed for each new one.
local TRIM = 8

local now = now_ms()
if answered(request) then
  return {'claimed', number, 0}
end
local bound = redis.call('HMGET', bounds, 'claims', 'numbers')
local claims_until, numbers_until = tonumber(bound[1] or '0'), tonumber(bound[2] or '0')
if not bound[1] and redis.call('PTTL', claims) > 0 then
  -- Redis has evicted the bounds alone: none of the claims must end sooner.
  claims_until = now + redis.call('PTTL', claims)
  redis.call('HSET', bounds, 'claims', ms(claims_until))
  if redis.call('PTTL', numbers) > 0 then
    numbers_until = now + redis.call('PTTL', numbers)
    redis.call('HSET', bounds, 'numbers', ms(numbers_until))
  end
end
if claims_until > now and redis.call('EXISTS', claims) == 0 then
  return {'uncertain', '', claims_until - now}
end
if number ~= '' and numbers_until > now and redis.call('EXISTS', numbers) == 0 then
  return {'uncertain', '', numbers_until - now}
end
local ends = tonumber(redis.call('ZSCORE', claims, member) or '0')
if number == '' and ends > now then
  return {'refused', '', 0}
end
local last = number ~= '' and ends > now and redis.call('HGET', numbers, member)
if last and number <= last then
  return {'refused', last, 0}
end
if number ~= '' and ends > now and not last then
  return {'uncertain', '', ends - now} -- its number was evicted
end
local over = redis.call('ZRANGEBYSCORE', claims, '-inf', ms(now), 'LIMIT', 0, TRIM)
if #over > 0 then
  redis.call('ZREM', claims, unpack(over))
  redis.call('HDEL', numbers, unpack(over))
end
local expires = math.max(now + ttl, ends)
redis.call('ZADD', claims, ms(expires), member)
if number ~= '' then
  redis.call('HSET', numbers, member, number)
  if expires > numbers_until then
    redis.call('HSET', bounds, 'numbers', ms(expires))
    redis.call('PEXPIREAT', numbers, ms(expires))
  elseif numbers_until > 0 then
    redis.call('PEXPIREAT', numbers, ms(numbers_until))
  end
end
if expires > claims_until then
  redis.call('HSET', bounds, 'claims', ms(expires))
  redis.call('PEXPIREAT', claims, ms(expires))
elseif claims_until > 0 then
  redis.call('PEXPIREAT', claims, ms(claims_until))
end
answer(request, 'claimed')
return {'claimed', number, 0}
