-- Acquires a lock, or one of several permits, if there is one; returns the same grant again to the same holder; otherwise, and
-- if the caller waits fairly, takes or keeps a ticket in the queue.
-- KEYS: 1 the holders, 2 their records, 3 the highest fencing token, 4 the queue: tickets scored by their order, 5 until when
--       each ticket is kept (us)
-- ARGV: 1 holder id, also the name of the ticket, 2 16 bytes of salt, 3 16 bytes of the hash of the secret, 4 ttl in
--       milliseconds, 5 permits, 6 what to do with the caller's ticket if others have the lock: '1' to take or keep it, '2' to give
--       it back, '0' for neither, 7 how long a ticket is kept in milliseconds, 8 maximum number of tickets, 9 owner, 10 metadata,
--       11 how long the highest fencing token is kept after its own time, in milliseconds
-- RETURNS: {1 the caller has the lock; us until it ends; its record; when it ends (us)},
--          {0 others have it or come first; us until the first of them ends; the record of that holder, '' for none; number of
--           holders; order of the caller's ticket, 0 for none},
--          {-1 there are too many tickets}

local holders, records, counter, queue, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, salt, secret, ttl, permits = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local place, ticket_ms, most = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local owner, metadata, memory = ARGV[9], ARGV[10], tonumber(ARGV[11])

-- A step removes at most this many leftovers.
local STEP = 100

local now = now_us()
local ends = ends_at(holders, id, now)
if ends then
  local record = redis.call('HGET', records, id)
  if record then
    return {1, digits(ends - now), record, digits(ends)}
  end
end

-- Tickets count while somebody keeps them.
local waiting = redis.call('ZCARD', queue)
if waiting > 0 then
  local left = redis.call('ZRANGEBYSCORE', kept, '-inf', digits(now), 'LIMIT', 0, STEP)
  if #left > 0 then
    redis.call('ZREM', queue, unpack(left))
    redis.call('ZREM', kept, unpack(left))
  end
  waiting = redis.call('ZCARD', queue)
  if waiting ~= redis.call('ZCARD', kept) then -- Redis has evicted one of the keys
    redis.call('DEL', queue, kept)
    waiting = 0
  end
end
local before = waiting > 0 and redis.call('ZRANK', queue, id) or waiting
local having = live(holders, now)

if having + before >= permits then
  local order = 0
  if place == '2' then
    redis.call('ZREM', queue, id)
    redis.call('ZREM', kept, id)
  elseif place == '1' then
    order = tonumber(waiting > 0 and redis.call('ZSCORE', queue, id) or 0)
    if order == 0 then
      if waiting >= most then
        return {-1}
      end
      local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
      order = math.max(now, tonumber(last[2] or 0) + 1)
      redis.call('ZADD', queue, digits(order), id)
    end
    redis.call('ZADD', kept, digits(now + ticket_ms * 1000), id)
    redis.call('PEXPIRE', queue, 2 * ticket_ms)
    redis.call('PEXPIRE', kept, 2 * ticket_ms)
  end
  local of = first(holders, now, 1)
  if #of > 0 then
    return {0, digits(of[2] - now), redis.call('HGET', records, of[1]) or '', having, digits(order)}
  end
  of = redis.call('ZRANGE', kept, 0, 0, 'WITHSCORES')
  return {0, digits(math.max((of[2] or now) - now, 1000)), '', having, digits(order)}
end

-- The highest token is kept until the clock has passed it by far, so that no clock gives a lower one. It is written first: if
-- Redis has no memory left it refuses the first write of a script and none after that.
local token = math.max((tonumber(redis.call('GET', counter) or 0) or 0) + 1, now)
redis.call('SET', counter, digits(token), 'PX', digits(memory + math.ceil((token - now) / 1000)))
if waiting > 0 then
  redis.call('ZREM', queue, id)
  redis.call('ZREM', kept, id)
end
if having == 0 then
  redis.call('DEL', holders, records)
else
  local ended = redis.call('ZRANGEBYSCORE', holders, '-inf', digits(now), 'LIMIT', 0, STEP)
  if #ended > 0 then
    redis.call('ZREM', holders, unpack(ended))
    redis.call('HDEL', records, unpack(ended))
  end
end
local record = salt .. secret .. digits(token) .. ' ' .. digits(now) .. ' ' .. digits(ttl) .. ' ' .. #owner .. ' ' .. owner .. metadata
redis.call('ZADD', holders, digits(now + ttl * 1000), id)
redis.call('HSET', records, id, record)
keep(holders, records)
return {1, digits(ttl * 1000), record, digits(now + ttl * 1000)}
