-- Reads a session, its attributes and the epoch of its subject at one moment. It is read-only, so that Redis tracks the record
-- for the caller's connection.
-- KEYS: 1 record, 2 attributes
-- ARGV: 1 prefix of subject keys
-- RETURNS: {names and values of the record's fields, names and values of the attributes, epoch of the subject and the session's
--          device class ('0': never revoked), time in milliseconds ('0': unknown)}

local record, attributes = KEYS[1], KEYS[2]
local subject_prefix = ARGV[1]

return snapshot(record, attributes, subject_prefix)
