-- Functions shared by the scripts of sessions; scripts.go puts this file before each of them. docs/redis.md lists the keys
-- and the fields of a record.
--
-- A record names its subject by a hash, so a script that is given a session id learns from the record alone which subject
-- key and which index belong to it. The script builds their names from the prefixes in ARGV: they have the record's hash tag
-- and are in its slot. Each session is in one index, that of its subject and device class.
--
-- Scripts that change one session begin with the same keys and arguments:
-- KEYS: 1 record, 2 attributes, 3 events of the partition, 4 expiries of the partition's sessions
-- ARGV: 1 namespace, 2 session id, 3 prefix of subject keys, 4 prefix of indexes
--
-- Scripts that are given a token have its proof: the SHA-256 of its secret, 16 bytes that are the same for every secret that
-- the session has ever had, its lineage, and 4 bytes that count its secrets, big-endian and from any number, its generation.
-- An empty proof means that the caller named the session by id.

-- How long events are kept, in milliseconds; eventRetention in sweep.go.
local EVENT_RETENTION = 24 * 3600 * 1000

-- How long the key of a record outlives its session, in milliseconds: the times in the record decide when a session expires,
-- and never the expiry of a key. The sweeper removes records within seconds. If no sweeper has run for as long as events are
-- kept, nobody would receive the event about the expiry anyway.
local RETAIN = EVENT_RETENTION + 3600 * 1000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- ms formats a time or an epoch; tostring would use an exponent for large numbers.
local function ms(n)
  return string.format('%.0f', n)
end

-- expires_at returns when a session expires.
local function expires_at(s)
  return math.min(s.absolute, s.last_active + s.idle)
end

-- The epoch of a subject whose key is gone: no session has a higher one. Lua's numbers are exact up to there.
local NO_EPOCH = 9007199254740992

-- Epochs are milliseconds, and microseconds once Redis has evicted the highest one of the partition: above this number.
local MICROSECONDS = 1000000000000000

-- subject_of returns what the key of a subject says. Epoch is that of the subject and a device class ('': none): sessions with a
-- lower epoch are revoked. Since names this very key, which sessions remember that were created under it; it is nil if Redis has
-- no such key, and '0' if a version of Larder has written the key that does not name it. Micros tells that the subject may have
-- sessions with epochs in microseconds.
local function subject_of(subject_key, class)
  local f = redis.call('HMGET', subject_key, 'ep', 'ep.' .. class, 'since', 'us')
  local epoch, since = math.max(tonumber(f[1] or '0'), tonumber(f[2] or '0')), f[3] or f[1] and '0' or nil
  return {epoch = epoch, since = since, micros = f[4] or math.max(epoch, tonumber(since or '0')) > MICROSECONDS}
end

-- epoch_for returns the epoch below which a session is revoked. If Redis has evicted the key of the subject under which the session
-- was created, what that key said of revocations is lost: the session has ended, whatever another key of the subject says.
local function epoch_for(s, subject_prefix)
  local subject = subject_of(subject_prefix .. s.subject_hash, s.class)
  if s.since and (not subject.since or subject.since ~= '0' and subject.since ~= s.since) then
    return NO_EPOCH
  end
  return subject.epoch
end

-- keep_until lets a key live at least until then. It extends the key's life by more, so that it seldom does.
local function keep_until(key, at, now)
  if redis.call('PTTL', key) < at - now then
    redis.call('PEXPIREAT', key, ms(at + (at - now) / 4))
  end
end

-- highest_epoch returns the later of the time and the highest epoch that was given out in the partition. It never decreases,
-- even if the clock is set back, so a revocation also ends sessions that were created before that. If the key is gone where there
-- are sessions, the time counts in microseconds: that is above every epoch in milliseconds, and rises faster than scripts raise
-- epochs, however often the key is evicted. Subject is what subject_of returns, nil for none.
local function highest_epoch(epoch_key, ends, subject, now)
  local given = redis.call('GET', epoch_key)
  if subject and subject.micros or not given and (subject and subject.since or redis.call('EXISTS', ends) == 1) then
    now = now_us()
  end
  return math.max(now, tonumber(given or '0'))
end

