-- Makes one step of sweeping a partition: removes expired sessions, each with its event, and the keys of sessions that were
-- revoked together. A sweep by another replica at the same time finds nothing left to do.
-- KEYS: 1 expiries of the partition's sessions, 2 events, 3 list of discarded indexes
-- ARGV: 1 prefix of records, 2 of attributes, 3 of subject keys and 4 of indexes, all without the namespace, 5 maximum number
--       of expired sessions and 6 of revoked sessions to handle
-- RETURNS: {number of sessions that expired by the idle timeout, by the absolute timeout, number removed without an expiry, 1
--          if there is more to do, lateness of the first in milliseconds}

local ends, events, discarded = KEYS[1], KEYS[2], KEYS[3]
local records, attributes, subjects, indexes = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_due, max_discarded = tonumber(ARGV[5]), tonumber(ARGV[6])

local now = now_ms()
local idle, absolute, removed, more, late = 0, 0, 0, 0, 0

-- look_at returns what there is of a session, and notes which keys must be looked for elsewhere.
local function look_at(member, missing)
  local namespace, id = string.match(member, '^([^:]*):(.*)$')
  local m = {member = member, namespace = namespace, id = id, subject_prefix = subjects .. namespace .. ':'}
  m.session = load(records .. member)
  if m.session and not (m.session.idle and m.session.absolute and m.session.epoch and m.session.subject_hash) then
    m.session, m.damaged = nil, true -- a field is missing, as another client may have done: nobody can use it
  end
  if m.damaged then
    m.has_attributes = redis.call('EXISTS', attributes .. member) == 1
    return m
  end
  if not m.session then
    missing[#missing + 1] = records .. member
    return m
  end
  m.has_attributes = m.session.attributes ~= '0' and redis.call('EXISTS', attributes .. member) == 1
  if m.session.subject_hash ~= '' then
    missing[#missing + 1] = m.subject_prefix .. m.session.subject_hash
    local index = index_of(indexes .. namespace .. ':' .. m.session.subject_hash, m.session.class)
    -- It is gone if all of its sessions have expired.
    m.index = redis.call('EXISTS', index) == 1 and index or nil
  end
  return m
end

local gone = {}
local function remove(m)
  gone[m.member] = true
  if m.session or m.damaged then
    redis.call('UNLINK', records .. m.member)
  end
  if m.has_attributes then
    redis.call('UNLINK', attributes .. m.member)
  end
  redis.call('ZREM', ends, m.member)
end

-- First what there is, which only reads.
local missing, due = {}, {}
local scored = redis.call('ZRANGEBYSCORE', ends, '-inf', ms(now), 'WITHSCORES', 'LIMIT', 0, max_due)
for i = 1, #scored, 2 do
  due[#due + 1] = look_at(scored[i], missing)
  late = math.max(late, now - tonumber(scored[i + 1]))
end
local name = redis.call('LINDEX', discarded, 0)
local index, former = nil, {}
if name then
  local namespace = string.match(name, '^([^:]*):')
  index = discarded_name(discarded, name)
  missing[#missing + 1] = index
  for i, id in ipairs(redis.call('ZRANGE', index, 0, max_discarded - 1)) do
    former[i] = look_at(namespace .. ':' .. id, missing)
  end
end
local ask = elsewhere(missing)
if ask then
  return ask
end

for _, m in ipairs(due) do
  local found, s = m.session, unrevoked(m.session, m.subject_prefix)
  if not s then
    -- It was revoked, which emitted an event then, or Redis has evicted the record or the subject's key.
    local lost = not found or found.since and epoch_for(found, m.subject_prefix) == NO_EPOCH
    remove(m)
    removed = removed + 1
    if lost then
      emit(events, now, 'revoked', m.namespace, m.id, '', {'reason', 'lost'})
    end
  elseif now < expires_at(s) then
    ends_at(ends, m.namespace, m.id, m.index, expires_at(s)) -- a touch has moved its expiry
  else
    remove(m)
    if m.index then
      redis.call('ZREM', m.index, m.id)
    end
    if s.absolute <= s.last_active + s.idle then
      absolute = absolute + 1
      emit(events, expires_at(s), 'expired_absolute', m.namespace, m.id, s.subject)
    else
      idle = idle + 1
      emit(events, expires_at(s), 'expired_idle', m.namespace, m.id, s.subject)
    end
  end
end
if #due == max_due then
  more = 1
end

if name then
  for _, m in ipairs(former) do
    if not gone[m.member] and not unrevoked(m.session, m.subject_prefix) then -- else it was excepted
      remove(m)
      removed = removed + 1
    end
  end
  if #former < max_discarded then
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
