-- Says whether a holder has a lock.
-- KEYS: 1 the holders, 2 their records
-- ARGV: 1 fencing token of the holder, 2 the time of the caller in microseconds, which shares its clock with the embedded store
-- RETURNS: 1 if it has, else 0

local holders, records = KEYS[1], KEYS[2]
local token, clock = tonumber(ARGV[1]), ARGV[2]

local all = first(holders, read_now(clock), 1000)
for i = 1, #all, 2 do
  local record = redis.call('HGET', records, all[i])
  if record and numbers(record) == token then
    return 1
  end
end
return 0