-- index_of returns the index of a device class ('': none), given the subject's index.
local function index_of(index, class)
  return class == '' and index or index .. ':' .. class
end

-- superseded_field returns the field of a record that describes a superseded secret, given its hash or its proof.
local function superseded_field(hash)
  return 'o:' .. string.sub(hash, 1, 16)
end

-- parse_superseded returns what such a field says: until when the secret is good and from when on it counts as stolen, in
-- milliseconds, and the salt that leads to its successor.
local function parse_superseded(value)
  local usable_until, reuse_from, salt = string.match(value, '^(%d+) (%d+) (.*)$')
  return {usable_until = tonumber(usable_until), reuse_from = tonumber(reuse_from), salt = salt}
end

-- load returns the fields of a record that scripts need, with those about the secret of a proof, or nil if there is none.
local function load(record, proof)
  local f = redis.call('HMGET', record, 'sh', 'la', 'idle', 'abs', 'ep', 'v', 'h', 'sub',
    'hp', 'pu', 'pr', 'seen', 'old', 'oldr', 'to', 'cl', 'ct', 'ln', 'salt', superseded_field(proof or ''), 'gn',
    'to_done', 'to_until', 'su', 'da')
  if not f[2] then
    return nil
  end
  return {
    subject_hash = f[1], last_active = tonumber(f[2]), idle = tonumber(f[3]), absolute = tonumber(f[4]),
    epoch = tonumber(f[5]), version = tonumber(f[6]), secret_hash = f[7], subject = f[8],
    previous = f[9] or '', usable_until = tonumber(f[10] or '0'), reuse_from = tonumber(f[11] or '0'),
    seen = f[12] ~= '0', older = f[13] or '', older_reuse_from = tonumber(f[14] or '0'), class = f[16] or '',
    promoted_to = f[15] or '', promoted = f[22] and true or false, promoting_until = f[23] and tonumber(f[23]) or math.huge,
    created = tonumber(f[17]), lineage = f[18] or '', generation = tonumber(f[21] or '0'), salt = f[19] or '',
    superseded = f[20] and parse_superseded(f[20]), since = f[24], attributes = f[25],
  }
end

