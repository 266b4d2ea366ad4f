-- Functions that revoke all sessions of a subject, or those of one device class, by raising its epoch above theirs, whatever the
-- indexes hold. scripts.go puts this file before revoke_subject.lua, and package token before the script that consumes tokens.
--
-- A revocation is a table: now, namespace, subject, subject_prefix and hash, which make the subject_key, index, events,
-- classes, class ('': all), epoch_key, ends, discarded, keep (minimum time to keep the epoch in milliseconds), and to keep one
-- session kept_id, kept (its record) and kept_attributes.

-- plan_revocation reads what a revocation needs and writes nothing. It returns what elsewhere returns.
local function plan_revocation(r)
  local s
  if r.kept_id ~= '' then
    s = load(r.kept)
    if s and (s.subject_hash ~= r.hash or r.class ~= '' and r.class ~= s.class) then
      s = nil -- a session of another subject or class
    end
    s = active(s, r.kept_attributes, r.subject_prefix, r.now)
  end
  r.session = s
  local known = subject_of(r.subject_key, r.class)
  r.epoch = math.max(highest_epoch(r.epoch_key, r.ends, known, r.now), known.epoch, tonumber(known.since or '0')) + 1
  r.key_exists, r.since = known.since ~= nil, known.since and known.since ~= '0' and known.since or ms(r.epoch)
  r.ending, r.indexes, r.names = r.class == '' and classes_of(r.classes) or {r.class}, {}, {}
  for i, c in ipairs(r.ending) do
    r.indexes[i] = index_of(r.index, c)
  end
  if s then
    r.indexes[#r.indexes + 1] = index_of(r.index, s.class)
  end
  local ask = elsewhere(r.indexes)
  if ask then
    return ask
  end
  for i, c in ipairs(r.ending) do
    r.names[i] = r.namespace .. ':' .. r.hash .. ':' .. c .. ':' .. ms(r.epoch)
    redis.call('EXISTS', discarded_name(r.discarded, r.names[i])) -- fails, and the script with it, on a node that the slot leaves
  end
  return nil
end

-- revoke_planned makes a planned revocation and returns the number of sessions that ended.
local function revoke_planned(r)
  local s, now, ended, keep = r.session, r.now, 0, r.keep
  redis.call('SET', r.epoch_key, ms(r.epoch))
  -- The epoch must outlive every session that it revokes. Sessions that were created under longer timeouts than today's may
  -- live longer than r.keep: the indexes live as long as those, and an earlier epoch already took its sessions into account.
  keep = math.max(keep, redis.call('PTTL', r.subject_key))
  for i, c in ipairs(r.ending) do
    local key = r.indexes[i]
    keep = math.max(keep, redis.call('PTTL', key))
    ended = ended + redis.call('ZCOUNT', key, '(' .. ms(now), '+inf')
    if s and s.class == c and redis.call('ZSCORE', key, r.kept_id) then
      ended = ended - 1
    end
    discard(key, r.discarded, r.names[i])
  end
  if r.class == '' then
    redis.call('UNLINK', r.classes)
    redis.call('DEL', r.subject_key) -- drops the epochs of classes, which are all lower
    redis.call('HSET', r.subject_key, 'ep', ms(r.epoch), 'since', r.since)
  else
    redis.call('SREM', r.classes, r.class)
    redis.call('HSET', r.subject_key, 'ep.' .. r.class, ms(r.epoch))
    if not r.key_exists then
      redis.call('HSET', r.subject_key, 'since', r.since) -- as in create.lua
    end
    if r.epoch > MICROSECONDS then
      redis.call('HSET', r.subject_key, 'us', '1') -- as in create.lua
    end
  end
  redis.call('PEXPIRE', r.subject_key, ms(keep))
  if s then
    redis.call('HSET', r.kept, 'ep', ms(r.epoch))
    if s.since and r.class == '' then
      redis.call('HSET', r.kept, 'su', r.since)
    end
    add_to_index(r.index, r.classes, r.subject_key, s.class, r.kept_id, expires_at(s), s.absolute, now)
  end
  emit(r.events, now, 'revoked', r.namespace, '', r.subject, {'reason', 'subject', 'class', r.class, 'except', s and r.kept_id or ''})
  return ended
end
