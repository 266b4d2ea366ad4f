package redis

import (
	"sync/atomic"
	"time"
)

// clock estimates the time of Redis (TIME), which decides every expiry, without asking for it. A sample is wrong by at most
// half its round trip.
type clock struct {
	offset atomic.Int64 // nanoseconds by which Redis is ahead of this process
	best   atomic.Int64 // round trip of the sample behind offset; it grows with age, so that the clock follows drift
	host   func() time.Time
}

// read returns the time of this process.
func (c *clock) read() time.Time {
	if c.host == nil {
		return time.Now()
	}
	return c.host()
}

// sampleAging is added to the round trip of the best sample with each worse one. Clocks drift by far less in the second or so
// between two samples.
const sampleAging = 20 * time.Microsecond

// clockDrift is more than two clocks drift apart between samples.
const clockDrift = time.Millisecond

// Now returns the estimated time of Redis.
func (c *Client) Now() time.Time { return c.clock.now() }

// Earliest returns a time that Redis has surely reached: the estimate less its largest error.
func (c *Client) Earliest() time.Time { return c.clock.earliest() }

func (c *clock) now() time.Time {
	return c.read().Add(time.Duration(c.offset.Load()))
}

func (c *clock) earliest() time.Time {
	return c.now().Add(-time.Duration(c.best.Load()/2) - clockDrift)
}

// sample takes the answer of TIME to a question that was sent and answered at the given times of this process.
func (c *clock) sample(redis, sent, answered time.Time) {
	trip := answered.Sub(sent)
	best := time.Duration(c.best.Load())
	offset := redis.Sub(sent.Add(trip / 2))
	// Two samples that differ by more than both can be wrong by mean that a clock was set.
	set := (offset - time.Duration(c.offset.Load())).Abs() > (trip+best)/2+clockDrift
	if best != 0 && trip > best && !set {
		c.best.Store(int64(best + sampleAging))
		return
	}
	c.best.Store(int64(max(trip, 1)))
	c.offset.Store(int64(offset))
}