-- elsewhere returns nil if Redis has all these keys. Otherwise a key may be on another node of a cluster, as its slot moves, and
-- the script must have changed nothing yet: it replies with what elsewhere returns, which makes the caller declare the keys and
-- run the script again. Redis then refuses if the slot moves, so that a declared key which is missing does not exist.
local function elsewhere(keys)
  local existing = 0
  for i = 1, #keys, 1000 do -- Lua unpacks some thousands at most
    existing = existing + redis.call('EXISTS', unpack(keys, i, math.min(i + 999, #keys)))
  end
  if existing == #keys then
    return nil
  end
  local declared, missing = {}, {'LARDER_MISSING'}
  for _, key in ipairs(KEYS) do
    declared[key] = true
  end
  for _, key in ipairs(keys) do
    if not declared[key] and redis.call('EXISTS', key) == 0 then
      missing[#missing + 1] = key
    end
  end
  return #missing > 1 and missing or nil
end

-- found returns the session of a script with the common keys and arguments, or nil if there is none, and what elsewhere returns
-- of the keys that belong to it.
local function found(proof)
  local s = load(KEYS[1], proof)
  if not s or s.subject_hash == '' then
    return s, nil
  end
  return s, elsewhere({ARGV[3] .. s.subject_hash, index_of(ARGV[4] .. s.subject_hash, s.class)})
end

-- unrevoked returns a session, expired or not, or nil if there is none, if it was revoked together with other sessions of its
-- subject, or if it was promoted.
local function unrevoked(s, subject_prefix)
  if not s or s.promoted or s.subject_hash ~= '' and s.epoch < epoch_for(s, subject_prefix) then
    return nil
  end
  return s
end

-- promoting reports whether a session is being promoted. If that is neither completed nor undone in time, the session is as
-- it was before.
local function promoting(s, now)
  return s.promoted_to ~= '' and not s.promoted and now < s.promoting_until
end

-- active returns a session, or nil if it is not active: there is none, it has expired, was revoked, was promoted, or is being
-- promoted. So is one whose attributes Redis has evicted.
local function active(s, attributes, subject_prefix, now)
  s = unrevoked(s, subject_prefix)
  if not s or now >= expires_at(s) or promoting(s, now) then
    return nil
  end
  if s.attributes == '1' and redis.call('EXISTS', attributes) == 0 then
    return nil
  end
  return s
end

-- known returns what snapshot needs to know of a record beforehand.
local function known(record)
  return redis.call('HMGET', record, 'sh', 'cl', 'su', 'da')
end

-- snapshot returns a session as read.lua describes it; f is what known returns.
local function snapshot(record, attributes, subject_prefix, f)
  local fields = redis.call('HGETALL', record)
  if #fields == 0 then
    return {fields, {}, '0', '0'}
  end
  local epoch = 0
  f = f or known(record)
  if f[1] and f[1] ~= '' then
    epoch = epoch_for({subject_hash = f[1], class = f[2] or '', since = f[3]}, subject_prefix)
  end
  -- The embedded store refuses TIME in read-only scripts. It runs in the caller's process and shares its clock.
  local time = redis.pcall('TIME')
  local now = time.err and '0' or ms(time[1] * 1000 + math.floor(time[2] / 1000))
  return {fields, f[4] == '0' and {} or redis.call('HGETALL', attributes), ms(epoch), now}
end

-- emit appends an event to the stream of a partition, atomically with the change, and trims events older than
-- EVENT_RETENTION. More holds names and values of further fields; those with an empty value are left out.
local function emit(events, now, type, namespace, id, subject, more)
  local fields = {'type', type, 'at', ms(now), 'ns', namespace, 'sid', id, 'sub', subject}
  for i = 1, #(more or {}), 2 do
    if more[i + 1] ~= '' then
      fields[#fields + 1], fields[#fields + 2] = more[i], more[i + 1]
    end
  end
  redis.call('XADD', events, 'MINID', '~', ms(now - EVENT_RETENTION), '*', unpack(fields))
end

-- ends_at updates a session's expiry in its index, nil for none, and in the sorted set that the sweeper reads.
local function ends_at(ends, namespace, id, index, expires)
  redis.call('ZADD', ends, ms(expires), namespace .. ':' .. id)
  if index then
    redis.call('ZADD', index, 'XX', ms(expires), id)
  end
end

-- add_to_index adds a session to its index, and its class to those of the subject. It removes expired sessions from the
-- index, and keeps the keys, and that of the subject, for as long as the longest of their sessions.
local function add_to_index(index, classes, subject_key, class, id, expires, absolute, now)
  local keys = {index_of(index, class)}
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', ms(now))
  redis.call('ZADD', keys[1], ms(expires), id)
  if class ~= '' then
    redis.call('SADD', classes, class)
    keys[2] = classes
  end
  for _, key in ipairs(keys) do
    if redis.call('PTTL', key) < absolute + RETAIN - now then
      redis.call('PEXPIREAT', key, ms(absolute + RETAIN))
    end
  end
  keep_until(subject_key, absolute + RETAIN, now)
end

-- classes_of returns the device classes of a subject's sessions and '' for those without one.
local function classes_of(classes)
  local found = redis.call('SMEMBERS', classes)
  found[#found + 1] = ''
  return found
end

-- remove removes the session of a script with the common keys and arguments.
local function remove(s)
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('ZREM', KEYS[4], ARGV[1] .. ':' .. ARGV[2])
  if s.subject_hash ~= '' then
    redis.call('ZREM', index_of(ARGV[4] .. s.subject_hash, s.class), ARGV[2])
  end
end

-- NOTHING is the snapshot of a session that is not active.
local NOTHING = {{}, {}, '0', '0'}

-- discarded_name returns the key of an index that was discarded under a name.
local function discarded_name(discarded, name)
  return discarded .. ':' .. name
end

-- discard hands an index over to the sweeper, which removes the keys of its sessions. The name must differ from that of any
-- index that was discarded before.
local function discard(index, discarded, name)
  if redis.call('EXISTS', index) == 1 then
    redis.call('RENAME', index, discarded_name(discarded, name))
    redis.call('RPUSH', discarded, name)
  end
end
