-- Prolongs a lock; never shortens it.
-- KEYS: 1 the holders, 2 their records
-- ARGV: 1 holder id, 2 hash of the secret, 3 ttl in milliseconds (0: that of the record)
-- RETURNS: {1; us until it ends; its record; when it ends (us)}, or {0} if the caller does not have the lock

local holders, records = KEYS[1], KEYS[2]
local id, secret, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local now = now_us()
local ends = ends_at(holders, id, now)
local record = ends and redis.call('HGET', records, id)
if not record or string.sub(record, SECRET_AT, NUMBERS_AT - 1) ~= secret then
  return {0}
end
if ttl == 0 then
  local _, _, given = numbers(record)
  ttl = given
end
if now + ttl * 1000 > ends then
  ends = now + ttl * 1000
  redis.call('ZADD', holders, digits(ends), id)
  keep(holders, records)
end
return {1, digits(ends - now), record, digits(ends)}
