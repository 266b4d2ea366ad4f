-- One step of clearing a partition: ends the sessions whose time is over, each with its event, and removes what sessions
-- have left that were ended together. Whoever else does the same at once finds nothing more to do.
-- KEYS: 1 the ends of the partition's sessions, 2 its events, 3 its list of discarded indexes
-- ARGV: 1 prefix of records, 2 of attributes, 3 of subject keys and 4 of indexes, all of every namespace, 5 most sessions to
--       end, 6 most discarded sessions to look at
-- RETURNS: {ended by the idle timeout, ended by the absolute one, removed without an event, 1 if more is left to do, by how
--          many milliseconds the first was late}

local ends, events, discarded = KEYS[1], KEYS[2], KEYS[3]
local records, attributes, subjects, indexes = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most_due, most_discarded = tonumber(ARGV[5]), tonumber(ARGV[6])

local now = now_ms()
local idle, absolute, removed, more, late = 0, 0, 0, 0, 0

local function remove(member)
  redis.call('UNLINK', records .. member, attributes .. member)
  redis.call('ZREM', ends, member)
end

-- of_any_age returns the session of a record whether or not its time is over, or nothing if it was revoked.
local function of_any_age(member, namespace)
  return active(records .. member, subjects .. namespace .. ':', 0)
end

local due = redis.call('ZRANGEBYSCORE', ends, '-inf', ms(now), 'WITHSCORES', 'LIMIT', 0, most_due)
for i = 1, #due, 2 do
  local member = due[i]
  late = math.max(late, now - tonumber(due[i + 1]))
  local namespace, id = string.match(member, '^([^:]*):(.*)$')
  local s = of_any_age(member, namespace)
  local index = s and s.subject_hash ~= '' and index_of(indexes .. namespace .. ':' .. s.subject_hash, s.class)
  if not s then
    -- Revoked, which had its own event, or a record that Redis has lost, which may have been of anybody.
    local lost = redis.call('EXISTS', records .. member) == 0
    remove(member)
    removed = removed + 1
    if lost then
      emit(events, now, 'revoked', namespace, id, '', {'reason', 'lost'})
    end
  elseif now < expires_at(s) then
    ends_at(ends, namespace, id, index, expires_at(s)) -- it has been active since
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
if #due == 2 * most_due then
  more = 1
end

local name = redis.call('LINDEX', discarded, 0)
if name then
  local namespace = string.match(name, '^([^:]*):')
  local index = discarded .. ':' .. name
  local ids = redis.call('ZRANGE', index, 0, most_discarded - 1)
  for i = 1, #ids do
    local member = namespace .. ':' .. ids[i]
    if not of_any_age(member, namespace) then -- else it was spared
      remove(member)
      removed = removed + 1
    end
  end
  if #ids < most_discarded then
    redis.call('UNLINK', index)
    redis.call('LPOP', discarded)
  else
    redis.call('ZREMRANGEBYRANK', index, 0, most_discarded - 1)
  end
  if redis.call('LLEN', discarded) > 0 then
    more = 1
  end
end
return {idle, absolute, removed, more, late}
