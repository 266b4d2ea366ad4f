-- Makes one step of sweeping a partition: removes expired sessions, each with its event, and the keys of sessions that were
-- revoked together. A sweep by another replica at the same time finds nothing left to do.
-- KEYS: 1 expiries of the partition's sessions, 2 events, 3 list of discarded indexes
-- ARGV: 1 prefix of records, 2 of attributes, 3 of subject keys and 4 of indexes, all without the namespace, 5 maximum number of
--       expired sessions and 6 of revoked sessions to handle
-- RETURNS: {number of sessions that expired by the idle timeout, by the absolute timeout, number removed without an expiry, 1 if
--          there is more to do, lateness of the first in milliseconds}

local ends, events, discarded = KEYS[1], KEYS[2], KEYS[3]
local records, attributes, subjects, indexes = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_due, max_discarded = tonumber(ARGV[5]), tonumber(ARGV[6])

local now = now_ms()
local idle, absolute, removed, more, late = 0, 0, 0, 0, 0

local function remove(member)
  redis.call('UNLINK', records .. member, attributes .. member)
  redis.call('ZREM', ends, member)
end

local function unrevoked_member(member, namespace)
  return unrevoked(records .. member, subjects .. namespace .. ':')
end

local due = redis.call('ZRANGEBYSCORE', ends, '-inf', ms(now), 'WITHSCORES', 'LIMIT', 0, max_due)
for i = 1, #due, 2 do
  local member = due[i]
  late = math.max(late, now - tonumber(due[i + 1]))
  local namespace, id = string.match(member, '^([^:]*):(.*)$')
  local s = unrevoked_member(member, namespace)
  local index = s and s.subject_hash ~= '' and index_of(indexes .. namespace .. ':' .. s.subject_hash, s.class)
  if not s then
    -- It was revoked, which emitted an event then, or Redis has evicted the record or the subject's key.
    local found = load(records .. member)
    local lost = not found or found.needs_subject and epoch_for(found, subjects .. namespace .. ':') == NO_EPOCH
    remove(member)
    removed = removed + 1
    if lost then
      emit(events, now, 'revoked', namespace, id, '', {'reason', 'lost'})
    end
  elseif now < expires_at(s) then
    ends_at(ends, namespace, id, index, expires_at(s)) -- a touch has moved its expiry
  else
    remove(member)
    if index then
      redis.call('ZREM', index, id)
    end
    if s.absolute <= s.last_active + s.idle then
      absolute = absolute + 1
      emit(events, expires_at(s), 'expired_absolute', namespace, id, s.subject)
    else
      idle = idle + 1
      emit(events, expires_at(s), 'expired_idle', namespace, id, s.subject)
    end
  end
end
if #due == 2 * max_due then
  more = 1
end

local name = redis.call('LINDEX', discarded, 0)
if name then
  local namespace = string.match(name, '^([^:]*):')
  local index = discarded .. ':' .. name
  local ids = redis.call('ZRANGE', index, 0, max_discarded - 1)
  for i = 1, #ids do
    local member = namespace .. ':' .. ids[i]
    if not unrevoked_member(member, namespace) then -- active: it was excepted
      remove(member)
      removed = removed + 1
    end
  end
  if #ids < max_discarded then
    redis.call('UNLINK', index)
    redis.call('LPOP', discarded)
  else
    redis.call('ZREMRANGEBYRANK', index, 0, max_discarded - 1)
  end
  if redis.call('LLEN', discarded) > 0 then
    more = 1
  end
end
return {idle, absolute, removed, more, late}
