-- Gives a lease back.
-- KEYS: 1 the lease
-- ARGV: 1 the lease, as lease.lua returned it, 2 how long new leases are held back in milliseconds (0: not at all)
-- RETURNS: 1 if the lease was held, else 0

local lease = KEYS[1]
local own, px = ARGV[1], ARGV[2]

if redis.call('GET', lease) ~= own then
  return 0
end
if px == '0' then
  redis.call('UNLINK', lease)
else
  redis.call('SET', lease, 'held', 'PX', px)
end
return 1
