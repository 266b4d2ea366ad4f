-- Takes a lock away from its holders, or from one of them, and remembers from whom.
-- KEYS: 1 the holders, 2 their records, 3 from whom it was taken last
-- ARGV: 1 fencing token of the holder ('0': all), 2 how long to remember in milliseconds, 3 maximum number of records to return
-- RETURNS: {the time of Redis in us; number of holders; for each of them, up to the maximum, the time at which it would have ended
--          and its record}

local holders, records, taken = KEYS[1], KEYS[2], KEYS[3]
local token, memory, most = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local now = now_us()
local all = first(holders, now, 1000)
local answer = {digits(now), 0}
local ids = {}
for i = 1, #all, 2 do
  local record = redis.call('HGET', records, all[i]) or ''
  if token == 0 or (record ~= '' and numbers(record) == token) then
    ids[#ids + 1] = all[i]
    if #ids <= most then
      answer[#answer + 1] = digits(tonumber(all[i + 1]))
      answer[#answer + 1] = record
    end
  end
end
answer[2] = #ids
if #ids > 0 then
  redis.call('ZREM', holders, unpack(ids))
  redis.call('HDEL', records, unpack(ids))
  redis.call('SET', taken, table.concat(ids, ' '), 'PX', memory)
end
return answer
