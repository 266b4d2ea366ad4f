-- Changes the expiry of an entry, or of a plain value, and leaves the rest alone.
-- KEYS: 1 the entry
-- ARGV: 1 how long it is fresh from now in microseconds (0: for ever), 2 mode (overwrite, extend, shorten)
-- RETURNS: 1 changed, 0 left as it was because of the mode, -1 nothing there

local key = KEYS[1]
local fresh, mode = tonumber(ARGV[1]), ARGV[2]

-- Times are microseconds below 2^53, which Lua's numbers hold exactly.
local function decode(bytes)
  local n = 0
  for i = 1, 8 do
    n = n * 256 + string.byte(bytes, i)
  end
  return n
end

local function encode(n)
  local bytes = {}
  for i = 8, 1, -1 do
    local low = n % 256
    bytes[i] = string.char(low)
    n = (n - low) / 256
  end
  return table.concat(bytes)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local head = header(key)
local soft, hard, stale = 0, 0, 0
if head then
  soft, hard = decode(string.sub(head, 22, 29)), decode(string.sub(head, 30, 37))
  if soft > 0 and hard > soft then
    stale = hard - soft
  end
else
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    return -1
  elseif kind ~= 'string' then
    return redis.error_reply('WRONGTYPE not a string')
  end
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
  return 0
end

if head then
  redis.call('SETRANGE', key, 21, encode(new_soft) .. encode(new_hard))
end
if fresh > 0 then
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil((new_hard - now) / 1000)))
else
  redis.call('PERSIST', key)
end
return 1
