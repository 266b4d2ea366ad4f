-- Removes whatever a key holds, and revokes its lease. Both are one step, so that no lease is given between them.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: none
-- RETURNS: 1 if the key held something, else 0

local key, lease = KEYS[1], KEYS[2]

redis.call('UNLINK', lease)
return redis.call('UNLINK', key)
