-- Changes the expiry of an entry, or of a plain value, and leaves the rest alone. It revokes the lease: an entry that
-- somebody wrote under it could otherwise be made to end before the lease does, and be replaced by older data.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1-3 see cache.lua, 4 how long it is fresh from now in microseconds (0: for ever), 5 mode (overwrite, extend,
--       shorten)
-- RETURNS: {1 changed, 0 left as it was because of the mode, -1 nothing there; ''}, or unjudged

local key, lease = KEYS[1], KEYS[2]
local fresh, mode = tonumber(ARGV[4]), ARGV[5]

local found = live_etag(key)
if not found then
  return unjudged(key)
elseif found == '' then
  return {-1, ''}
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

-- A time of 0 is later than every other.
local function later(a, b)
  return b ~= 0 and (a == 0 or a > b)
end
if (mode == 'extend' and not later(new_hard, hard)) or (mode == 'shorten' and not later(hard, new_hard)) then
  return {0, ''}
end

if head then
  redis.call('SETRANGE', key, 21, encode_time(new_soft) .. encode_time(new_hard))
end
if fresh > 0 then
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((new_hard - now) / 1000)))
else
  redis.call('PERSIST', key)
end
redis.call('UNLINK', lease)
return {1, ''}
