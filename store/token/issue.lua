-- Issues a token, unless its subject is locked or the cooldown has not passed. Earlier tokens of the subject and purpose stop
-- being good because the state no longer lists them.
-- KEYS: 1 token, 2 state, 3 events of the partition
-- ARGV: 1 namespace, 2 id, 3 kind, 4 subject, 5 purpose, 6 ttl in milliseconds, 7 maximum number of open tokens, 8 cooldown and 9
--       its maximum in milliseconds, 10 maximum failures in a window, 11 maximum failures in a row, 12 hash of the request id (''
--       none), 13 reason of the event, then names and values of the record's fields
-- RETURNS: {'issued', 'cooldown' or 'locked'; milliseconds until another token can be issued (-1: after a reset only); when the
--          token expires, as text}

local token_key, state_key, events = KEYS[1], KEYS[2], KEYS[3]
local namespace, id, kind, subject, purpose = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, max_open, cooldown, max_cooldown = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local max_failures, max_streak, request, reason = tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12], ARGV[13]
local first_field = 14

-- After this time without another token the cooldown begins at its shortest again, in milliseconds.
local FORGET_ISSUES = 24 * 3600 * 1000

local now = now_ms()
local s = load_state(state_key)
local wait = locked_for(s, now, max_failures, max_streak)
if wait then
  return {'locked', wait, '0'}
end
local dropped = {}
local next_issue, requested = now, now
if kind ~= 'recovery' then -- nobody is sent a message with recovery codes
  if request ~= '' and request == s.request and now < s.requested + REPLAYABLE then
    dropped[#dropped + 1] = open_field(s.last_id)
    s.open[s.last_id] = nil
    next_issue, requested = s.next_issue, s.requested
  elseif cooldown > 0 then
    if now < s.next_issue then
      return {'cooldown', s.next_issue - now, '0'}
    end
    local issues = now < s.last_issue + FORGET_ISSUES and s.issues or 0
    next_issue = now + math.min(cooldown * 2 ^ math.min(issues, 40), max_cooldown)
    s.issues = issues + 1
  end
end
local expires = now + ttl
local issued = math.max(now, s.last_issue + 1) -- so that the order of tokens is known

-- The first write is one that Redis refuses if it has no memory left; after one that frees memory it would allow all others.
if kind == 'recovery' then
  redis.call('HSET', state_key, 'la', ms(issued), open_field(id), open_value(issued, expires, kind))
  redis.call('DEL', token_key) -- an earlier set
else
  redis.call('HSET', state_key, 'la', ms(issued), open_field(id), open_value(issued, expires, kind), 'rq', request, 'ra', ms(requested),
    'ri', id, 'n', ms(s.issues), 'ca', ms(next_issue))
end

-- The oldest open tokens make room.
local open = {}
for other, o in pairs(s.open) do
  if o.expires <= now and other ~= id then
    dropped[#dropped + 1] = open_field(other)
  elseif o.kind ~= 'recovery' then
    open[#open + 1] = {id = other, issued = o.issued}
  end
end
table.sort(open, function(a, b) return a.issued < b.issued end)
for i = 1, kind ~= 'recovery' and #open - max_open + 1 or 0 do
  dropped[#dropped + 1] = open_field(open[i].id)
end
if #dropped > 0 then
  redis.call('HDEL', state_key, unpack(dropped))
end
redis.call('HSET', token_key, 'k', kind, 'sub', subject, 'pu', purpose, 'ct', ms(now), 'exp', ms(expires), 'att', '0', unpack(ARGV, first_field))
redis.call('PEXPIREAT', token_key, ms(expires + RETAIN_TOKEN))
keep_until(state_key, now + math.max(ttl + RETAIN_TOKEN, FORGET_ISSUES), now)
emit(events, now, 'token_issued', namespace, '', subject, {'token', id, 'purpose', purpose, 'reason', reason})
return {'issued', math.max(next_issue - now, 0), ms(expires)}
