-- Writes an entry if its precondition holds.
-- KEYS: 1 the entry
-- ARGV: 1 the bytes to store, 2 time to live in milliseconds (0: none), 3 condition (absent, present, match,
--       none_match), 4 the etag of the condition
-- RETURNS: {1 if written, else 0; the etag found before}

local key = KEYS[1]
local bytes, px, condition, etag = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local found = etag_at(key)
local holds = (condition == 'absent' and found == '')
  or (condition == 'present' and found ~= '')
  or (condition == 'match' and found == etag)
  or (condition == 'none_match' and found ~= etag)
if not holds then
  return {0, found}
end
if px == '0' then
  redis.call('SET', key, bytes)
else
  redis.call('SET', key, bytes, 'PX', px)
end
return {1, found}
