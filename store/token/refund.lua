-- Takes back an attempt of a source that was no failure, unless its window has ended.
-- KEYS: 1 budget of the source
-- ARGV: 1 end of the window as source.lua has returned it
-- RETURNS: 1 if it was taken back, else 0

local f = redis.call('HMGET', KEYS[1], 'f', 'fu')
local failures = tonumber(f[1] or '0')
if f[2] ~= ARGV[1] or failures <= 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'f', string.format('%.0f', failures - 1))
return 1
