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

-- How long requests under way may still bring a superseded secret at least, in milliseconds; minReuse in rotate.go.
local MIN_REUSE = 10 * 1000

-- The maximum number of superseded secrets that a record describes. Further ones count as stolen at once.
local MAX_SUPERSEDED = 128

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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

-- subject_epoch returns the epoch of a subject and a device class ('': none): sessions with a lower epoch are revoked. It also
-- returns the epoch below which sessions that need the subject's key are revoked, which is NO_EPOCH if Redis has no such key: it
-- has evicted the key, and what the key said of revocations is lost.
local function subject_epoch(subject_key, class)
  local f = redis.call('HMGET', subject_key, 'ep', 'ep.' .. class, 'since')
  local epoch = math.max(tonumber(f[1] or '0'), tonumber(f[2] or '0'))
  return epoch, math.max(epoch, f[3] and tonumber(f[3]) or NO_EPOCH)
end

-- epoch_for returns the epoch below which a session is revoked.
local function epoch_for(s, subject_prefix)
  local epoch, needed = subject_epoch(subject_prefix .. s.subject_hash, s.class)
  return s.needs_subject and needed or epoch
end

-- keep_until lets a key live at least until then. It extends the key's life by more, so that it seldom does.
local function keep_until(key, at, now)
  if redis.call('PTTL', key) < at - now then
    redis.call('PEXPIREAT', key, ms(at + (at - now) / 4))
  end
end

-- How far epochs jump if Redis has evicted the highest one that was given out, in milliseconds: a year.
local JUMP = 366 * 24 * 3600 * 1000

-- highest_epoch returns the later of the time and the highest epoch that was given out in the partition. It never decreases,
-- even if the clock is set back or the key is evicted, so a revocation also ends sessions that were created before that. Ends
-- tells whether there were any.
local function highest_epoch(epoch_key, ends, now)
  local given = redis.call('GET', epoch_key)
  if not given and redis.call('EXISTS', ends) == 1 then
    return now + JUMP
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
    'hp', 'pu', 'pr', 'seen', 'old', 'oldr', 'to', 'cl', 'ct', 'ln', 'salt', superseded_field(proof or ''), 'gn', 'to_done', 'to_until', 'su', 'da')
  if not f[2] then
    return nil
  end
  return {
    subject_hash = f[1], last_active = tonumber(f[2]), idle = tonumber(f[3]), absolute = tonumber(f[4]),
    epoch = tonumber(f[5]), version = tonumber(f[6]), secret_hash = f[7], subject = f[8],
    previous = f[9] or '', usable_until = tonumber(f[10] or '0'), reuse_from = tonumber(f[11] or '0'),
    seen = f[12] ~= '0', older = f[13] or '', older_reuse_from = tonumber(f[14] or '0'), promoted_to = f[15] or '', promoted = f[22] and true or false, promoting_until = f[23] and tonumber(f[23]) or math.huge,
    class = f[16] or '', created = tonumber(f[17]), lineage = f[18] or '', generation = tonumber(f[21] or '0'), salt = f[19] or '',
    superseded = f[20] and parse_superseded(f[20]), needs_subject = f[24] == '1', has_attributes = f[25] == '1',
  }
end

-- unrevoked returns the session of a record, expired or not, or nil if there is none, if it was revoked together with other
-- sessions of its subject, or if it was promoted.
local function unrevoked(record, subject_prefix, proof)
  local s = load(record, proof)
  if not s or s.promoted then
    return nil
  end
  if s.subject_hash ~= '' and s.epoch < epoch_for(s, subject_prefix) then
    return nil
  end
  return s
end

-- promoting reports whether a session is being promoted. If that is neither completed nor undone in time, the session is as
-- it was before.
local function promoting(s, now)
  return s.promoted_to ~= '' and not s.promoted and now < s.promoting_until
end

-- active returns the session of a record, or nil if it is not active: it has expired, was revoked, was promoted, or is being
-- promoted. So is one whose attributes Redis has evicted.
local function active(record, attributes, subject_prefix, now, proof)
  local s = unrevoked(record, subject_prefix, proof)
  if not s or now >= expires_at(s) or promoting(s, now) then
    return nil
  end
  if s.has_attributes and redis.call('EXISTS', attributes) == 0 then
    return nil
  end
  return s
