-- Functions shared by the scripts of sessions, put before each of them. ARCHITECTURE.md shows the keys and fields.
--
-- A record names its subject by a hash alone, so a script that is given a session_id learns only from the record which
-- subject key and which index belong to it. It makes their names from the prefixes that it is given: they carry the
-- record's hash tag and are in its slot.

-- How long records outlive their sessions, in milliseconds, so that expiry is decided by the times in them and never by
-- when Redis gets round to removing a key.
local RETAIN = 60000

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
  local f = redis.call('HMGET', record, 'sh', 'la', 'idle', 'abs', 'ep', 'v', 'h')
  if not f[2] then
    return nil
  end
  local s = {
    subject_hash = f[1], last_active = tonumber(f[2]), idle = tonumber(f[3]), absolute = tonumber(f[4]),
    epoch = tonumber(f[5]), version = tonumber(f[6]), secret_hash = f[7],
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
