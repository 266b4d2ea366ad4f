-- Functions shared by the scripts of tokens; scripts.go puts this file, after those of package session, before each of them.
-- docs/redis.md lists the keys and the fields.
--
-- What is common to the tokens of a subject and purpose is their state: the failure budget, the cooldown, and the open tokens. A
-- token is good only while the state lists it, so that a token is revoked or replaced by changing the state alone, and none
-- outlives a state that Redis has evicted. The state of a grant is that of the token that was exchanged for it.

-- How long a record outlives its token, in milliseconds: so long can a caller be told that it has expired or was used.
local RETAIN_TOKEN = 3600 * 1000

-- How long failures in a row are remembered after the last one, in milliseconds.
local STREAK_MEMORY = 30 * 24 * 3600 * 1000

-- For how long a call with the same request id is answered as the first was, in milliseconds.
local REPLAYABLE = 2 * 60 * 1000

-- load_token returns the fields of a record, or nil if there is none.
local function load_token(key)
  local f = redis.call('HMGET', key, 'k', 'sh', 'sub', 'pu', 'h', 'kid', 'exp', 'att', 'max', 'bd', 'on', 'us', 'rq', 'gr',
    'left', 'pl', 'pk', 'pi', 'rc')
  if not f[1] then
    return nil
  end
  return {
    kind = f[1], subject_hash = f[2], subject = f[3], purpose = f[4], digest = f[5], key_id = f[6], expires = tonumber(f[7]),
    attempts = tonumber(f[8]), max_attempts = tonumber(f[9]), binding = f[10] or '', on_success = f[11] == '1',
    used = f[12] and tonumber(f[12]), request = f[13] or '', grant = f[14] or '', left = tonumber(f[15] or '0'),
    payload = f[16] or '', payload_key = f[17] or '', payload_id = f[18] or '', revoked = tonumber(f[19] or '0'),
  }
end

-- state_key_of returns the key of the state of a purpose or of its grants.
local function state_key_of(prefix, subject_hash, purpose)
  return prefix .. subject_hash .. ':' .. (string.match(purpose, '^(.*)%.grant$') or purpose)
end

-- load_state returns a state, that of a subject without failures and tokens if there is none.
local function load_state(key)
  local s = {open = {}, failures = 0, window_end = 0, streak = 0, issues = 0, next_issue = 0, last_issue = 0, request = '', requested = 0, last_id = ''}
  local names = {f = 'failures', fu = 'window_end', st = 'streak', n = 'issues', ca = 'next_issue', la = 'last_issue', ra = 'requested'}
  local f = redis.call('HGETALL', key)
  for i = 1, #f, 2 do
    local name, value = f[i], f[i + 1]
    if string.sub(name, 1, 2) == 't:' then
      local issued, expires, kind = string.match(value, '^(%d+) (%d+) (%a+)$')
      s.open[string.sub(name, 3)] = {issued = tonumber(issued), expires = tonumber(expires), kind = kind}
    elseif name == 'rq' then
      s.request = value
    elseif name == 'ri' then
      s.last_id = value
    elseif names[name] then
      s[names[name]] = tonumber(value)
    end
  end
  return s
end

-- locked_for returns for how long a state is locked, in milliseconds, -1 until it is reset, or nil if it is not locked.
local function locked_for(s, now, max_failures, max_streak)
  if s.streak >= max_streak then
    return -1
  end
  if s.failures >= max_failures and now < s.window_end then
    return s.window_end - now
  end
  return nil
end

-- save_failures writes the failure budget of a state.
local function save_failures(key, failures, window_end, streak)
  redis.call('HSET', key, 'f', ms(failures), 'fu', ms(window_end), 'st', ms(streak))
end

-- open_field returns the field of a state that lists a token, and open_value what it holds.
local function open_field(id)
  return 't:' .. id
end

local function open_value(issued, expires, kind)
  return ms(issued) .. ' ' .. ms(expires) .. ' ' .. kind
end
