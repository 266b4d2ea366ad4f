-- Gives the lease of a key, if nobody holds it and the key still holds the value that the caller has read.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 the etag that the caller has read ('': nothing), 2 16 random bytes, 3 the lease's duration in milliseconds,
--       4 a time that the fastest clock of the servers has reached, in microseconds
-- RETURNS: {1 given; the lease}, {0 held by another caller, or held back; the remaining time in milliseconds},
--          {-1 the key holds another value; ''}
--
-- A lease is a string: the random bytes, the time at which it was given and the time at which it ends in 8 bytes each, and the
-- etag read. The first time is that of the fastest clock if this server's is behind, so that it is after every invalidation that
-- was acknowledged.
-- While leases are held back it is the text 'held'.

local key, lease = KEYS[1], KEYS[2]
local seen, random, px, reached = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local pttl = redis.call('PTTL', lease)
if pttl >= 0 then
  return {0, string.format('%.0f', pttl)}
end
if not is_at(key, seen) then
  return {-1, ''}
end
local now = now_us()
local given = random .. encode_time(math.max(now, reached)) .. encode_time(now + px * 1000) .. seen
redis.call('SET', lease, given, 'PX', px)
return {1, given}
