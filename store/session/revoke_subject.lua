-- Revokes all sessions of a subject, or those of one device class, by raising its epoch above theirs, whatever the indexes hold.
-- The new epoch is above every one given out in the partition, so it rises even if the clock does not. The records are left to
-- the sweeper: no script or reader takes them for active any more.
-- KEYS: 1 subject, 2 index of the subject, 3 events of the partition, 4 device classes of the subject, 5 highest epoch of the
--       partition, 6 expiries of its sessions, 7 list of discarded indexes, 8 index of the device class; to keep one session also
--       its record and attributes; if the request can be repeated also its answer
-- ARGV: 1 namespace, 2 id of the session to keep ('': none), 3 prefix of subject keys, 4 subject, 5 minimum time to keep the
--       epoch in milliseconds, 6 device class ('': all), 7 number of keys with the answer to the request (0: it cannot be
--       repeated)
-- RETURNS: {number of sessions that ended, the new epoch as text}

local subject_prefix = ARGV[3]
local request = ARGV[7] ~= '0' and KEYS[tonumber(ARGV[7])] or nil

local before = answered(request)
if before then
  local count, epoch = string.match(before, '^(%d+) (%d+)$')
  return {tonumber(count), epoch}
end
local r = {
  now = now_ms(), namespace = ARGV[1], subject = ARGV[4], subject_key = KEYS[1], subject_prefix = subject_prefix,
  hash = string.sub(KEYS[1], #subject_prefix + 1), index = KEYS[2], events = KEYS[3], classes = KEYS[4], class = ARGV[6],
  epoch_key = KEYS[5], ends = KEYS[6], discarded = KEYS[7], keep = tonumber(ARGV[5]),
  kept_id = ARGV[2], kept = KEYS[9], kept_attributes = KEYS[10],
}
local ask = plan_revocation(r)
if ask then
  return ask
end
local ended = revoke_planned(r)
answer(request, ms(ended) .. ' ' .. ms(r.epoch))
return {ended, ms(r.epoch)}
