-- Removes an entry and revokes its lease, unconditionally or only if the entry has an etag, and if its fence holds.
-- KEYS: 1 the entry, 2 its lease, 3 its fences, if there is a fence
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 the etag that the entry must have ('': any),
--       5 the lock of the fence ('': none), 6 its token, 7 '1' if its holder has the lock
-- RETURNS: {1 if removed, else 0; the etag found before, '' for none and UNHASHED; its as-of time, '' for none}, or
--          validity_unknown, or {FENCED or FENCE_UNKNOWN; ''; ''}

local key, lease, fences = KEYS[1], KEYS[2], KEYS[3]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local etag, lock, token, vouched = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local refused = check_fence(fences, lock, token, vouched)
if refused then
  return {refused, '', ''}
end
-- A value that is not a string has no etag: only an unconditional delete removes it.
local value_type = redis.call('TYPE', key).ok
local found, as_of = '', ''
local any = etag == '' and value_type ~= 'string' and value_type ~= 'none'
if not any then
  found, as_of = valid_etag(key, gone_until, checked_etag, checked_validity, etag == '' and NEVER or ALWAYS)
  if not found then
    return validity_unknown(key)
  end
end
local full = room_for_fence(fences, lock)
if full then
  return full
end
if etag ~= '' and found ~= etag then
  remember_fence(fences, lock, token)
  return {0, found, as_of}
end
-- The entry first: after this Redis refuses nothing for want of memory.
redis.call('UNLINK', key, lease)
remember_fence(fences, lock, token)
return {(any or found ~= '') and 1 or 0, found == UNHASHED and '' or found, as_of}
