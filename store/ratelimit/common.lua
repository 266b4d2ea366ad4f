-- Functions that the scripts of rate limits share; their text comes before each script's own. docs/redis.md shows what is stored.
--
-- All numbers are whole, and every product and sum below 2^53, up to which Lua's numbers are exact. Times are in microseconds.
-- A limit is a table with the arguments of its rule:
--   key, algorithm ('g' GCRA, 's' sliding window, 'f' fixed window), full (the most that may be used at once), capacity, period,
--   align ('' or where windows begin, see current_window)
-- and with the usage that was found, which load brings to the time of the script. It sets moved if the usage was found in a window
-- that lasts longer than those of the rule, because the rule had a longer period: then it counts in the window of now, and must be
-- stored there to end with it.

local EXACT = 9007199254740992
-- Factors of muldiv and its divisor are below 2^45, so that a digit times a factor is below 2^52.
local BASE = 128
-- The maximum usage, far above any capacity, and the maximum time that is told, ten years.
local MAX_USED = 35184372088832
local MAX_TIME = 315360000000000

-- muldiv returns the whole part of a * b / c and the remainder.
local function muldiv(a, b, c)
  local product = a * b
  if product < EXACT then
    local whole = math.floor(product / c)
    return whole, product - whole * c
  end
  local scale = 1
  while scale * BASE <= a do
    scale = scale * BASE
  end
  local whole, rest = 0, 0
  while scale >= 1 do
    local digit = math.floor(a / scale)
    a = a - digit * scale
    local part = rest * BASE + digit * b
    local n = math.floor(part / c)
    whole, rest = whole * BASE + n, part - n * c
    scale = scale / BASE
  end
  return whole, rest
end

-- digits formats a number without an exponent.
local function digits(n)
  return string.format('%.0f', n)
end

