-- Functions that the scripts of locks share; their text comes before each script's own.
--
-- The holders of a lock are members of a sorted set, scored by when they end in microseconds of Redis TIME. A member is a holder
-- id of 32 hexadecimal digits. The hash of records has a field of that name for each holder:
--   16 bytes  salt, from which the holder's secret was derived
--   16 bytes  hash of the secret
--   decimal numbers, each followed by a space: fencing token, time of acquisition (us), ttl (ms), length of the owner
--   the owner, and the metadata

local SECRET_AT = 17
local NUMBERS_AT = 33

-- now_us returns the time of Redis in microseconds.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- read_now is now_us for scripts that only read. The embedded store refuses TIME to them; clock is what it would answer.
local function read_now(clock)
  local time = redis.pcall('TIME')
  return time.err and tonumber(clock) or time[1] * 1000000 + time[2]
end

-- digits formats a whole number below 2^53.
local function digits(n)
  return string.format('%.0f', n)
end

-- numbers returns the fencing token, the time of acquisition and the ttl of a record.
local function numbers(record)
  local token, at, ttl = string.match(string.sub(record, NUMBERS_AT), '^(%d+) (%d+) (%d+) ')
  return tonumber(token), tonumber(at), tonumber(ttl)
end

-- ends_at returns when a holder's lock ends, nil if it has ended.
local function ends_at(holders, id, now)
  local ends = tonumber(redis.call('ZSCORE', holders, id) or 0)
  if ends > now then
    return ends
  end
end

-- live returns how many have the lock.
local function live(holders, now)
  return redis.call('ZCOUNT', holders, '(' .. digits(now), '+inf')
end

-- first returns holder ids and ends, in turn, of those who have the lock: at most count, beginning with the one that ends first.
local function first(holders, now, count)
  return redis.call('ZRANGEBYSCORE', holders, '(' .. digits(now), '+inf', 'WITHSCORES', 'LIMIT', 0, count)
end

-- keep lets both keys live until the last holder's lock ends.
local function keep(holders, records)
  local last = redis.call('ZRANGE', holders, -1, -1, 'WITHSCORES')
  local at = digits(math.floor(tonumber(last[2]) / 1000) + 1)
  redis.call('PEXPIREAT', holders, at)
  redis.call('PEXPIREAT', records, at)
end
