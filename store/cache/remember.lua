-- Raises the time for which invalidations of tags are kept. It is forgotten when it was not raised for that time.
-- KEYS: 1 the time
-- ARGV: 1 the least time in milliseconds
-- RETURNS: the time in milliseconds

local memory = KEYS[1]
local px = ARGV[1]

local before = redis.call('GET', memory)
if before and tonumber(before) and tonumber(before) > tonumber(px) then
  return before
end
redis.call('SET', memory, px, 'PX', px)
return px
