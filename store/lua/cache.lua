-- Functions shared by the scripts of the cache, put before each of them. ARCHITECTURE.md shows the layout of an entry.

local MAGIC = '\193LD\1'
local HEADER_SIZE = 41

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

-- etag_at returns the etag of what is at key, in hexadecimal digits; '' where there is nothing.
local function etag_at(key)
  local head = header(key)
  if head then
    return hex(string.sub(head, 6, 13))
  end
  local value = redis.call('GET', key)
  if not value then
    return ''
  end
  return string.sub(redis.sha1hex(value), 1, 16)
end
