-- Reads a session, its attributes and its subject's epoch as they are at one moment. It only reads, so that Redis tracks
-- the record for the connection that asked.
-- KEYS: 1 the record, 2 the attributes
-- ARGV: 1 prefix of subject keys
-- RETURNS: {fields and values of the record, names and values of the attributes, epoch of the subject ('0': none), time in
--          milliseconds ('0': unknown)}

local record, attributes = KEYS[1], KEYS[2]
local subject_prefix = ARGV[1]

local fields = redis.call('HGETALL', record)
if #fields == 0 then
  return {fields, {}, '0', '0'}
end
local epoch = '0'
local subject_hash = redis.call('HGET', record, 'sh')
if subject_hash and subject_hash ~= '' then
  epoch = redis.call('HGET', subject_prefix .. subject_hash, 'ep') or '0'
end
-- The embedded store refuses TIME to scripts that only read; there the caller's clock is the same.
local time = redis.pcall('TIME')
local now = time.err and '0' or ms(time[1] * 1000 + math.floor(time[2] / 1000))
return {fields, redis.call('HGETALL', attributes), epoch, now}
