package store

import (
	"sync/atomic"
	"time"
)

// clock estimates Redis TIME, which decides every expiry, without asking for it. A sample is as good as its round trip is
// short: the error is at most half of it.
type clock struct {
	offset atomic.Int64 // nanoseconds that Redis is ahead of this process
	best   atomic.Int64 // round trip of the sample behind offset, growing with age so that drift is followed
}

// sampleAging is how much worse a sample counts with every one that is not better. Clocks drift by far less in the
// second or so between samples.
const sampleAging = 20 * time.Microsecond

// clockStep is more than clocks drift apart between samples.
const clockStep = time.Millisecond

func (c *clock) now() time.Time {
	return time.Now().Add(time.Duration(c.offset.Load()))
}

// earliest returns a time that Redis has surely reached by now: the estimate less what it may be wrong by.
func (c *clock) earliest() time.Time {
	return c.now().Add(-time.Duration(c.best.Load()/2) - clockDrift)
}

// clockDrift is more than clocks drift apart between samples.
const clockDrift = time.Millisecond

// sample takes in what TIME answered to a question sent and answered at these times.
func (c *clock) sample(redis, sent, answered time.Time) {
	trip := answered.Sub(sent)
	best := time.Duration(c.best.Load())
	offset := redis.Sub(sent.Add(trip / 2))
	// Two samples that differ by more than both can be wrong by mean that a clock was set.
	step := (offset - time.Duration(c.offset.Load())).Abs() > (trip+best)/2+clockStep
	if best != 0 && trip > best && !step {
		c.best.Store(int64(best + sampleAging))
		return
	}
	c.best.Store(int64(max(trip, 1)))
	c.offset.Store(int64(offset))
}
