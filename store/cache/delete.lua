-- Removes an entry and revokes its lease, unconditionally or only if the entry has an etag.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 the etag that the entry must have ('': any)
-- RETURNS: {1 if removed, else 0; the etag found before, '' for none and UNHASHED; its as-of time, '' for none}, or validity_unknown

local key, lease = KEYS[1], KEYS[2]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local etag = ARGV[4]

-- A value that is not a string has no etag: only an unconditional delete removes it.
local value_type = redis.call('TYPE', key).ok
if etag == '' and value_type ~= 'string' and value_type ~= 'none' then
  redis.call('UNLINK', key, lease)
  return {1, '', ''}
end
local found, as_of = valid_etag(key, gone_until, checked_etag, checked_validity, etag == '' and NEVER or ALWAYS)
if not found then
  return validity_unknown(key)
end
if etag ~= '' and found ~= etag then
  return {0, found, as_of}
end
redis.call('UNLINK', key, lease)
return {found == '' and 0 or 1, found == UNHASHED and '' or found, as_of}
