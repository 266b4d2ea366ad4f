-- Gives the caller the lease of the sweeper, unless somebody has it.
-- KEYS: 1 the lease
-- ARGV: 1 its duration in milliseconds
-- RETURNS: {1 if the caller got it, else 0; how long it lasts in milliseconds}

local lease, duration = KEYS[1], ARGV[1]

local got = redis.call('SET', lease, '1', 'NX', 'PX', duration) and 1 or 0
return {got, redis.call('PTTL', lease)}
