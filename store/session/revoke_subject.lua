-- Ends every session of a subject, or those of one device class, by raising its epoch above that of each, whatever the
-- indexes say. The epoch is above every one that was given out before, so that it rises even if the clock does not and
-- needs no memory older than the oldest session. Records are left to the sweeper: nothing reads them as active any more.
-- KEYS: 1 the subject, 2 its index, 3 the events of the partition, 4 the subject's device classes, 5 the highest epoch of
--       the partition, and if one session is kept 6 its record
-- ARGV: 1 namespace, 2 id of the session to keep ('': none), 3 prefix of subject keys, 4 subject, 5 how long the epoch is
--       kept at least in milliseconds, 6 device class ('': all), 7 the list of discarded indexes
-- RETURNS: {the number of sessions that were ended, the new epoch as text}

local subject_key, index, events, classes, mark, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local namespace, kept_id, subject_prefix, subject, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local class, discarded = ARGV[6], ARGV[7]

local now = now_ms()
local s
if kept_id ~= '' then
  s = active(kept, subject_prefix, now)
  if s and (subject_prefix .. s.subject_hash ~= subject_key or class ~= '' and class ~= s.class) then
    s = nil -- somebody else's, or of another class
  end
end
local epoch = math.max(highest_epoch(mark, now), subject_epoch(subject_key, class)) + 1
redis.call('SET', mark, ms(epoch))

local ended, ending = 0, class == '' and classes_of(classes) or {class}
-- Sessions made under longer timeouts than today's would come back if the epoch were forgotten before they end. The
-- indexes live as long as the longest of them, and what was promised to those ended before still holds.
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
  redis.call('DEL', subject_key) -- the epochs of classes, which are lower than this one
  redis.call('HSET', subject_key, 'ep', ms(epoch))
else
  redis.call('SREM', classes, class)
  redis.call('HSET', subject_key, 'ep.' .. class, ms(epoch))
end
redis.call('PEXPIRE', subject_key, ms(keep))
if s then
  redis.call('HSET', kept, 'ep', ms(epoch))
  add_to_index(index, classes, s.class, kept_id, expires_at(s), s.absolute, now)
end
emit(events, now, 'revoked', namespace, '', subject, {'reason', 'subject', 'class', class, 'except', s and kept_id or ''})
return {ended, ms(epoch)}
