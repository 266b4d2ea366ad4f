-- Revokes all sessions of a subject, or those of one device class, by raising its epoch above theirs, whatever the indexes hold.
-- The new epoch is above every one given out in the partition, so it rises even if the clock does not. The records are left to
-- the sweeper: no script or reader takes them for active any more.
-- KEYS: 1 subject, 2 index of the subject, 3 events of the partition, 4 device classes of the subject, 5 highest epoch of the
--       partition, 6 expiries of its sessions; to keep one session also its record and attributes; if the request can be repeated
--       also its answer
-- ARGV: 1 namespace, 2 id of the session to keep ('': none), 3 prefix of subject keys, 4 subject, 5 minimum time to keep the
--       epoch in milliseconds, 6 device class ('': all), 7 list of discarded indexes, 8 '1' if the request can be repeated
-- RETURNS: {number of sessions that ended, the new epoch as text}

local subject_key, index, events, classes, epoch_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local namespace, kept_id, subject_prefix, subject, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local class, discarded = ARGV[6], ARGV[7]
local ends = KEYS[6]
local kept, kept_attributes, request = KEYS[7], KEYS[8], ARGV[8] == '1' and KEYS[#KEYS] or nil

local before = answered(request)
if before then
  local count, epoch = string.match(before, '^(%d+) (%d+)$')
  return {tonumber(count), epoch}
end
local now = now_ms()
local s
if kept_id ~= '' then
  s = active(kept, kept_attributes, subject_prefix, now)
  if s and (subject_prefix .. s.subject_hash ~= subject_key or class ~= '' and class ~= s.class) then
    s = nil -- a session of another subject or class
  end
end
local ended_below, needed = subject_epoch(subject_key, class)
local epoch = math.max(highest_epoch(epoch_key, ends, now), ended_below, needed == NO_EPOCH and 0 or needed) + 1
redis.call('SET', epoch_key, ms(epoch))

local ended, ending = 0, class == '' and classes_of(classes) or {class}
-- The epoch must outlive every session that it revokes. Sessions that were created under longer timeouts than today's may
-- live longer than ARGV[5]: the indexes live as long as those, and an earlier epoch already took its sessions into account.
keep = math.max(keep, redis.call('PTTL', subject_key))
for _, c in ipairs(ending) do
  local key = index_of(index, c)
  keep = math.max(keep, redis.call('PTTL', key))
  ended = ended + redis.call('ZCOUNT', key, '(' .. ms(now), '+inf')
  if s and s.class == c and redis.call('ZSCORE', key, kept_id) then
    ended = ended - 1
  end
  discard(key, discarded, namespace .. ':' .. string.sub(subject_key, #subject_prefix + 1) .. ':' .. c .. ':' .. ms(epoch))
end
if class == '' then
  redis.call('UNLINK', classes)
  redis.call('DEL', subject_key) -- drops the epochs of classes, which are all lower
  redis.call('HSET', subject_key, 'ep', ms(epoch), 'since', ms(epoch))
else
  redis.call('SREM', classes, class)
  redis.call('HSET', subject_key, 'ep.' .. class, ms(epoch))
  if needed == NO_EPOCH then
    redis.call('HSET', subject_key, 'since', ms(epoch)) -- as in create.lua
  end
end
redis.call('PEXPIRE', subject_key, ms(keep))
if s then
  redis.call('HSET', kept, 'ep', ms(epoch))
  add_to_index(index, classes, subject_key, s.class, kept_id, expires_at(s), s.absolute, now)
end
emit(events, now, 'revoked', namespace, '', subject, {'reason', 'subject', 'class', class, 'except', s and kept_id or ''})
answer(request, ms(ended) .. ' ' .. ms(epoch))
return {ended, ms(epoch)}
