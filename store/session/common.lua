-- Functions shared by the scripts of sessions, put before each of them. docs/redis.md shows the keys and fields.
--
-- A record names its subject by a hash alone, so a script that is given a session_id learns only from the record which
-- subject key and which index belong to it. It makes their names from the prefixes that it is given: they carry the
-- record's hash tag and are in its slot. A session is in one index: that of its subject's sessions of its device class.
--
-- Scripts that change one session begin with the same keys and arguments:
-- KEYS: 1 the record, 2 the attributes, 3 the events of the partition, 4 the ends of the partition's sessions
-- ARGV: 1 namespace, 2 session id, 3 prefix of subject keys, 4 prefix of indexes

-- How long events are kept, in milliseconds.
local EVENT_RETENTION = 24 * 3600 * 1000

-- How long records outlive their sessions at most, in milliseconds, so that expiry is decided by the times in them and never
-- by when Redis gets round to removing a key. The sweeper removes them within seconds; where none has run for as long as
-- events are kept, nobody could still be told how the session ended.
local RETAIN = EVENT_RETENTION + 3600 * 1000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- ms writes a time or an epoch: Lua would write large numbers with an exponent.
local function ms(n)
  return string.format('%.0f', n)
end

-- expires_at returns when a session ends.
local function expires_at(s)
  return math.min(s.absolute, s.last_active + s.idle)
end

-- subject_epoch returns the epoch below which sessions of a subject and a device class ('': none) have ended.
local function subject_epoch(subject_key, class)
  local epochs = redis.call('HMGET', subject_key, 'ep', 'ep.' .. class)
  return math.max(tonumber(epochs[1] or '0'), tonumber(epochs[2] or '0'))
end

-- highest_epoch returns the highest epoch that was given out in a partition, or the time if that is later. It does not
-- follow a clock that is set back, so that a revocation also reaches what was created before that.
local function highest_epoch(mark, now)
  return math.max(now, tonumber(redis.call('GET', mark) or '0'))
end

-- index_of returns the name of the index in which a session of a device class ('': none) is, from that of its subject.
local function index_of(index, class)
  return class == '' and index or index .. ':' .. class
end

-- load returns what a record says, or nothing if there is none.
local function load(record)
  local f = redis.call('HMGET', record, 'sh', 'la', 'idle', 'abs', 'ep', 'v', 'h', 'sub',
    'hp', 'pu', 'pr', 'seen', 'old', 'oldr', 'to', 'cl', 'ct')
  if not f[2] then
    return nil
  end
  return {
    subject_hash = f[1], last_active = tonumber(f[2]), idle = tonumber(f[3]), absolute = tonumber(f[4]),
    epoch = tonumber(f[5]), version = tonumber(f[6]), secret_hash = f[7], subject = f[8],
    previous = f[9] or '', usable_until = tonumber(f[10] or '0'), reuse_from = tonumber(f[11] or '0'),
    seen = f[12] ~= '0', older = f[13] or '', older_reuse_from = tonumber(f[14] or '0'), promoted_to = f[15] or '',
    class = f[16] or '', created = tonumber(f[17]),
  }
end

-- active returns the session of a record, or nothing if it has ended: by time, by a later epoch of its subject, or because
-- it was promoted.
local function active(record, subject_prefix, now)
  local s = load(record)
  if not s or s.promoted_to ~= '' or now >= expires_at(s) then
    return nil
  end
  if s.subject_hash ~= '' and s.epoch < subject_epoch(subject_prefix .. s.subject_hash, s.class) then
    return nil
  end
  return s
end

-- snapshot returns what session_read.lua does.
local function snapshot(record, attributes, subject_prefix)
  local fields = redis.call('HGETALL', record)
  if #fields == 0 then
    return {fields, {}, '0', '0'}
  end
  local epoch = 0
  local f = redis.call('HMGET', record, 'sh', 'cl')
  if f[1] and f[1] ~= '' then
    epoch = subject_epoch(subject_prefix .. f[1], f[2] or '')
  end
  -- The embedded store refuses TIME to scripts that only read; there the caller's clock is the same.
  local time = redis.pcall('TIME')
  local now = time.err and '0' or ms(time[1] * 1000 + math.floor(time[2] / 1000))
  return {fields, redis.call('HGETALL', attributes), ms(epoch), now}
end

