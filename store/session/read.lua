-- Reads a session, its attributes and the epoch of its subject at one moment. It is read-only, so that Redis tracks the record
-- for the caller's connection. It declares the record alone, so that it works on either node while the slot moves.
-- KEYS: 1 record
-- ARGV: 1 prefix of subject keys, 2 attributes
-- RETURNS: {names and values of the record's fields, names and values of the attributes, epoch below which the session is
--          revoked ('0': never revoked, NO_EPOCH: unknown), time in milliseconds ('0': unknown)}

local record = KEYS[1]
local subject_prefix, attributes = ARGV[1], ARGV[2]

local f, keys = known(record), {}
if f[1] and f[1] ~= '' then
  keys[1] = subject_prefix .. f[1]
end
if f[4] == '1' then
  keys[#keys + 1] = attributes
end
return elsewhere(keys) or snapshot(record, attributes, subject_prefix, f)
