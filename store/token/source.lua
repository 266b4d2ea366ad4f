-- Counts an attempt of a source as failed, before it is made. Refund takes it back if it was no failure.
-- KEYS: 1 budget of the source
-- ARGV: 1 maximum failures in a window, 2 the window in milliseconds
-- RETURNS: {1 counted, 0 locked; the end of the window as text; milliseconds until then}

local max_failures, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = now_ms()
local f = redis.call('HMGET', KEYS[1], 'f', 'fu')
local failures, window_end = tonumber(f[1] or '0'), tonumber(f[2] or '0')
if now >= window_end then
  failures, window_end = 0, now + window
end
if failures >= max_failures then
  return {0, ms(window_end), window_end - now}
end
redis.call('HSET', KEYS[1], 'f', ms(failures + 1), 'fu', ms(window_end))
redis.call('PEXPIREAT', KEYS[1], ms(window_end))
return {1, ms(window_end), window_end - now}
