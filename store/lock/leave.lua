-- Gives a ticket back.
-- KEYS: 1 the queue, 2 until when each ticket is kept
-- ARGV: 1 the ticket
-- RETURNS: 1 if there was one, else 0

local queue, kept = KEYS[1], KEYS[2]
local id = ARGV[1]

redis.call('ZREM', kept, id)
return redis.call('ZREM', queue, id)
