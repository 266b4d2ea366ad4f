-- Functions about the secrets of sessions; scripts.go puts this file before the scripts that are given a token.

-- The maximum number of superseded secrets that a record describes. Further ones count as stolen at once.
local MAX_SUPERSEDED = 128

-- How long requests under way may still bring a superseded secret at least, in milliseconds; minReuse in rotate.go.
local MIN_REUSE = 10 * 1000

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
