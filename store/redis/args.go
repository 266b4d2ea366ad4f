package redis

import (
	"math"
	"strconv"
	"time"
)

// RoundUp rounds a duration up to whole milliseconds, the unit of expiry in Redis: nothing may expire early, and Redis
// refuses a time to live of zero. Durations in the last millisecond before the maximum are rounded down.
func RoundUp(d time.Duration) time.Duration {
	if d > math.MaxInt64-time.Millisecond {
		return d.Truncate(time.Millisecond)
	}
	return (d + time.Millisecond - 1) / time.Millisecond * time.Millisecond
}

// Millis returns a duration as an argument of a script: whole milliseconds, rounded up.
func Millis(d time.Duration) string { return strconv.FormatInt(RoundUp(d).Milliseconds(), 10) }
