-- Adds to a counter, which is a plain decimal integer of 64 bits, and revokes its lease if it has written it. Sums are
-- made by INCRBY and compared as digits, because Lua's numbers are exact up to 2^53 only.
-- KEYS: 1 the counter, 2 its lease
-- ARGV: 1-3 see cache.lua, 4 delta, 5 what an absent counter counts from, 6 time to live in milliseconds (0: none), 7 when
--       it is applied (create, always, keep), 8 lowest value ('': none), 9 highest value ('': none), 10 at a bound (reject,
--       saturate)
-- RETURNS: {1 added, 2 set to the bound, 3 left as it was; the value; its time to live in milliseconds, as PTTL}, or
--          unjudged

local key, lease = KEYS[1], KEYS[2]
local delta, initial, px, policy = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local lowest, highest, on_bound = ARGV[8], ARGV[9], ARGV[10]

local function negative(digits)
  return string.sub(digits, 1, 1) == '-'
end

-- less compares integers written as Redis writes them.
local function less(a, b)
  if negative(a) ~= negative(b) then
    return negative(a)
  end
  if negative(a) then
    return less(string.sub(b, 2), string.sub(a, 2))
  end
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

local found = live_etag(key)
if not found then
  return unjudged(key)
end
local before = found ~= '' and redis.call('GET', key)
if before and not (string.match(before, '^%-?[1-9]%d*$') or before == '0') then
  return redis.error_reply('LARDER_NOT_COUNTER not an integer')
end
local from = before or initial

-- put writes a value and leaves the time to live alone.
local function put(value)
  if before then
    redis.call('SET', key, value, 'KEEPTTL')
  else
    redis.call('SET', key, value)
  end
end

-- undo leaves the key as it was found.
local function undo()
  if before then
    redis.call('SET', key, before, 'KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

if not before then
  redis.call('SET', key, initial)
end
local added = redis.pcall('INCRBY', key, delta)
local failed = type(added) == 'table' and added.err
local sum = redis.call('GET', key)
local up = not negative(delta)
if failed and not string.find(failed, 'overflow') then
  undo()
  if string.find(failed, 'not an integer') then
    failed = 'LARDER_NOT_COUNTER not an integer of 64 bits'
  end
  return redis.error_reply(failed)
end

-- Only the bound in the direction of the change can be crossed: a counter that is outside for another reason may return.
local bound = ''
if delta ~= '0' then
  if up and highest ~= '' and (failed or less(highest, sum)) then
    bound = highest
  elseif not up and lowest ~= '' and (failed or less(sum, lowest)) then
    bound = lowest
  end
end

local outcome = 1
if bound ~= '' then
  if on_bound == 'reject' then
    undo()
    return {3, from, redis.call('PTTL', key)}
  end
  put(bound)
  outcome, sum = 2, bound
elseif failed then
  undo()
  return redis.error_reply('LARDER_OVERFLOW beyond 64 bits')
end

-- As every write does: a counter that is gone before the lease would not stand in the way of a late fill.
redis.call('UNLINK', lease)
if policy == 'always' or (policy == 'create' and not before) then
  if px == '0' then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, px)
  end
end
return {outcome, sum, redis.call('PTTL', key)}