-- emit appends an event to the stream of a partition, in the same moment as the change that it tells of, and lets go of
-- those that are older than anyone may ask for. More are names and values of further fields, empty ones being left out.
local function emit(events, now, type, namespace, id, subject, more)
  local fields = {'type', type, 'at', ms(now), 'ns', namespace, 'sid', id, 'sub', subject}
  for i = 1, #(more or {}), 2 do
    if more[i + 1] ~= '' then
      fields[#fields + 1], fields[#fields + 2] = more[i], more[i + 1]
    end
  end
  redis.call('XADD', events, 'MINID', '~', ms(now - EVENT_RETENTION), '*', unpack(fields))
end

-- ends_at records when a session ends by time, for the index that it is in and for the sweeper.
local function ends_at(ends, namespace, id, index, expires)
  redis.call('ZADD', ends, ms(expires), namespace .. ':' .. id)
  if index then
    redis.call('ZADD', index, 'XX', ms(expires), id)
  end
end

-- add_to_index puts a session into its index, and the class among those of its subject. The index must live as long as
-- the longest of its sessions.
local function add_to_index(index, classes, class, id, expires, absolute, now)
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
end

-- classes_of returns the device classes of a subject's sessions, with '' for none.
local function classes_of(classes)
  local found = redis.call('SMEMBERS', classes)
  found[#found + 1] = ''
  return found
end

-- presented says what a secret with this hash is to a session: 'current'; 'previous', superseded and still good; 'reused',
-- superseded so long ago that only a thief still has it; or nothing.
local function presented(s, hash, now)
  if hash == s.secret_hash then
    return 'current'
  end
  if hash == s.previous then
    if s.usable_until > 0 and (now < s.usable_until or not s.seen) then
      return 'previous'
    end
    return now >= s.reuse_from and 'reused' or nil
  end
  for i = 1, #s.older, 8 do
    if string.sub(hash, 1, 8) == string.sub(s.older, i, i + 7) then
      return now >= s.older_reuse_from and 'reused' or nil
    end
  end
  return nil
end

-- remove ends the session that a script with the common keys and arguments is about.
local function remove(s)
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('ZREM', KEYS[4], ARGV[1] .. ':' .. ARGV[2])
  if s.subject_hash ~= '' then
    redis.call('ZREM', index_of(ARGV[4] .. s.subject_hash, s.class), ARGV[2])
  end
end

-- authorized returns what a secret with this hash ('': none, the call came with the session's id) allows to act as, or
-- nothing. A reused one ends the session of a script with the common keys and arguments, since it is in two hands.
local function authorized(s, hash, now)
  local as = hash == '' and 'current' or presented(s, hash, now)
  if as == 'reused' then
    remove(s)
    emit(KEYS[3], now, 'token_reuse', ARGV[1], ARGV[2], s.subject)
    emit(KEYS[3], now, 'revoked', ARGV[1], ARGV[2], s.subject, {'reason', 'token_reuse'})
    return nil
  end
  return as
end

-- supersede gives a session another secret. The one before stays good for the grace, if any, and for as long as nobody has
-- seen the new one, and is a sign of theft once reuse_after has passed; both in milliseconds. A superseded secret that
-- was still good until now is not taken for a thief's before its requests under way can have ended.
local function supersede(record, s, hash, salt, now, grace, reuse_after)
  local older, older_reuse_from = s.older, s.older_reuse_from
  if s.previous ~= '' then
    older = string.sub(string.sub(s.previous, 1, 8) .. older, 1, 64)
    older_reuse_from = s.reuse_from
    if presented(s, s.previous, now) == 'previous' then
      older_reuse_from = now + reuse_after
    end
  end
  redis.call('HSET', record, 'h', hash, 'salt', salt, 'seen', '0', 'hp', s.secret_hash,
    'pu', grace > 0 and ms(now + grace) or '0', 'pr', ms(now + reuse_after), 'old', older, 'oldr', ms(older_reuse_from))
end

-- NOTHING is the snapshot of a session that is not active.
local NOTHING = {{}, {}, '0', '0'}

-- discard hands a subject's index over to the sweeper, which removes what the sessions in it have left. The name tells it
-- from what was discarded before.
local function discard(index, discarded, name)
  if redis.call('EXISTS', index) == 1 then
    redis.call('RENAME', index, discarded .. ':' .. name)
    redis.call('RPUSH', discarded, name)
  end
end
