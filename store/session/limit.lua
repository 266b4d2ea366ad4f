-- Functions that enforce the limits of a subject; scripts.go puts this file before the scripts that create sessions.

-- The maximum number of sessions that a refusal lists.
local LISTED = 200

-- The maximum number of records of one index to read, those that expire first, as other callers wait meanwhile.
local READ = 1000

-- living adds the active sessions of an index to found and removes the ids of others. It returns how many it did not read.
local function living(index, c, found)
  local ids = redis.call('ZRANGE', index, 0, READ - 1)
  local unread = redis.call('ZCARD', index) - #ids
  for _, id in ipairs(ids) do
    local s = active(c.record_prefix .. id, c.attributes_prefix .. id, c.subject_prefix, c.now)
    if s then
      s.id, s.index = id, index
      found[#found + 1] = s
    else
      redis.call('ZREM', index, id)
    end
  end
  return unread
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
  local f = redis.call('HMGET', record, 'ip', 'ua', 'label')
  return {s.id, f[1] or '', f[2] or '', f[3] or '', s.class, ms(s.created), ms(s.last_active), ms(expires_at(s))}
end

-- make_room revokes sessions in the given indexes until there is room for one more within the limit (0: unlimited), but not
-- more than it has read. It adds them to evicted. If the policy is reject, it revokes none and returns those that count.
local function make_room(indexes, limit, c, evicted)
  if limit == 0 then
    return nil
  end
  local count = 0
  for _, index in ipairs(indexes) do
    redis.call('ZREMRANGEBYSCORE', index, '-inf', ms(c.now))
    count = count + redis.call('ZCARD', index)
  end
  if count < limit then
    return nil
  end
  -- An index may hold ids of sessions that were revoked, so the records decide; they are read at the limit only.
  local found, unread
  repeat
    found, unread = {}, 0
    for _, index in ipairs(indexes) do
      unread = unread + living(index, c, found)
    end
  until #found > 0 or unread == 0
  local excess = #found + unread - limit + 1
  if excess <= 0 then
    return nil
  end
  table.sort(found, first_by(c.policy == 'evict_oldest' and 'created' or 'last_active'))
  if c.policy == 'reject' then
    local listed = {}
    for i = 1, math.min(#found, LISTED) do
      listed[i] = describe(c.record_prefix .. found[i].id, found[i])
    end
    return listed
  end
  for i = 1, math.min(#found, excess) do
    local s = found[i]
    local record = c.record_prefix .. s.id
    evicted[#evicted + 1] = describe(record, s)
    redis.call('DEL', record, c.attributes_prefix .. s.id)
    redis.call('ZREM', c.ends, c.namespace .. ':' .. s.id)
    redis.call('ZREM', s.index, s.id)
    emit(c.events, c.now, 'revoked', c.namespace, s.id, s.subject, {'reason', 'limit'})
  end
  return nil
end
