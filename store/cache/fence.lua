-- Functions for writes with a fence. The fences of an entry are a hash in its slot: the highest fencing token that has come with a
-- write, by lock name. Tokens are about the time in microseconds at which their lock was acquired.

-- How long the fences are kept after the last write with one, and after the time of their highest token (ms). A token that is
-- older, and of a lock that the entry does not know, may be lower than one that was forgotten.
local FENCE_MEMORY = 24 * 3600 * 1000
local MOST_FENCES = 16

local FENCED, FENCE_UNKNOWN = -3, -4

-- check_fence returns FENCED if a higher token has come, FENCE_UNKNOWN if that cannot be told, the name '' meaning that there is no
-- fence; and otherwise nil. Vouched is '1' if the holder still has the lock.
local function check_fence(fences, lock, token, vouched)
  if lock == '' then
    return nil
  end
  local seen = tonumber(redis.call('HGET', fences, lock) or 0) or 0
  if seen > 0 then
    return tonumber(token) < seen and FENCED or nil
  end
  if vouched ~= '1' and tonumber(token) < now_us() - FENCE_MEMORY * 1000 then
    return FENCE_UNKNOWN
  end
end

-- room_for_fence raises an error if an entry has fences of as many other locks as it may. Those that are not needed any more go.
local function room_for_fence(fences, lock)
  if lock == '' or redis.call('HLEN', fences) < MOST_FENCES or redis.call('HEXISTS', fences, lock) == 1 then
    return nil
  end
  local all = redis.call('HGETALL', fences)
  local old = {}
  for i = 1, #all, 2 do
    if (tonumber(all[i + 1]) or 0) < now_us() - FENCE_MEMORY * 1000 then
      old[#old + 1] = all[i]
    end
  end
  if #old == 0 then
    return redis.error_reply('LARDER_TOO_MANY_FENCES too many locks')
  end
  redis.call('HDEL', fences, unpack(old))
end

-- remember_fence keeps a token that was accepted.
local function remember_fence(fences, lock, token)
  if lock == '' then
    return
  end
  redis.call('HSET', fences, lock, token)
  local left = math.max(FENCE_MEMORY, FENCE_MEMORY + math.ceil((tonumber(token) - now_us()) / 1000), redis.call('PTTL', fences))
  redis.call('PEXPIRE', fences, string.format('%.0f', left))
end
