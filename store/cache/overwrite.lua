-- Writes an entry unconditionally and revokes the key's lease: an entry that expires before the lease no longer blocks a late
-- fill. Both are one step, so that no lease is given between them.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 the bytes to store, 2 time to live in milliseconds
-- RETURNS: 1

local key, lease = KEYS[1], KEYS[2]
local bytes, px = ARGV[1], ARGV[2]

redis.call('SET', key, bytes, 'PX', px)
redis.call('UNLINK', lease)
return 1
