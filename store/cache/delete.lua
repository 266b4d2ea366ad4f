-- Removes an entry, whatever it is or only if it has an etag, and revokes its lease.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1-3 see cache.lua, 4 the etag that it must have ('': any)
-- RETURNS: {1 if removed, else 0; the etag found before, '' for none}, or unjudged

local key, lease = KEYS[1], KEYS[2]
local etag = ARGV[4]

-- What is not a string has no etag, and goes only where none is asked for.
local other = redis.call('TYPE', key).ok
if etag == '' and other ~= 'string' and other ~= 'none' then
  redis.call('UNLINK', key, lease)
  return {1, ''}
end
local found = live_etag(key)
if not found then
  return unjudged(key)
end
if etag ~= '' and found ~= etag then
  return {0, found}
end
redis.call('UNLINK', key, lease)
return {found == '' and 0 or 1, found}
