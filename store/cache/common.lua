-- Functions shared by the scripts of the cache, put before each of them. docs/redis.md shows the layout of an entry.
--
-- Every script begins with the same three arguments, which say what invalidations have to do with the entry that it will
-- find, as they may be recorded in other slots: 1 a time: an entry as of then or before is gone; 2 an etag whose tags the
-- caller has looked up; 3 '1' if they make it gone. A script that meets an entry whose tags matter and whose etag is
-- another one does nothing and returns what unjudged makes, for the caller to look them up and call again.

local MAGIC = '\193LD\1'
local HEADER_SIZE = 41
local NO_TIME = string.rep('\0', 8)
-- The longest that a header can be: the number of tags, 32 of 128 bytes with a length each, and a content type of 255.
local TAGGED_SIZE = HEADER_SIZE + 1 + 32 * 129 + 256

-- hex returns bytes as lower-case hexadecimal digits.
local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end

-- header returns the header of the entry at key, or nothing where there is a plain value or none.
local function header(key)
  local head = redis.call('GETRANGE', key, 0, HEADER_SIZE - 1)
  if #head == HEADER_SIZE and string.sub(head, 1, 4) == MAGIC then
    return head
  end
end

-- tagged reports whether an entry has tags.
local function tagged(head)
  return string.byte(head, 5) % 4 >= 2
end

-- etag_at returns the etag of what is at key, in hexadecimal digits; '' where there is nothing.
local function etag_at(key)
  local head = header(key)
  if head then
    return hex(string.sub(head, 6, 13))
  end
  local value = redis.call('GET', key)
  return value and string.sub(redis.sha1hex(value), 1, 16) or ''
end

-- live_etag returns the etag of what is at key, in hexadecimal digits; '' where there is nothing or what is there is gone;
-- nothing where that depends on tags that the caller has not looked up.
local function live_etag(key)
  local floor, judged, gone = ARGV[1], ARGV[2], ARGV[3]
  local head = header(key)
  if head then
    local etag = hex(string.sub(head, 6, 13))
    local as_of = string.sub(head, 14, 21)
    if as_of ~= NO_TIME and as_of <= floor then
      return ''
    end
    if tagged(head) then
      if etag ~= judged then
        return nil
      end
      if gone == '1' then
        return ''
      end
    end
  end
  return etag_at(key)
end

-- unjudged is the answer of a script that has done nothing because of live_etag.
local function unjudged(key)
  return {-2, redis.call('GETRANGE', key, 0, TAGGED_SIZE - 1)}
end

-- Times are microseconds below 2^53, which Lua's numbers hold exactly.
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

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