end

-- snapshot returns a session as read.lua describes it.
local function snapshot(record, attributes, subject_prefix)
  local fields = redis.call('HGETALL', record)
  if #fields == 0 then
    return {fields, {}, '0', '0'}
  end
  local epoch = 0
  local f = redis.call('HMGET', record, 'sh', 'cl', 'su')
  if f[1] and f[1] ~= '' then
    epoch = epoch_for({subject_hash = f[1], class = f[2] or '', needs_subject = f[3] == '1'}, subject_prefix)
  end
  -- The embedded store refuses TIME in read-only scripts. It runs in the caller's process and shares its clock.
  local time = redis.pcall('TIME')
  local now = time.err and '0' or ms(time[1] * 1000 + math.floor(time[2] / 1000))
  return {fields, redis.call('HGETALL', attributes), ms(epoch), now}
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

-- lineage_of and generation_of return the lineage and the generation of a proof.
local function lineage_of(proof)
  return string.sub(proof, 33, 48)
end

local function generation_of(proof)
  local a, b, c, d = string.byte(proof, 49, 52)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

-- presented returns the standing of the secret of a proof: 'current'; 'previous', superseded and still good; 'reused',
-- superseded and stolen; or nil. The session must have been loaded with the proof. It mirrors presented in secret.go.
local function presented(s, proof, now)
  local hash = string.sub(proof, 1, 32)
  if hash == s.secret_hash then
    return 'current'
  end
  if hash == s.previous then
    if s.usable_until > 0 and (now < s.usable_until or not s.seen) then
      return 'previous'
    end
    return now >= s.reuse_from and 'reused' or nil
  end
  if s.superseded then
    if now < s.superseded.usable_until then
      return 'previous'
    end
    return now >= s.superseded.reuse_from and 'reused' or nil
  end
  if lineage_of(proof) == s.lineage then
    -- Of a later generation than the current secret is one that a failover has lost, which is no theft.
    local behind = (s.generation - generation_of(proof)) % 4294967296
    return behind > 0 and behind < 2147483648 and 'reused' or nil
  end
  for i = 1, #s.older, 8 do
    if string.sub(hash, 1, 8) == string.sub(s.older, i, i + 7) then
      return now >= s.older_reuse_from and 'reused' or nil
    end
  end
  return nil
end

-- remove removes the session of a script with the common keys and arguments.
local function remove(s)
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('ZREM', KEYS[4], ARGV[1] .. ':' .. ARGV[2])
  if s.subject_hash ~= '' then
    redis.call('ZREM', index_of(ARGV[4] .. s.subject_hash, s.class), ARGV[2])
  end
end

-- arrived records that the current secret has reached its holder: from then on the one before is good for its grace only.
-- Requests that brought that one, while it was good for the current one's not having arrived, may still be under way.
local function arrived(record, s, now)
  if s.seen then
    return
  end
  s.seen = true
  redis.call('HSET', record, 'seen', '1')
  if s.usable_until > 0 and s.reuse_from < now + MIN_REUSE then
    s.reuse_from = now + MIN_REUSE
    redis.call('HSET', record, 'pr', ms(s.reuse_from))
  end
end

-- authorized returns 'current' or 'previous' if the secret of a proof may act, or nil. Presenting the current secret to any
-- script records its arrival. A stolen secret ends the session of a script with the common keys and arguments.
local function authorized(s, proof, now)
  if proof == '' then
    return 'current'
  end
  local as = presented(s, proof, now)
  if as == 'reused' then
    remove(s)
    emit(KEYS[3], now, 'token_reuse', ARGV[1], ARGV[2], s.subject)
    emit(KEYS[3], now, 'revoked', ARGV[1], ARGV[2], s.subject, {'reason', 'token_reuse'})
    return nil
  end
  if as == 'current' then
    arrived(KEYS[1], s, now)
  end
  return as
end

