-- Accepts a token once, or exchanges it for a grant. The attempt is counted before its outcome is decided, in one step: nobody
-- learns of an attempt that was not counted. The commands for a wrong secret are the same whether there is a token, a decoy, or,
-- by subject, nothing.
-- KEYS: 1 token, 2 events, 3 highest epoch of the partition, 4 expiries of its sessions, 5 list of discarded indexes, then those
--       whose positions ARGV tells
-- ARGV: 1 namespace, 2 id, 3 prefix of states, 4 prefix of the subjects' epochs, 5 of their indexes and 6 of their device
--       classes, 7 purpose, 8 hash of the binding ('': none), 9 hash of the subject and 10 subject ('' unless the token was named by
--       its subject), 11 hash of the request id ('': none), 12 kinds that the token may have, 13 maximum failures in a window,
--       14 the window in milliseconds, 15 maximum failures in a row, 16 ids of the known keys, each between spaces, 17 minimum time
--       to keep an epoch in milliseconds, 18 id of the session to keep ('': none) and 19 position of its keys, 20 id of the grant
--       ('': none), 21 position of its key, 22 its ttl in milliseconds, 23 digest of its secret, 24 hash of its binding, 25 its
--       maximum attempts, 26 digest as a recovery code, then ids of keys and the digests under them
-- RETURNS: {outcome, payload as stored, id under which it was encrypted, subject, attempts left, milliseconds until the end of a
--          lock (-1: a reset), 1 if it was accepted before by the same request, recovery codes left, sessions ended, hash of the
--          subject, 1 if its sessions were revoked, expiry of the grant as text}

local token_key, events = KEYS[1], KEYS[2]
local namespace, id, state_prefix, purpose, binding = ARGV[1], ARGV[2], ARGV[3], ARGV[7], ARGV[8]
local request, kinds, max_failures, window, max_streak = ARGV[11], ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local grant_id, grant_key, recovery_digest = ARGV[20], KEYS[tonumber(ARGV[21])], ARGV[26]
local digests = {}
for i = 27, #ARGV, 2 do
  digests[ARGV[i]] = ARGV[i + 1]
end

local function reply(outcome, more)
  local m = more or {}
  return {
    outcome, m.payload or '', m.payload_id or '', m.subject or '', m.attempts_left or 0, m.wait or 0, m.replayed or 0, m.left or 0,
    m.ended or 0, m.hash or '', m.revoked or 0, m.grant_expires or '0',
  }
end

local now = now_ms()
local t = load_token(token_key)
local hash = t and t.subject_hash or ARGV[9]
if hash == '' then
  return reply('incorrect') -- a token that nobody has issued, of no subject
end
local subject = t and t.subject or ARGV[10]
local state_key = state_key_of(state_prefix, hash, t and t.purpose or purpose)

-- All that is not declared is read before anything is written.
local revocation = t and t.on_success and grant_id == '' and {
  now = now, namespace = namespace, subject = subject, subject_prefix = ARGV[4], hash = hash, subject_key = ARGV[4] .. hash,
  index = ARGV[5] .. hash, classes = ARGV[6] .. hash, class = '', events = events, epoch_key = KEYS[3], ends = KEYS[4],
  discarded = KEYS[5], keep = tonumber(ARGV[17]), kept_id = ARGV[18], kept = KEYS[tonumber(ARGV[19])],
  kept_attributes = KEYS[tonumber(ARGV[19]) + 1],
}
local ask = elsewhere({state_key})
if ask then
  return ask
end
if t and t.kind == 'code' and string.find(kinds, ' code ', 1, true) and not digests[t.key_id]
  or t and t.payload_key ~= '' and not string.find(ARGV[16], ' ' .. t.payload_key .. ' ', 1, true) then
  return redis.error_reply('LARDER_KEY_UNKNOWN the keyring lacks a key')
end
local s = load_state(state_key)
local wait = locked_for(s, now, max_failures, max_streak)
if wait then
  return reply('subject_locked', {wait = wait})
end
local limited = t and t.max_attempts > 0
if limited and t.attempts >= t.max_attempts then
  return reply('attempts_exhausted')
end

-- Strings are compared by identity in Redis's Lua, and what is compared are digests of secrets.
local recovered = recovery_digest ~= '' and redis.call('HGET', token_key, 'c:' .. recovery_digest)
local function is_right()
  if not t or not string.find(kinds, ' ' .. t.kind .. ' ', 1, true) or t.purpose ~= purpose or t.binding ~= binding then
    return false
  end
  if t.kind == 'recovery' then
    return recovered and true or false
  end
  return t.digest == digests[t.key_id]
end

-- The keys of sessions are looked for only for whoever is about to be accepted, so that a wrong secret costs the same whether the
-- subject has sessions or not.
if revocation and is_right() then
  ask = elsewhere({revocation.subject_key, revocation.index, revocation.classes}) or plan_revocation(revocation)
  if ask then
    return ask
  end
end

if limited then
  redis.call('HSET', token_key, 'att', ms(t.attempts + 1))
