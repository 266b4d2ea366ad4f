-- Functions shared by the scripts of sessions, put before each of them. ARCHITECTURE.md shows the keys and fields.
--
-- A record names its subject by a hash alone, so a script that is given a session_id learns only from the record which
-- subject key and which index belong to it. It makes their names from the prefixes that it is given: they carry the
-- record's hash tag and are in its slot.
--
-- Scripts that change one session begin with the same keys and arguments:
-- KEYS: 1 the record, 2 the attributes, 3 the events of the partition, 4 the ends of the partition's sessions
-- ARGV: 1 namespace, 2 session id, 3 prefix of subject keys, 4 prefix of indexes

-- How long records outlive their sessions, in milliseconds, so that expiry is decided by the times in them and never by
-- when Redis gets round to removing a key.
local RETAIN = 60000

-- How long events are kept, in milliseconds.
local EVENT_RETENTION = 24 * 3600 * 1000

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

-- active returns the session of a record, or nothing if it has ended: by time, or by a later epoch of its subject.
local function active(record, subject_prefix, now)
  local f = redis.call('HMGET', record, 'sh', 'la', 'idle', 'abs', 'ep', 'v', 'h', 'sub')
  if not f[2] then
    return nil
  end
  local s = {
    subject_hash = f[1], last_active = tonumber(f[2]), idle = tonumber(f[3]), absolute = tonumber(f[4]),
    epoch = tonumber(f[5]), version = tonumber(f[6]), secret_hash = f[7], subject = f[8],
  }
  if now >= expires_at(s) then
    return nil
  end
  if s.subject_hash ~= '' then
    local epoch = redis.call('HGET', subject_prefix .. s.subject_hash, 'ep')
    if epoch and s.epoch < tonumber(epoch) then
      return nil
    end
  end
  return s
end

-- emit appends an event to the stream of a partition, in the same moment as the change that it tells of, and lets go of
-- those that are older than anyone may ask for. More are names and values of further fields.
local function emit(events, now, type, namespace, id, subject, more)
  local fields = {'type', type, 'at', ms(now), 'ns', namespace, 'sid', id, 'sub', subject}
  for i = 1, #(more or {}) do
    fields[#fields + 1] = more[i]
  end
  redis.call('XADD', events, 'MINID', '~', ms(now - EVENT_RETENTION), '*', unpack(fields))
end

-- ends_at records when a session ends by time, for its subject's index and for the sweeper.
local function ends_at(ends, namespace, id, index, expires)
  redis.call('ZADD', ends, ms(expires), namespace .. ':' .. id)
  if index then
    redis.call('ZADD', index, 'XX', ms(expires), id)
  end
end
