-- Records the invalidation of a tag or a namespace. An invalidation is two times of 8 bytes: entries as of the first or earlier
-- are gone, entries as of the second or earlier are stale.
-- KEYS: 1 the invalidation
-- ARGV: 1 mode (delete, stale), 2 minimum time for which the invalidation is kept in milliseconds (0: never expires),
--       3 a time that no clock of the servers has passed yet, in microseconds: entries elsewhere are as of that time or earlier
-- RETURNS: the time of the invalidation in microseconds

local invalidation = KEYS[1]
local mode, px, latest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local deleted, stale = NO_TIME, NO_TIME
local before = redis.call('GET', invalidation)
if before and #before == 16 then
  deleted, stale = string.sub(before, 1, 8), string.sub(before, 9, 16)
end
local time = math.max(now_us(), latest)
local at = encode_time(time)
if mode == 'delete' then
  deleted = deleted > at and deleted or at
else
  stale = stale > at and stale or at
end
if px == 0 then
  redis.call('SET', invalidation, deleted .. stale)
else
  px = math.max(px, redis.call('PTTL', invalidation))
  redis.call('SET', invalidation, deleted .. stale, 'PX', string.format('%.0f', px))
end
return string.format('%.0f', time)
