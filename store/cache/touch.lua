-- Changes the expiry of an entry or of a plain value; an entry that is stale by an invalidation stays so. It revokes the key's lease: an entry that was written after the lease was
-- given blocks a late fill only while it is there, and the new expiry may be earlier than the end of the lease.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 how long the entry is fresh from now in microseconds (0: never expires), 5 mode (overwrite, extend, shorten)
-- RETURNS: {1 changed, 0 unchanged because of the mode, -1 the key holds nothing; ''; the as-of time of the entry, '' for none}, or validity_unknown

local key, lease = KEYS[1], KEYS[2]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local fresh, mode = tonumber(ARGV[4]), ARGV[5]

local found, as_of = valid_etag(key, gone_until, checked_etag, checked_validity, NEVER)
if not found then
  return validity_unknown(key)
elseif found == '' then
  return {-1, '', ''}
end

local now = now_us()
local head = header(key)
local soft, hard, stale = 0, 0, 0
if head then
  soft, hard = decode_time(string.sub(head, 22, 29)), decode_time(string.sub(head, 30, 37))
  if soft > 0 and hard > soft then
    stale = hard - soft
  end
  if fresh == 0 and tagged(head) then
    return redis.error_reply('LARDER_TAGGED an entry with tags must expire')
  end
else
  local pttl = redis.call('PTTL', key)
  if pttl >= 0 then
    hard = now + pttl * 1000
  end
end

local new_soft, new_hard = 0, 0
if fresh > 0 then
  new_soft = now + fresh
  new_hard = new_soft + stale
end

-- later reports whether time a is after time b, where 0 means never.
local function later(a, b)
  return b ~= 0 and (a == 0 or a > b)
end
if (mode == 'extend' and not later(new_hard, hard)) or (mode == 'shorten' and not later(hard, new_hard)) then
  return {0, '', as_of}
end

if head then
  redis.call('SETRANGE', key, 21, encode_time(new_soft) .. encode_time(new_hard))
  -- The entry may now outlive what is kept of the invalidation, and must not become fresh then.
  if tagged(head) and checked_validity == 'stale' and not has(head, STALE) then
    redis.call('SETRANGE', key, 4, string.char(string.byte(head, 5) + STALE))
  end
end
if fresh > 0 then
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((new_hard - now) / 1000)))
else
  redis.call('PERSIST', key)
end
redis.call('UNLINK', lease)
return {1, '', as_of}
