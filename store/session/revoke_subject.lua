-- Revokes all sessions of a subject, or those of one device class, by raising its epoch above theirs, whatever the indexes hold.
-- The new epoch is above every one given out in the partition, so it rises even if the clock does not. The records are left to
-- the sweeper: no script or reader takes them for active any more.
-- KEYS: 1 subject, 2 index of the subject, 3 events of the partition, 4 device classes of the subject, 5 highest epoch of the
--       partition, 6 expiries of its sessions, 7 list of discarded indexes, 8 index of the device class; to keep one session also
--       its record and attributes; if the request can be repeated also its answer
-- ARGV: 1 namespace, 2 id of the session to keep ('': none), 3 prefix of subject keys, 4 subject, 5 minimum time to keep the
--       epoch in milliseconds, 6 device class ('': all), 7 number of keys with the answer to the request (0: it cannot be
--       repeated)
-- RETURNS: {number of sessions that ended, the new epoch as text}

local subject_key, index, events, classes, epoch_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local namespace, kept_id, subject_prefix, subject, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local class, ends, discarded = ARGV[6], KEYS[6], KEYS[7]
local kept, kept_attributes = KEYS[9], KEYS[10]
local request = ARGV[7] ~= '0' and KEYS[tonumber(ARGV[7])] or nil

local before = answered(request)
if before then
  local count, epoch = string.match(before, '^(%d+) (%d+)$')
  return {tonumber(count), epoch}
end
local now = now_ms()
local s
if kept_id ~= '' then
  s = load(kept)
  if s and (subject_prefix .. s.subject_hash ~= subject_key or class ~= '' and class ~= s.class) then
    s = nil -- a session of another subject or class
  end
  s = active(s, kept_attributes, subject_prefix, now)
end
local known = subject_of(subject_key, class)
local epoch = math.max(highest_epoch(epoch_key, ends, known, now), known.epoch, tonumber(known.since or '0')) + 1
local since = known.since and known.since ~= '0' and known.since or ms(epoch)
local ending, indexes = class == '' and classes_of(classes) or {class}, {}
for i, c in ipairs(ending) do
  indexes[i] = index_of(index, c)
end
if s then
  indexes[#indexes + 1] = index_of(index, s.class)
end
local ask = elsewhere(indexes)
if ask then
  return ask
end
local names = {}
for i, c in ipairs(ending) do
  names[i] = namespace .. ':' .. string.sub(subject_key, #subject_prefix + 1) .. ':' .. c .. ':' .. ms(epoch)
  redis.call('EXISTS', discarded_name(discarded, names[i])) -- fails, and the script with it, on a node that the slot leaves
end
redis.call('SET', epoch_key, ms(epoch))

local ended = 0
-- The epoch must outlive every session that it revokes. Sessions that were created under longer timeouts than today's may
-- live longer than ARGV[5]: the indexes live as long as those, and an earlier epoch already took its sessions into account.
keep = math.max(keep, redis.call('PTTL', subject_key))
for i, c in ipairs(ending) do
  local key = indexes[i]
  keep = math.max(keep, redis.call('PTTL', key))
  ended = ended + redis.call('ZCOUNT', key, '(' .. ms(now), '+inf')
  if s and s.class == c and redis.call('ZSCORE', key, kept_id) then
    ended = ended - 1
  end
  discard(key, discarded, names[i])
end
if class == '' then
  redis.call('UNLINK', classes)
  redis.call('DEL', subject_key) -- drops the epochs of classes, which are all lower
  redis.call('HSET', subject_key, 'ep', ms(epoch), 'since', since)
else
  redis.call('SREM', classes, class)
  redis.call('HSET', subject_key, 'ep.' .. class, ms(epoch))
  if not known.since then
    redis.call('HSET', subject_key, 'since', since) -- as in create.lua
  end
  if epoch > MICROSECONDS then
    redis.call('HSET', subject_key, 'us', '1') -- as in create.lua
  end
end
redis.call('PEXPIRE', subject_key, ms(keep))
if s then
  redis.call('HSET', kept, 'ep', ms(epoch))
  if s.since and class == '' then
    redis.call('HSET', kept, 'su', since)
  end
  add_to_index(index, classes, subject_key, s.class, kept_id, expires_at(s), s.absolute, now)
end
emit(events, now, 'revoked', namespace, '', subject, {'reason', 'subject', 'class', class, 'except', s and kept_id or ''})
answer(request, ms(ended) .. ' ' .. ms(epoch))
return {ended, ms(epoch)}
