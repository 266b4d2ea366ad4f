-- Reads a session, its attributes and its subject's epoch as they are at one moment. It only reads, so that Redis tracks
-- the record for the connection that asked.
-- KEYS: 1 the record, 2 the attributes
-- ARGV: 1 prefix of subject keys
-- RETURNS: {fields and values of the record, names and values of the attributes, epoch of the subject and the session's
--          device class ('0': none), time in milliseconds ('0': unknown)}

local record, attributes = KEYS[1], KEYS[2]
local subject_prefix = ARGV[1]

return snapshot(record, attributes, subject_prefix)
