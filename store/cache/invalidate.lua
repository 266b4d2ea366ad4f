-- Records that a tag was invalidated, or a namespace cleared. A mark holds two times: entries as of the first or before
-- are gone, those as of the second or before are stale.
-- KEYS: 1 the mark
-- ARGV: 1 mode (delete, stale), 2 how long the mark is kept at least in milliseconds (0: for ever)
-- RETURNS: the time of the invalidation in microseconds

local mark = KEYS[1]
local mode, px = ARGV[1], tonumber(ARGV[2])

local deleted, stale = string.rep('\0', 8), string.rep('\0', 8)
local before = redis.call('GET', mark)
if before and #before == 16 then
  deleted, stale = string.sub(before, 1, 8), string.sub(before, 9, 16)
end
local now = now_us()
local at = encode_time(now)
if mode == 'delete' then
  deleted = deleted > at and deleted or at
else
  stale = stale > at and stale or at
end
if px == 0 then
  redis.call('SET', mark, deleted .. stale)
else
  redis.call('SET', mark, deleted .. stale, 'PX', string.format('%.0f', math.max(px, redis.call('PTTL', mark))))
end
return string.format('%.0f', now)