-- superseded_secrets returns the secrets that a record describes as superseded, those first that count as stolen first.
local function superseded_secrets(record)
  local found = {}
  local fields = redis.call('HGETALL', record)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'o:' then
      local secret = parse_superseded(fields[i + 1])
      secret.field = fields[i]
      found[#found + 1] = secret
    end
  end
  table.sort(found, function(a, b)
    if a.reuse_from ~= b.reuse_from then
      return a.reuse_from < b.reuse_from
    end
    return a.field < b.field
  end)
  return found
end

-- describe_superseded writes what a record says of a superseded secret.
local function describe_superseded(record, secret)
  redis.call('HSET', record, secret.field, ms(secret.usable_until) .. ' ' .. ms(secret.reuse_from) .. ' ' .. secret.salt)
end

-- supersede gives a session another secret, by its proof, in place of the current one. That one stays good for the grace, in
-- milliseconds, and until the new one is first presented; with a grace of 0 neither it nor any older one is good any longer. It
-- counts as stolen after reuse_after milliseconds. Older secrets keep their times, after which lineage and generation alone
-- tell that they are stolen.
local function supersede(record, s, proof, salt, now, grace, reuse_after)
  local kept = {}
  for _, secret in ipairs(superseded_secrets(record)) do
    if now >= secret.reuse_from then
      redis.call('HDEL', record, secret.field)
    else
      kept[#kept + 1] = secret
    end
  end
  if s.previous ~= '' then
    local secret = {field = superseded_field(s.previous), usable_until = s.usable_until, reuse_from = s.reuse_from, salt = s.salt}
    kept[#kept + 1] = secret
    describe_superseded(record, secret)
    if s.lineage ~= lineage_of(proof) then
      -- It is of a version of Larder that did not keep the lineage of secrets.
      redis.call('HSET', record, 'old', string.sub(string.sub(s.previous, 1, 8) .. s.older, 1, 64), 'oldr', ms(s.reuse_from))
    end
  end
  for i = 1, #kept - MAX_SUPERSEDED do
    redis.call('HDEL', record, kept[i].field)
  end
  if grace == 0 then
    for i = math.max(1, #kept - MAX_SUPERSEDED + 1), #kept do
      kept[i].usable_until = 0
      describe_superseded(record, kept[i])
    end
  end
  redis.call('HSET', record, 'h', string.sub(proof, 1, 32), 'salt', salt, 'seen', '0', 'ln', lineage_of(proof), 'gn', ms(generation_of(proof)), 'hp', s.secret_hash,
    'pu', grace > 0 and ms(now + grace) or '0', 'pr', ms(now + reuse_after))
end

-- undecryptable returns the id of a key that attributes are encrypted with and that is not among the key_ids, which are
-- separated by spaces, or nil if there is none.
local function undecryptable(attributes, key_ids)
  for _, value in ipairs(redis.call('HGETALL', attributes)) do -- no name begins with these bytes
    if string.sub(value, 1, 4) == '\193LE\1' then
      local id = string.sub(value, 6, 5 + string.byte(value, 5))
      if not string.find(' ' .. key_ids .. ' ', ' ' .. id .. ' ', 1, true) then
        return id
      end
    end
  end
  return nil
end

-- How long the answer to a revocation is kept for a repetition of the same request, in milliseconds.
local REPEATABLE = 2 * 60 * 1000

-- answered returns the answer that a request got before, as text, or nil if it is a new one. Without a key it always is.
local function answered(request)
  return request and redis.call('GET', request) or nil
end

-- answer keeps the answer to a request.
local function answer(request, text)
  if request then
    redis.call('SET', request, text, 'PX', REPEATABLE)
  end
end

-- NOTHING is the snapshot of a session that is not active.
local NOTHING = {{}, {}, '0', '0'}

-- discard hands an index over to the sweeper, which removes the keys of its sessions. The name must differ from that of any
-- index that was discarded before.
local function discard(index, discarded, name)
  if redis.call('EXISTS', index) == 1 then
    redis.call('RENAME', index, discarded .. ':' .. name)
    redis.call('RPUSH', discarded, name)
  end
end
