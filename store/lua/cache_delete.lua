-- Removes an entry if it has the etag.
-- KEYS: 1 the entry
-- ARGV: 1 the etag
-- RETURNS: {1 if removed, else 0; the etag found before, '' for none}

local key = KEYS[1]
local etag = ARGV[1]

local found = etag_at(key)
if found ~= etag then
  return {0, found}
end
redis.call('UNLINK', key)
return {1, found}
