-- Reads events of a partition and the state of its stream at one moment. It is read-only, so that Redis tracks the stream for
-- the caller's connection, and does without common.lua, as its text is sent with each of many calls.
-- KEYS: 1 events
-- ARGV: 1 id after which to read, 2 maximum number of events (0: none)
-- RETURNS: {events, each {id, {name and value of each field}}; last id of the stream; number of events ever added (-1:
--          unknown); number of events left; id of the oldest event ('': none or not read)}

local stream = KEYS[1]
local after, max_events = ARGV[1], ARGV[2]

if redis.call('EXISTS', stream) == 0 then
  return {{}, '0-0', 0, 0, ''}
end
local info = {}
local pairs_of = redis.call('XINFO', 'STREAM', stream)
for i = 1, #pairs_of, 2 do
  info[pairs_of[i]] = pairs_of[i + 1]
end
local added, first = info['entries-added'] or -1, ''
if added == -1 then -- the embedded store does not count additions
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
  if head[1] then
    first = head[1][1]
  end
end
local events = {}
if max_events ~= '0' then
  events = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', max_events)
end
return {events, info['last-generated-id'], added, info['length'], first}
