-- Creates a session, after revoking others if the subject is at its limits.
-- KEYS: 1-4 as in common.lua, 5 highest epoch of the partition; for a session with a subject also 6 subject, 7 index of the
--       subject, 8 its device classes, 9 note that a promotion has created the session, 10 index of the device class
-- ARGV: 1-4 as in common.lua, 5 subject, 6 hash of the subject ('': anonymous), 7 hash of the secret, 8 idle and 9 absolute
--       timeout in milliseconds, 10 ip, 11 user agent, 12 label, 13 device class, 14 highest epoch that the subject may have
--       (-1: any), 15 maximum sessions of the subject and 16 of the device class (0: unlimited), 17 policy at the limit
--       (evict_least_recently_used, evict_oldest, reject), 18 authentication assurance level, 19 authentication methods,
--       20 time of authentication in milliseconds ('': now), 21 id of the anonymous session that is promoted ('': none),
--       22 how long to keep the note in milliseconds, then name and value of each attribute
-- RETURNS: {1, time of creation in milliseconds, sessions that were revoked to make room}; {2, 0, sessions at the limit}; {0}
--          if the record exists or the promotion was completed before; or {3} if the script must be run again, as it has removed
--          many ids of sessions that are gone from an index and there are more. A session is {id, ip, user agent, label, device
--          class, created, last active, expires}

local record, attributes, events, ends, epoch_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local subject_key, index, classes, promotion = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local namespace, id, subject_prefix = ARGV[1], ARGV[2], ARGV[3]
local subject, subject_hash, secret_hash = ARGV[5], ARGV[6], ARGV[7]
local idle, absolute_timeout, ip, user_agent, label = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
local class, if_epoch = ARGV[13], tonumber(ARGV[14])
local max_sessions, max_of_class, policy = tonumber(ARGV[15]), tonumber(ARGV[16]), ARGV[17]
local aal, methods, authenticated, from, window = ARGV[18], ARGV[19], ARGV[20], ARGV[21], ARGV[22]
local first_attribute = 23

if redis.call('EXISTS', record) == 1 then
  return {0}
end
-- A late retry of a promotion must not create again a session that has ended since.
if from ~= '' and redis.call('EXISTS', promotion) == 1 then
  return {0}
end
local now = now_ms()
local absolute = now + absolute_timeout
local expires = math.min(absolute, now + idle)
local epoch = now
local evicted, since = {}, nil
if subject_hash ~= '' then
  local s = subject_of(subject_key, class)
  epoch = highest_epoch(epoch_key, ends, s, now)
  -- An epoch that the caller has seen and that is gone may have been raised before, unless it is the highest one still. If it is
  -- above that, the highest one is gone, too. Of the key that the caller has seen no epoch is below the one that names it, and a
  -- key that has had epochs in microseconds says so.
  local unknown = not s.since and if_epoch ~= epoch
    or s.since and (tonumber(s.since) > if_epoch or if_epoch > MICROSECONDS and not s.micros)
  if if_epoch >= 0 and s.epoch > if_epoch or if_epoch > 0 and unknown then
    return redis.error_reply('LARDER_SUBJECT_EPOCH_CHANGED revoked meanwhile')
  end
  local plan = plan_of(now, namespace, string.sub(record, 1, -#id - 1), string.sub(attributes, 1, -#id - 1), subject_prefix)
  -- First the class: the sessions that it revokes make room for the subject as well.
  local refused = class ~= '' and make_room({index_of(index, class)}, max_of_class, policy, plan)
  if not refused and max_sessions > 0 then
    local indexes = {}
    for i, c in ipairs(classes_of(classes)) do
      indexes[i] = index_of(index, c)
    end
    local ask = elsewhere(indexes)
    if ask then
      return ask
    end
    refused = make_room(indexes, max_sessions, policy, plan)
  end
  local ask = elsewhere(plan.missing)
  if ask then
    return ask
  end
  if plan.unfinished then
    tidy(plan)
    return {3}
  end
  if refused then
    return {2, 0, refused}
  end
  evicted = carry_out(plan, events, ends)
  epoch = math.max(epoch, s.epoch, tonumber(s.since or '0'))
  if not s.since then -- the first session of the subject, or one after Redis has evicted its key
    epoch = epoch + 1
    s.since = ms(epoch)
    redis.call('HSET', subject_key, 'since', s.since)
  end
  if epoch > MICROSECONDS and not s.micros then
    redis.call('HSET', subject_key, 'us', '1')
  end
  since = s.since
else
  epoch = highest_epoch(epoch_key, ends, nil, now) -- where there are sessions there is a highest epoch
end
redis.call('SET', epoch_key, ms(epoch))

local fields = {
  'sub', subject, 'sh', subject_hash, 'h', secret_hash, 'ct', ms(now), 'la', ms(now), 'idle', ms(idle), 'abs', ms(absolute),
  'ep', ms(epoch), 'v', '1', 'ip', ip, 'label', label, 'da', #ARGV >= first_attribute and '1' or '0',
}
local function field(name, value)
  fields[#fields + 1], fields[#fields + 2] = name, value
end
-- Redis keeps a hash compact only if each of its values has at most 64 bytes.
for i = 0, math.max(0, math.ceil(#user_agent / 64) - 1) do
  field(i == 0 and 'ua' or 'ua' .. i, string.sub(user_agent, 64 * i + 1, 64 * i + 64))
end
if class ~= '' then
  field('cl', class)
end
if subject_hash ~= '' then
  field('su', since)
  field('aal', aal)
  field('amr', methods)
  field('at', authenticated == '' and ms(now) or authenticated)
end
redis.call('HSET', record, unpack(fields))
redis.call('PEXPIREAT', record, ms(expires + RETAIN))
if #ARGV >= first_attribute then
  redis.call('HSET', attributes, unpack(ARGV, first_attribute))
  redis.call('PEXPIREAT', attributes, ms(absolute + RETAIN))
end
if subject_hash ~= '' then
  add_to_index(index, classes, subject_key, class, id, expires, absolute, now)
end
ends_at(ends, namespace, id, nil, expires)
if from == '' then
  emit(events, now, 'created', namespace, id, subject)
else
  redis.call('SET', promotion, '', 'PX', window)
  emit(events, now, 'promoted', namespace, id, subject, {'from', from})
end
return {1, now, evicted}
