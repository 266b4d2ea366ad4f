-- Ends every session of a subject by raising its epoch above that of each, whatever the index says. The epoch is the
-- larger of the clock and one more than before, so that it rises even if the clock does not and needs no memory older
-- than the oldest session. Records are left to their expiry: nothing reads them as active any more.
-- KEYS: 1 the subject, 2 the index, 3 the events of the partition, and if one session is kept 4 its record
-- ARGV: 1 namespace, 2 id of the session to keep ('': none), 3 prefix of subject keys, 4 subject, 5 how long the epoch is
--       kept at least in milliseconds
-- RETURNS: the number of sessions that were ended

local subject_key, index, events, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local namespace, kept_id, subject_prefix, subject, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local now = now_ms()
local s
if kept_id ~= '' then
  s = active(kept, subject_prefix, now)
  if s and subject_prefix .. s.subject_hash ~= subject_key then
    s = nil -- somebody else's
  end
end
local epoch = math.max(now, tonumber(redis.call('HGET', subject_key, 'ep') or '0')) + 1
-- Sessions made under longer timeouts than today's would come back if the epoch were forgotten before they end. The index
-- lives as long as the longest of them, and what was promised to those ended before still holds.
keep = math.max(keep, redis.call('PTTL', index), redis.call('PTTL', subject_key))
redis.call('HSET', subject_key, 'ep', ms(epoch))
redis.call('PEXPIRE', subject_key, ms(keep))

local ended = redis.call('ZCOUNT', index, '(' .. ms(now), '+inf')
local score = s and redis.call('ZSCORE', index, kept_id)
redis.call('UNLINK', index)
if s then
  redis.call('HSET', kept, 'ep', ms(epoch))
  redis.call('ZADD', index, ms(expires_at(s)), kept_id)
  redis.call('PEXPIREAT', index, ms(s.absolute + RETAIN))
  if score then
    ended = ended - 1
  end
end
emit(events, now, 'revoked', namespace, '', subject, {'reason', 'subject', 'except', s and kept_id or ''})
return ended
