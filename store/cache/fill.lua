-- Writes what was loaded under a lease, if the lease is still held and nobody has written the key since it was given.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 the lease, 2 the bytes to store, 3 time to live in milliseconds (0: none), 4 '1' if what was loaded is known to be invalidated
-- RETURNS: 1 written, 0 the lease has expired, -1 it was revoked, -2 the key was written by somebody else

local key, lease = KEYS[1], KEYS[2]
local mine, bytes, px, invalidated = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local given, duration = string.sub(mine, 17, 24), string.sub(mine, 25, 32)
local seen = string.sub(mine, 33)

local etag = etag_at(key)
local superseded = etag ~= '' and etag ~= seen
local held = redis.call('GET', lease) == mine
if superseded then
  if held then
    redis.call('UNLINK', lease)
  end
  return -2
end
if not held then
  if now_us() >= decode_time(given) + decode_time(duration) * 1000 then
    return 0
  end
  return -1
end
redis.call('UNLINK', lease)
if invalidated == '1' then
  return -1
end
if px == '0' then
  redis.call('SET', key, bytes)
else
  redis.call('SET', key, bytes, 'PX', px)
end
return 1
