-- Writes an entry if its condition and its fence hold, and revokes the key's lease.
-- KEYS: 1 the entry, 2 its lease, 3 its fences, if there is a fence
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 the bytes to store, 5 time to live in milliseconds (0: never expires),
--       6 condition (always, absent, present, match, none_match), 7 the etag of the condition,
--       8 the lock of the fence ('': none), 9 its token, 10 '1' if its holder has the lock
-- RETURNS: {1 if written, else 0; the etag found before, '' for none and UNHASHED; its as-of time, '' for none}, or
--          validity_unknown, or {FENCED or FENCE_UNKNOWN; ''; ''}

local key, lease, fences = KEYS[1], KEYS[2], KEYS[3]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local bytes, px, condition, etag = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local lock, token, vouched = ARGV[8], ARGV[9], ARGV[10]

local refused = check_fence(fences, lock, token, vouched)
if refused then
  return {refused, '', ''}
end
local found, as_of = '', ''
if condition ~= 'always' then
  local hash = (condition == 'match' or condition == 'none_match') and ALWAYS or IF_SHORT
  found, as_of = valid_etag(key, gone_until, checked_etag, checked_validity, hash)
  if not found then
    return validity_unknown(key)
  end
end
local full = room_for_fence(fences, lock)
if full then
  return full
end
local holds = condition == 'always'
  or (condition == 'absent' and found == '')
  or (condition == 'present' and found ~= '')
  or (condition == 'match' and found == etag)
  or (condition == 'none_match' and found ~= etag)
local known = found == UNHASHED and '' or found
if not holds then
  remember_fence(fences, lock, token)
  return {0, known, as_of}
end
if px == '0' then
  redis.call('SET', key, bytes)
else
  redis.call('SET', key, bytes, 'PX', px)
end
redis.call('UNLINK', lease)
remember_fence(fences, lock, token)
return {1, known, as_of}
