-- Records another authentication of the subject and supersedes the secret without a grace. An anonymous session is not changed.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 proof of the new one, 7 after how long the presented one counts
--       as stolen in milliseconds, 8 authentication assurance level, 9 '1' to restart the timeouts, 10 maximum number of methods
--       to keep, 11 prefix of the sets of device classes, 12 ids of the keys that the caller can decrypt with, separated by
--       spaces, 13 maximum idle and 14 absolute timeout to restart with in milliseconds (0: as they are), then methods
-- RETURNS: the session as read.lua returns it, or NOTHING if it is not active

local record, attributes, events, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local namespace, id, subject_prefix, index_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local proof, successor, reuse_after, aal = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local class_prefix, key_ids = ARGV[11], ARGV[12]
local restart, max_methods, first_method = ARGV[9] == '1', tonumber(ARGV[10]), 15
local max_idle, max_absolute = tonumber(ARGV[13]), tonumber(ARGV[14])

local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
s = active(s, attributes, subject_prefix, now)
if s and restart and s.class ~= '' then
  ask = elsewhere({class_prefix .. s.subject_hash})
  if ask then
    return ask
  end
end
if not s or not authorized(s, proof, now) then
  return NOTHING
end
-- If the caller cannot decrypt the attributes it cannot answer with the session, and nobody would get the new token.
local unknown = undecryptable(attributes, key_ids)
if unknown then
  return redis.error_reply('LARDER_KEY_UNKNOWN ' .. unknown)
end
if s.subject_hash == '' then
  return snapshot(record, attributes, subject_prefix)
end

local f = redis.call('HMGET', record, 'aal', 'amr', 'ct', 'ab', 'at', 'at1', 'at2', 'at3')
local methods, known = {}, {}
for method in string.gmatch(f[2] or '', '%S+') do
  methods[#methods + 1], known[method] = method, true
end
for i = first_method, #ARGV do
  if not known[ARGV[i]] then
    methods[#methods + 1], known[ARGV[i]] = ARGV[i], true
  end
end
while #methods > max_methods do
  table.remove(methods, 1)
end
-- The time of the last authentication at each level. Records without have had one authentication, or are of a version of Larder
-- that does not tell when which level was reached: at the latest when the session was created.
local before = tonumber(f[1] or '0')
if before > 0 and not (f[6] or f[7] or f[8]) then
  redis.call('HSET', record, 'at' .. ms(before), ms(math.min(tonumber(f[5] or f[3]), tonumber(f[3]))))
end
if aal > 0 then
  redis.call('HSET', record, 'at' .. ms(aal), ms(now))
end
aal = math.max(aal, before)
supersede(record, s, successor, '', now, 0, reuse_after)
redis.call('HSET', record, 'aal', ms(aal), 'amr', table.concat(methods, ' '), 'at', ms(now))

if restart then
  -- The length of the absolute timeout, counted from when it last began.
  local length = s.absolute - tonumber(f[4] or f[3])
  s.absolute = now + math.min(length, max_absolute > 0 and max_absolute or length)
  s.idle = math.min(s.idle, max_idle > 0 and max_idle or s.idle)
  s.last_active = now
  redis.call('HSET', record, 'abs', ms(s.absolute), 'ab', ms(now), 'idle', ms(s.idle), 'la', ms(now))
  local expires, index = expires_at(s), index_prefix .. s.subject_hash
  redis.call('PEXPIREAT', record, ms(expires + RETAIN))
  redis.call('PEXPIREAT', attributes, ms(s.absolute + RETAIN))
  ends_at(ends, namespace, id, nil, expires)
  add_to_index(index, class_prefix .. s.subject_hash, subject_prefix .. s.subject_hash, s.class, id, expires, s.absolute, now)
end
emit(events, now, 'reauthenticated', namespace, id, s.subject, {'aal', ms(aal)})
return snapshot(record, attributes, subject_prefix)
