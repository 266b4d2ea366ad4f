-- Functions that the scripts of the cache share; their text comes before each script's own. docs/redis.md shows the layout
-- of an entry.
--
-- Scripts that must know the validity of the entry they find take three arguments for it, because the invalidations may be in
-- other slots:
--   gone_until        a time of 8 bytes: an entry as of that time or earlier is gone
--   checked_etag      the etag of the entry whose tags the caller has looked up, '' for none
--   checked_validity  what the invalidations say of that entry: valid, stale, gone
-- A script that finds another entry with tags does nothing and returns validity_unknown, so that the caller looks up the tags
-- of that entry and runs the script again.

local MAGIC = '\193LD\1'
local HEADER_SIZE = 41
-- The flag of an entry that was touched after it had been invalidated to be stale.
local STALE = 32
local NO_TIME = string.rep('\0', 8)
-- The maximum length of a header with labels: the number of tags, 32 tags of 128 bytes with their lengths, and a content type
-- of 255 bytes with its length.
local TAGGED_SIZE = HEADER_SIZE + 1 + 32 * 129 + 256

-- hex returns bytes as lower-case hexadecimal digits.
local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end

-- header returns the header of the entry at key; nil if the key holds a plain value or nothing.
local function header(key)
  local head = redis.call('GETRANGE', key, 0, HEADER_SIZE - 1)
  if #head == HEADER_SIZE and string.sub(head, 1, 4) == MAGIC then
    return head
  end
end

-- has reports whether a flag of an entry, a power of 2, is set.
local function has(head, flag)
  return string.byte(head, 5) % (2 * flag) >= flag
end

-- tagged reports whether an entry has tags.
local function tagged(head)
  return has(head, 2)
end

-- etag_at returns the etag of the value at key in hexadecimal digits; '' if the key holds nothing.
local function etag_at(key)
  local head = header(key)
  if head then
    return hex(string.sub(head, 6, 13))
  end
  local value = redis.call('GET', key)
  return value and string.sub(redis.sha1hex(value), 1, 16) or ''
end

-- UNHASHED stands for the etag of a plain value that was not asked for. To hash a value keeps Redis busy for 26 ms for each MiB, so
-- that those of more than HASHED bytes are hashed only for a condition on their etag.
local UNHASHED, HASHED = '-', 65536
local ALWAYS, IF_SHORT, NEVER = 1, 2, 3

-- is_at reports whether key holds the value with an etag, '' for nothing.
local function is_at(key, etag)
  if etag == '' then
    return not header(key) and redis.call('TYPE', key).ok == 'none' -- header refuses a key of another type
  end
  return etag_at(key) == etag
end

-- valid_etag returns the etag of the value at key in hexadecimal digits, '' if the key holds nothing or an entry that is gone,
-- nil if the validity of the entry is unknown, UNHASHED for a plain value that is not to be hashed, which hash says; and the as-of
-- time of a valid entry, '' if it has none.
local function valid_etag(key, gone_until, checked_etag, checked_validity, hash)
  local head = header(key)
  if head then
    local etag = hex(string.sub(head, 6, 13))
    local as_of = string.sub(head, 14, 21)
    if as_of ~= NO_TIME and as_of <= gone_until then
      return '', ''
    end
    if tagged(head) then
      if etag ~= checked_etag then
        return nil
      end
      if checked_validity == 'gone' then
        return '', ''
      end
    end
    return etag, as_of ~= NO_TIME and as_of or ''
  end
  if hash == NEVER then
    return redis.call('TYPE', key).ok ~= 'none' and UNHASHED or '', ''
  end
  if hash == IF_SHORT and redis.call('GETRANGE', key, HASHED, HASHED) ~= '' then
    return UNHASHED, ''
  end
  return etag_at(key), ''
end

-- validity_unknown is the answer of a script that has done nothing because valid_etag returned nil.
local function validity_unknown(key)
  return {-2, redis.call('GETRANGE', key, 0, TAGGED_SIZE - 1), ''}
end

-- decode_time and encode_time convert between 8 bytes and microseconds, which stay below 2^53 and are exact as Lua numbers.
local function decode_time(bytes)
  local n = 0
  for i = 1, 8 do
    n = n * 256 + string.byte(bytes, i)
  end
  return n
end

local function encode_time(n)
  local bytes = {}
  for i = 8, 1, -1 do
    local low = n % 256
    bytes[i] = string.char(low)
    n = (n - low) / 256
  end
  return table.concat(bytes)
end

-- now_us returns the time of Redis in microseconds.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
