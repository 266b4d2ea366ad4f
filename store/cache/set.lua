-- Writes an entry if its condition holds, and revokes the key's lease.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 the bytes to store, 5 time to live in milliseconds (0: never expires),
--       6 condition (absent, present, match, none_match), 7 the etag of the condition
-- RETURNS: {1 if written, else 0; the etag found before, '' for none and UNHASHED; its as-of time, '' for none}, or validity_unknown

local key, lease = KEYS[1], KEYS[2]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local bytes, px, condition, etag = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local hash = (condition == 'match' or condition == 'none_match') and ALWAYS or IF_SHORT
local found, as_of = valid_etag(key, gone_until, checked_etag, checked_validity, hash)
if not found then
  return validity_unknown(key)
end
local holds = (condition == 'absent' and found == '')
  or (condition == 'present' and found ~= '')
  or (condition == 'match' and found == etag)
  or (condition == 'none_match' and found ~= etag)
local known = found == UNHASHED and '' or found
if not holds then
  return {0, known, as_of}
end
if px == '0' then
  redis.call('SET', key, bytes)
else
  redis.call('SET', key, bytes, 'PX', px)
end
redis.call('UNLINK', lease)
return {1, known, as_of}
