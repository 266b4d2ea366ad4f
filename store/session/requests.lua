-- Functions that let a caller repeat a revocation; scripts.go puts this file before the scripts that revoke.

-- How long the answer to a revocation is kept for a repetition of the same request, in milliseconds.
local REPEATABLE = 2 * 60 * 1000

-- answered returns the answer that a request got before, as text, or nil if it is a new one. Without a key it always is.
local function answered(request)
  return request and redis.call('GET', request) or nil
end

-- answer keeps the answer to a request.
local function answer(request, text)
  if request then
    redis.call('SET', request, text, 'PX', REPEATABLE)
  end
end