-- numbers reads as many numbers as text has; nil if it holds anything else.
local function numbers(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do
    local n = tonumber(word)
    if not n then
      return nil
    end
    found[#found + 1] = n
  end
  return found
end

-- now returns the time of Redis.
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- Each algorithm is a function, so that a script makes only what it needs, which returns these functions:
--   load(l, value, time)   reads the stored value, false if there is none, as of the time
--   used(l)                returns what is used, rounded up
--   after(l, target)       returns the time until no more than target is used
--   add(l, n)              uses n more, or gives back -n
--   value(l)               returns what is to be stored; the time after which it means nothing is after(l, 0)
--   mark(l)                returns when a charge was made, as three numbers
--   give(l, n, a, b, c)    gives back n of what was used at a mark, or what is left of it
local algorithms = {}

-- GCRA, as a bucket that drains: u + r / period is used at the time at, and drains by capacity in each period. Stored are also
-- the period and full of the rule, so that a changed rule is noticed.
algorithms.g = function()
  return {
    load = function(l, value, time)
      local u, r, at, period, full = string.match(value or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
      if not u or l.capacity == 0 then
        u, r = 0, 0
      else
        u, r, at, period, full = tonumber(u), tonumber(r), tonumber(at), tonumber(period), tonumber(full)
        if period ~= l.period then
          local whole, rest = muldiv(r, l.period, period)
          r = rest > 0 and whole + 1 or whole
        end
        if full > l.full and u >= l.full then
          -- The bucket has become smaller: what is above its rim is gone, but for a debt.
          if u >= full then
            u = u - full + l.full
          else
            u, r = l.full, 0
          end
        end
        if time > at then
          local whole, rest = muldiv(time - at, l.capacity, l.period)
          u, r = u - whole, r - rest
        end
        if r < 0 then
          u, r = u - 1, r + l.period
        elseif r >= l.period then
          u, r = u + 1, r - l.period
        end
        if u < 0 then
          u, r = 0, 0
        end
      end
      l.u, l.r, l.at = u, r, time
    end,
    used = function(l)
      return l.r > 0 and l.u + 1 or l.u
    end,
    after = function(l, target)
      if l.u < target or (l.u == target and l.r == 0) then
        return 0
      end
      if l.capacity == 0 then
        return MAX_TIME
      end
      local whole, rest = muldiv(l.u - target, l.period, l.capacity)
      return whole + math.ceil((rest + l.r) / l.capacity)
    end,
    add = function(l, n)
      l.u = math.min(l.u + n, MAX_USED)
      if l.u < 0 then
        l.u, l.r = 0, 0
      end
    end,
    value = function(l)
      return string.format('%.0f %.0f %.0f %.0f %.0f', l.u, l.r, l.at, l.period, l.full)
    end,
    mark = function(l)
      return l.u, l.r, l.at
    end,
    give = function(l, n, u, r, at)
      -- What was used at the mark drains before what was used later.
      local whole, rest = muldiv(math.max(l.at - at, 0), l.capacity, l.period)
      u, r = u - whole, r - rest
      if r < 0 then
        u, r = u - 1, r + l.period
      end
      if u < 0 then
        return
      end
      if n <= u then
        u, r = n, 0
      end
      l.u, l.r = l.u - u, l.r - r
      if l.r < 0 then
        l.u, l.r = l.u - 1, l.r + l.period
      end
      if l.u < 0 then
        l.u, l.r = 0, 0
      end
    end,
  }
end

-- The fixed window counts from start to stop.
algorithms.f = function()
  -- current_window returns when the fixed window at a time begins and ends. align is '' if a window begins with its first charge,
  -- else a number of microseconds after 1970, from which on windows follow each other, or the limits of several windows in a row.
  local function current_window(l, time)
    if l.align == '' then
      return time, time + l.period
    end
    local edges = numbers(l.align)
    if #edges == 1 then
      local start = math.floor((time - edges[1]) / l.period) * l.period + edges[1]
      return start, start + l.period
    end
    for i = 1, #edges - 1 do
      if time < edges[i + 1] or i == #edges - 1 then
        return edges[i], edges[i + 1]
      end
    end
  end

  return {
    load = function(l, value, time)
      local start, stop = current_window(l, time)
      local count, begun, over = string.match(value or '', '^(%d+) (%d+) (%d+)$')
      l.count, begun = 0, tonumber(begun)
      -- A window that is not over counts, also if a changed rule has other windows. One that begins after the next is of a clock
      -- that was set back.
      if count and time < tonumber(over) and begun <= stop then
        l.count = tonumber(count)
        if l.align == '' and begun + l.period > time then
          start, stop = begun, begun + l.period
        end
        l.moved = l.count > 0 and begun <= start and tonumber(over) > stop
      end
      l.start, l.stop, l.at = start, stop, time
    end,
    used = function(l)
      return l.count
    end,
    after = function(l, target)
      return l.count <= target and 0 or l.stop - l.at
    end,
    add = function(l, n)
      l.count = math.max(math.min(l.count + n, MAX_USED), 0)
    end,
    value = function(l)
      return string.format('%.0f %.0f %.0f', l.count, l.start, l.stop)
    end,
    mark = function(l)
      return l.start, 0, 0
    end,
    give = function(l, n, start)
      if l.start == start then
        l.is.add(l, -n)
      end
    end,
  }
end

-- The sliding window counts in windows of one period. What was used in the previous one counts for the share of it that is less
-- than a period ago.
algorithms.s = function()
  local function weighted(l)
    local whole, rest = muldiv(l.previous, l.start + l.period - l.at, l.period)
    return rest > 0 and whole + 1 or whole
  end

  return {
    load = function(l, value, time)
      local start = math.floor(time / l.period) * l.period
      local count, previous, begun, period = string.match(value or '', '^(%d+) (%d+) (%d+) (%d+)$')
      l.count, l.previous, l.at = 0, 0, time
      if count then
        count, previous, begun, period = tonumber(count), tonumber(previous), tonumber(begun), tonumber(period)
        if period ~= l.period then
          -- The usage under the rule of before, as if it were of now.
          if time >= begun + period then
            previous = count -- one by one, because the embedded store would assign 0 first
            count, begun = 0, begun + period
          end
          if time < begun + period then
            local old = {count = count, previous = previous, start = begun, period = period, at = math.max(time, begun)}
            l.count = count + weighted(old)
            l.moved = l.count > 0 and period > l.period
          end
        elseif begun == start then
          l.count, l.previous = count, previous
        elseif begun + period == start then
          l.previous = count
        elseif begun == start + period then -- a clock was set back
          l.count, l.previous, start, l.at = count, previous, begun, begun
        end
      end
      l.start = start
    end,
    used = function(l)
      return l.count + weighted(l)
    end,
    after = function(l, target)
      local left = l.start + l.period - l.at
      if l.count <= target then
        if l.previous == 0 then
          return 0
        end
        local share = muldiv(target - l.count, l.period, l.previous)
        return math.max(left - share, 0)
      end
      local share = muldiv(target, l.period, l.count)
      return left + l.period - share
    end,
    add = function(l, n)
      l.count = math.min(l.count + n, MAX_USED)
      if l.count < 0 then
        l.previous = math.max(l.previous + l.count, 0)
        l.count = 0
      end
    end,
    value = function(l)
      return string.format('%.0f %.0f %.0f %.0f', l.count, l.previous, l.start, l.period)
    end,
    mark = function(l)
      return l.start, 0, 0
    end,
    give = function(l, n, start)
      if l.start == start then
        l.count = math.max(l.count - n, 0)
      elseif l.start == start + l.period then
        l.previous = math.max(l.previous - n, 0)
      end
    end,
  }
end

local made = {}

-- load reads the usage of a limit.
local function load(l, time)
  local is = made[l.algorithm] or algorithms[l.algorithm]()
  made[l.algorithm], l.is = is, is
  local value = redis.call('GET', l.key)
  l.found = value and true
  l.is.load(l, value, time)
end

-- tell appends what the caller is told of a limit: what is used; the times until more is available, until nothing is used and,
-- if the cost is denied, until it fits, which is -1 if it never does. A denied cost is nil if there is none.
local function tell(answer, l, denied)
  local used = l.is.used(l)
  local available, retry = 0, 0
  l.left = 0
  if used > 0 then
    available = l.is.after(l, math.max(math.min(used, l.full) - 1, 0))
    l.left = math.min(l.is.after(l, 0), MAX_TIME)
  end
  if denied then
    retry = denied > l.full and -1 or l.is.after(l, l.full - denied)
  end
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] =
    used, math.min(available, MAX_TIME), l.left, math.min(retry, MAX_TIME)
end

-- save stores the usage of a limit that has changed, after it was told.
local function save(l)
  if l.left > 0 then
    redis.call('SET', l.key, l.is.value(l), 'PX', digits(math.ceil(l.left / 1000)))
  elseif l.found then
    redis.call('UNLINK', l.key)
  end
end
