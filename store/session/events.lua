-- Reads events of a partition and how its stream stands, at one moment. It only reads, so that Redis tracks the stream for
-- the connection that asked. It uses no other file's functions, as it is sent for each of many partitions.
-- KEYS: 1 the events
-- ARGV: 1 the id after which to read, 2 the most events to return ('0': none)
-- RETURNS: {events, each with its id and the names and values of its fields, the last id ever given, how many events were ever
--          added (-1: unknown), how many of them are there, id of the first ('': none or not looked at)}

local stream = KEYS[1]
local after, most = ARGV[1], ARGV[2]

if redis.call('EXISTS', stream) == 0 then
  return {{}, '0-0', 0, 0, ''}
end
local info = {}
local pairs_of = redis.call('XINFO', 'STREAM', stream)
for i = 1, #pairs_of, 2 do
  info[pairs_of[i]] = pairs_of[i + 1]
end
local added, first = info['entries-added'] or -1, ''
if added == -1 then -- the embedded store does not count
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
  if head[1] then
    first = head[1][1]
  end
end
local events = {}
if most ~= '0' then
  events = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', most)
end
return {events, info['last-generated-id'], added, info['length'], first}
