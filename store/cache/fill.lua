-- Writes a value that was loaded under a lease, if the lease is still held, the key has not been written since it was given, and its
-- fence holds.
-- KEYS: 1 the entry, 2 its lease, 3 its fences, if there is a fence
-- ARGV: 1 the lease, as lease.lua returned it, 2 the bytes to store, 3 time to live in milliseconds (0: never expires),
--       4 '1' if the loaded value is known to be invalidated, else '0',
--       5 the lock of the fence ('': none), 6 its token, 7 '1' if its holder has the lock
-- RETURNS: 1 written, 0 the lease has expired, -1 the lease was revoked or the value is invalidated, -2 another caller has
--          written the key, FENCED or FENCE_UNKNOWN

local key, lease, fences = KEYS[1], KEYS[2], KEYS[3]
local own, bytes, px, invalidated = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local lock, token, vouched = ARGV[5], ARGV[6], ARGV[7]
local ends, seen = string.sub(own, 25, 32), string.sub(own, 33)

local refused = check_fence(fences, lock, token, vouched)
if refused then
  if refused == FENCED and redis.call('GET', lease) == own then
    redis.call('UNLINK', lease)
  end
  return refused
end
local superseded = not is_at(key, '') and (seen == '' or not is_at(key, seen))
local held = redis.call('GET', lease) == own
if superseded then
  if held then
    redis.call('UNLINK', lease)
  end
  return -2
end
if not held then
  if now_us() >= decode_time(ends) then
    return 0
  end
  return -1
end
if invalidated == '1' then
  redis.call('UNLINK', lease)
  return -1
end
local full = room_for_fence(fences, lock)
if full then
  return full
end
-- The entry first: if Redis has no memory left it refuses the first write of a script and none after that.
if px == '0' then
  redis.call('SET', key, bytes)
else
  redis.call('SET', key, bytes, 'PX', px)
end
redis.call('UNLINK', lease)
remember_fence(fences, lock, token)
return 1
