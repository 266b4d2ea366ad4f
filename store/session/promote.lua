-- Begins the promotion of an anonymous session: makes it inactive for as long as the promotion may take, and records which
-- session of a subject is to replace it. The same promotion begun again returns the same.
-- KEYS: 1-4 as in common.lua
-- ARGV: 1-4 as in common.lua, 5 proof of the presented token, 6 id of the new session, 7 salt for its secret, 8 hash of its
--       subject, 9 how long a completed promotion can be begun again and 10 how long one may take, both in milliseconds, 11 ids
--       of the keys that the caller can decrypt with, separated by spaces
-- RETURNS: the session as read.lua returns it, with its promotion unless it has a subject; NOTHING if it is not active or is
--          being promoted to another subject

local record, attributes = KEYS[1], KEYS[2]
local subject_prefix, proof, to, salt, subject_hash = ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local window, duration, key_ids = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]

local now = now_ms()
local s, ask = found(proof)
if ask then
  return ask
end
if s and (s.promoted or promoting(s, now)) then
  local f = redis.call('HMGET', record, 'to_sh', 'to_at')
  local as = presented(s, proof, tonumber(f[2]))
  if f[1] ~= subject_hash or now - f[2] >= window or (as ~= 'current' and as ~= 'previous') then
    return NOTHING
  end
  return snapshot(record, attributes, subject_prefix)
end
s = active(s, attributes, subject_prefix, now)
if not s or not authorized(s, proof, now) then
  return NOTHING
end
-- The caller must be able to decrypt the attributes that the new session is to have.
local unknown = undecryptable(attributes, key_ids)
if unknown then
  return redis.error_reply('LARDER_KEY_UNKNOWN ' .. unknown)
end
if s.subject_hash == '' then
  redis.call('HSET', record, 'to', to, 'to_salt', salt, 'to_sh', subject_hash, 'to_at', ms(now), 'to_until', ms(now + duration))
end
return snapshot(record, attributes, subject_prefix)
