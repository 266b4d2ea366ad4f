-- Functions that enforce the limits of a subject; scripts.go puts this file before the scripts that create sessions. They first
-- plan what to revoke, which only reads, and then do it.

-- The maximum number of sessions that a refusal lists.
local LISTED = 200

-- The maximum number of records of one index to read at a time, those that expire first, as other callers wait meanwhile.
local READ = 1000

-- How many times as many are read of an index in one script if none of them is active.
local BATCHES = 4

-- plan_of returns an empty plan. Sessions are those to revoke; read has what was read of each index; missing are keys of which
-- the plan does not know whether they exist.
local function plan_of(now, namespace, record_prefix, attributes_prefix, subject_prefix)
  return {
    now = now, namespace = namespace, record_prefix = record_prefix, attributes_prefix = attributes_prefix,
    subject_prefix = subject_prefix, sessions = {}, read = {}, missing = {},
  }
end

-- unexpired returns the number of ids in an index whose sessions have not expired.
local function unexpired(index, now)
  return redis.call('ZCOUNT', index, '(' .. ms(now), '+inf')
end

-- look_at returns the session of an id if it is active. Its attributes are looked at as well, since they would be removed.
local function look_at(id, plan)
  local record, attributes = plan.record_prefix .. id, plan.attributes_prefix .. id
  local s = load(record)
  if not s then
    plan.missing[#plan.missing + 1] = record
    return nil
  end
  if s.attributes ~= '0' then
    s.has_attributes = redis.call('EXISTS', attributes) == 1
    if s.attributes == '1' and not s.has_attributes then
      plan.missing[#plan.missing + 1] = attributes
    end
  end
  return active(s, attributes, plan.subject_prefix, plan.now)
end

-- living returns the active sessions of an index, those that expire first, the ids of others, and how many it did not read. If
-- there are more ids and it has found no active session, the plan is unfinished.
local function living(index, plan)
  local r = plan.read[index]
  if r then
    return r
  end
  r = {found = {}, gone = {}, unread = unexpired(index, plan.now)}
  plan.read[index] = r
  local from, batch = 0, 0
  repeat
    local ids = redis.call('ZRANGEBYSCORE', index, '(' .. ms(plan.now), '+inf', 'LIMIT', from, READ)
    for _, id in ipairs(ids) do
      local s = look_at(id, plan)
      if s then
        s.id, s.index = id, index
        r.found[#r.found + 1] = s
      else
        r.gone[#r.gone + 1] = id
      end
    end
    from, batch, r.unread = from + #ids, batch + 1, r.unread - #ids
  until #r.found > 0 or #ids == 0 or batch == BATCHES
  plan.unfinished = plan.unfinished or #r.found == 0 and r.unread > 0
  return r
end

-- first_by returns a comparison of sessions by a field; the older session comes first if the fields are equal.
local function first_by(field)
  return function(a, b)
    if a[field] ~= b[field] then
      return a[field] < b[field]
    end
    if a.created ~= b.created then
      return a.created < b.created
    end
    return a.id < b.id
  end
end

-- describe returns a session as create.lua lists it.
local function describe(record, s)
  local f, user_agent, part = redis.call('HMGET', record, 'ip', 'label'), '', 0
  repeat
    local more = redis.call('HGET', record, part == 0 and 'ua' or 'ua' .. part)
    user_agent, part = user_agent .. (more or ''), part + 1
  until not more or #more < 64
  return {s.id, f[1] or '', user_agent, f[2] or '', s.class, ms(s.created), ms(s.last_active), ms(expires_at(s))}
end

-- make_room plans to revoke sessions in the given indexes until there is room for one more within the limit (0: unlimited), but
-- not more than it has read. If the policy is reject, it plans nothing and returns those that count.
local function make_room(indexes, limit, policy, plan)
  if limit == 0 then
    return nil
  end
  local count, found, unread = 0, {}, 0
  for _, index in ipairs(indexes) do
    count = count + unexpired(index, plan.now)
  end
  if count < limit then
    return nil
  end
  -- An index may hold ids of sessions that were revoked, so the records decide; they are read at the limit only.
  for _, index in ipairs(indexes) do
    local r = living(index, plan)
    unread = unread + r.unread
    for _, s in ipairs(r.found) do
      if not s.planned then
        found[#found + 1] = s
      end
    end
  end
  local excess = #found + unread - limit + 1
  if excess <= 0 then
    return nil
  end
  table.sort(found, first_by(policy == 'evict_oldest' and 'created' or 'last_active'))
  if policy == 'reject' then
    local listed = {}
    for i = 1, math.min(#found, LISTED) do
      listed[i] = describe(plan.record_prefix .. found[i].id, found[i])
    end
    return listed
  end
  for i = 1, math.min(#found, excess) do
    found[i].planned = true
    plan.sessions[#plan.sessions + 1] = found[i]
  end
  return nil
end

-- tidy removes from the indexes that were read what is not active.
local function tidy(plan)
  for index, r in pairs(plan.read) do
    for i = 1, #r.gone, READ do
      redis.call('ZREM', index, unpack(r.gone, i, math.min(i + READ - 1, #r.gone)))
    end
    redis.call('ZREMRANGEBYSCORE', index, '-inf', ms(plan.now))
  end
end

-- carry_out revokes what was planned, tidies the indexes that were read, and returns the revoked sessions.
local function carry_out(plan, events, ends)
  local evicted = {}
  for i, s in ipairs(plan.sessions) do
    local record = plan.record_prefix .. s.id
    evicted[i] = describe(record, s)
    redis.call('DEL', record)
    if s.has_attributes then
      redis.call('DEL', plan.attributes_prefix .. s.id)
    end
    redis.call('ZREM', ends, plan.namespace .. ':' .. s.id)
    redis.call('ZREM', s.index, s.id)
    emit(events, plan.now, 'revoked', plan.namespace, s.id, s.subject, {'reason', 'limit'})
  end
  tidy(plan)
  return evicted
end
