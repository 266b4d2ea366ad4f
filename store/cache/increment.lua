-- Adds to a counter, a plain decimal integer of 64 bits, and revokes its lease if the counter was written. INCRBY adds and
-- digits are compared as text, because Lua numbers are exact only up to 2^53.
-- KEYS: 1 the counter, 2 its lease
-- ARGV: 1 gone_until, 2 checked_etag, 3 checked_validity, all as in common.lua,
--       4 delta, 5 initial value of an absent counter, 6 time to live in milliseconds (0: never expires), 7 when the time to
--       live is set (create, always, keep), 8 minimum ('': none), 9 maximum ('': none), 10 at a bound (reject, saturate)
-- RETURNS: {1 added, 2 set to the bound, 3 unchanged because of the bound; the value; ''; its remaining time to live in
--          milliseconds, as PTTL}, or validity_unknown

local key, lease = KEYS[1], KEYS[2]
local gone_until, checked_etag, checked_validity = ARGV[1], ARGV[2], ARGV[3]
local delta, initial, px, policy = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local lowest, highest, on_bound = ARGV[8], ARGV[9], ARGV[10]

-- negative reports whether a number is below 0. Numbers are decimal digits in the form that Redis returns.
local function negative(digits)
  return string.sub(digits, 1, 1) == '-'
end

-- less reports whether number a is below number b.
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

-- A counter has 20 digits at most, its sign included. What is longer is none, and is not read.
local MOST_DIGITS = 20

local found = valid_etag(key, gone_until, checked_etag, checked_validity, NEVER)
if not found then
  return validity_unknown(key)
end
local before = found ~= '' and redis.call('GETRANGE', key, 0, MOST_DIGITS)
if before and not (#before <= MOST_DIGITS and string.match(before, '^%-?[1-9]%d*$') or before == '0') then
  return redis.error_reply('LARDER_NOT_COUNTER not an integer')
end
local from = before or initial

-- put writes a value and keeps the time to live.
local function put(value)
  if before then
    redis.call('SET', key, value, 'KEEPTTL')
  else
    redis.call('SET', key, value)
  end
end

-- undo restores the key as it was found.
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

-- Only the bound in the direction of the change applies, so that a counter outside the bounds can come back.
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
    return {3, from, '', redis.call('PTTL', key)}
  end
  put(bound)
  outcome, sum = 2, bound
elseif failed then
  undo()
  return redis.error_reply('LARDER_OVERFLOW beyond 64 bits')
end

-- A counter that expires before the lease would no longer block a late fill.
redis.call('UNLINK', lease)
if policy == 'always' or (policy == 'create' and not before) then
  if px == '0' then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, px)
  end
end
return {outcome, sum, '', redis.call('PTTL', key)}
