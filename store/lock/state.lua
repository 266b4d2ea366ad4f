-- Reads who has a lock.
-- KEYS: 1 the holders, 2 their records, and perhaps 3 the highest fencing token, 4 until when each ticket is kept
-- ARGV: 1 maximum number of records to return, 2 the time of the caller in microseconds, which shares its clock with the embedded store
-- RETURNS: {the time of Redis in us; number of holders; the highest fencing token, '0' if it is not known or not asked for; number
--          of tickets; for each holder, up to the maximum, its id, when it ends and its record}

local holders, records, counter, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, clock = tonumber(ARGV[1]), ARGV[2]

local now = read_now(clock)
local answer = {digits(now), live(holders, now), '0', 0}
if counter then
  answer[3] = redis.call('GET', counter) or '0'
  answer[4] = redis.call('ZCOUNT', kept, '(' .. digits(now), '+inf')
end
local some = first(holders, now, most)
for i = 1, #some, 2 do
  answer[#answer + 1] = some[i]
  answer[#answer + 1] = digits(tonumber(some[i + 1]))
  answer[#answer + 1] = redis.call('HGET', records, some[i]) or ''
end
return answer
