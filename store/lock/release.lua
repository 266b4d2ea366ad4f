-- Releases a lock.
-- KEYS: 1 the holders, 2 their records
-- ARGV: 1 holder id, 2 hash of the secret ('': the caller has shown that it made the request)
-- RETURNS: {1 if the caller had the lock, else 0; the time of Redis in us}

local holders, records = KEYS[1], KEYS[2]
local id, secret = ARGV[1], ARGV[2]

local now = now_us()
local record = redis.call('HGET', records, id)
if secret ~= '' and (not record or string.sub(record, SECRET_AT, NUMBERS_AT - 1) ~= secret) then
  return {0, digits(now)}
end
local had = ends_at(holders, id, now) and 1 or 0
redis.call('ZREM', holders, id)
redis.call('HDEL', records, id)
return {had, digits(now)}