end
local failures, window_end = s.failures, s.window_end
if now >= window_end then
  failures, window_end = 0, now + window
end
save_failures(state_key, failures + 1, window_end, s.streak + 1)
-- Not by keep_until, which would tell the state of a token that lives longer from one that is new.
redis.call('PEXPIREAT', state_key, ms(now + math.max(redis.call('PTTL', state_key), STREAK_MEMORY)))

if not is_right() then
  emit(events, now, 'token_failed', namespace, '', subject, {'token', id, 'purpose', t and t.purpose or purpose})
  if failures + 1 >= max_failures or s.streak + 1 >= max_streak then
    emit(events, now, 'token_locked', namespace, '', subject, {'purpose', t and t.purpose or purpose})
  end
  local left = math.min(max_failures - failures - 1, max_streak - s.streak - 1)
  if limited then
    left = math.min(left, t.max_attempts - t.attempts - 1)
  end
  return reply('incorrect', {attempts_left = math.max(left, 0)})
end

-- From here on the caller has shown that it knows the secret: the attempt was no failure.
local function uncount()
  if limited then
    redis.call('HSET', token_key, 'att', ms(t.attempts))
  end
  save_failures(state_key, s.failures, s.window_end, s.streak)
end
local used, used_request, used_grant = t.used, t.request, t.grant
if t.kind == 'recovery' and recovered ~= '' then
  local at, r, g = string.match(recovered, '^(%d+) (%S*) (%S*)$')
  used, used_request, used_grant = tonumber(at), r, g
end

-- grant makes the token that takes the place of the one that was exchanged.
local function grant()
  local expires = now + tonumber(ARGV[22])
  redis.call('HSET', grant_key, 'k', 'link', 'sh', hash, 'sub', subject, 'pu', purpose .. '.grant', 'ct', ms(now), 'exp', ms(expires),
    'att', '0', 'max', ARGV[25], 'h', ARGV[23], 'kid', '', 'bd', ARGV[24], 'on', t.on_success and '1' or '0',
    'pl', t.payload, 'pk', t.payload_key, 'pi', t.payload_id)
  redis.call('PEXPIREAT', grant_key, ms(expires + RETAIN_TOKEN))
  local issued = math.max(now, s.last_issue + 1)
  redis.call('HSET', state_key, 'la', ms(issued), open_field(grant_id), open_value(issued, expires, 'link'))
  keep_until(state_key, expires + RETAIN_TOKEN, now)
  return ms(expires)
end

local answer_of = {payload = t.payload, payload_id = t.payload_id, subject = subject, left = t.left, hash = hash}
if used then
  uncount()
  local same = request ~= '' and request == used_request and now < used + REPLAYABLE and (used_grant ~= '') == (grant_id ~= '')
  if same and grant_id ~= '' then
    -- Whoever has consumed the first grant has received it; nobody else has.
    same = s.open[used_grant] ~= nil
    if same then
      redis.call('HDEL', state_key, open_field(used_grant))
      answer_of.grant_expires = grant()
      if t.kind == 'recovery' then
        redis.call('HSET', token_key, 'c:' .. recovery_digest, ms(used) .. ' ' .. request .. ' ' .. grant_id)
      else
        redis.call('HSET', token_key, 'gr', grant_id)
      end
    end
  end
  if not same then
    return reply('already_used')
  end
  answer_of.replayed, answer_of.ended = 1, t.revoked
  return reply('accepted', answer_of)
end
if now >= t.expires or not s.open[id] then
  uncount()
  return reply(now >= t.expires and 'expired' or 'revoked')
end

-- What is left of the state are open tokens that this one does not end.
local gone, left = {'f', 'fu', 'st', 'n', 'ca', 'rq', 'ra', 'ri'}, grant_id ~= ''
if t.kind == 'recovery' then
  answer_of.left = t.left - 1
  redis.call('HSET', token_key, 'c:' .. recovery_digest, ms(now) .. ' ' .. request .. ' ' .. grant_id, 'left', ms(t.left - 1))
  if t.left <= 1 then
    gone[#gone + 1] = open_field(id)
  end
  for other in pairs(s.open) do
    left = left or other ~= id or t.left > 1
  end
else
  redis.call('HSET', token_key, 'us', ms(now), 'rq', request, 'gr', grant_id)
  for other, o in pairs(s.open) do
    if o.kind ~= 'recovery' then
      gone[#gone + 1] = open_field(other)
    else
      left = true
    end
  end
end
if left then
  redis.call('HDEL', state_key, unpack(gone))
else
  redis.call('DEL', state_key)
end
emit(events, now, 'token_consumed', namespace, '', subject, {'token', id, 'purpose', purpose, 'grant', grant_id})
if grant_id ~= '' then
  answer_of.grant_expires = grant()
elseif revocation then
  answer_of.ended, answer_of.revoked = revoke_planned(revocation), 1
  redis.call('HSET', token_key, 'rc', ms(answer_of.ended))
end
return reply('accepted', answer_of)
