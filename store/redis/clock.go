package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// clock estimates the time of Redis (TIME), which decides every expiry, without asking for it. Each server has a clock of its own.
// The time of Redis is that of the fastest one: all replicas of Larder come to the same time, whichever server a key is on.
//
// A sample bounds a server's clock from both sides: when TIME is answered, the clock is no earlier than the answer, and no later
// than the answer and the round trip together. Bounds widen with their age, as clocks drift apart, and every sample narrows
// them. The time of this process passes monotonically: setting the clock of its host changes nothing.
type clock struct {
	started time.Time // with its monotonic reading
	base    time.Time // the time of this process at started

	mu       sync.Mutex
	servers  map[string]bounds // by address
	fastest  atomic.Pointer[bounds]
	samples  int
	trip     time.Duration // the shortest round trip of a sample
	shortest atomic.Int64  // trip in nanoseconds, once there were enough samples to trust it; else 0
	// sharpened is when sharpen last began, in nanoseconds since started.
	sharpened  atomic.Int64
	sharpening sync.Mutex
}

// bounds are between what and what a server's clock was ahead of the time of this process when it was sampled last.
type bounds struct {
	low, high time.Duration
	sampled   time.Time
	// floor is the latest time that earliest may have returned before these bounds; zero if Redis has been set back since.
	floor time.Time
}

const (
	// maxDrift is the maximum rate at which two clocks drift apart: one part in 5000, or 200 µs in a second.
	maxDrift = 5000
	// serverMemory is how long a server counts that is no longer sampled.
	serverMemory = 15 * time.Second
	// maxSkew is the maximum difference between the clocks of two servers that are in order. A greater one means that a clock was
	// set.
	maxSkew = 500 * time.Millisecond
	// unknownSkew is by how much the clock of a server that was not sampled yet may be ahead of the others.
	unknownSkew = 50 * time.Millisecond
	// estimateLag is the maximum error of a good estimate, unless the round trips themselves take longer.
	estimateLag = 5 * time.Millisecond
	// enoughSamples is the number of samples after which the shortest of their round trips tells how far Redis is.
	enoughSamples = 5
	// sharpenEvery is the minimum interval between attempts to improve a bad estimate.
	sharpenEvery = 20 * time.Millisecond
	// sharpenTimeout bounds one attempt.
	sharpenTimeout = 100 * time.Millisecond
)

func newClock(now func() time.Time) *clock {
	c := &clock{started: time.Now(), servers: make(map[string]bounds)}
	c.base = c.started
	if now != nil {
		c.base = now()
	}
	return c
}

// Now returns the estimated time of Redis.
func (c *Client) Now() time.Time { return c.clock.now() }

// Earliest returns a time that Redis has surely reached. It never goes back, unless the clock of Redis does.
func (c *Client) Earliest() time.Time { return c.clock.earliest() }

// AsOf returns [Client.Earliest] for an entry that is written now. If that is further behind than [Client.WaitPast] of another
// replica allows for, it samples the clocks first, at most every 20 ms.
func (c *Client) AsOf(ctx context.Context) time.Time {
	if c.clock.error() > c.clock.lag() {
		c.sharpen(ctx)
	}
	return c.clock.earliest()
}

// sharpen samples the clock of every server a few times, unless that was done a moment ago.
func (c *Client) sharpen(ctx context.Context) {
	c.clock.sharpening.Lock()
	defer c.clock.sharpening.Unlock()
	now := int64(time.Since(c.clock.started))
	if last := c.clock.sharpened.Load(); last > 0 && now-last < int64(sharpenEvery) {
		return
	}
	c.clock.sharpened.Store(now)
	conns := c.conns.Load()
	if conns == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sharpenTimeout)
	defer cancel()
	for range 3 {
		var asked sync.WaitGroup
		for addr, node := range conns.Primary.Nodes() {
			asked.Go(func() { _ = c.askTime(ctx, addr, node) })
		}
		asked.Wait()
		if c.clock.error() <= c.clock.lag() {
			return
		}
	}
}

// Latest returns a time that no server of Redis has surely passed yet.
func (c *Client) Latest() time.Time {
	latest := c.clock.latest()
	conns := c.conns.Load()
	if conns == nil {
		return latest
	}
	for addr := range conns.Primary.Nodes() {
		if !c.clock.knows(addr) {
			return latest.Add(unknownSkew)
		}
	}
	return latest
}

// WaitPast waits until Redis has surely passed a time, in the estimate of this process and of other replicas of Larder, or until
// ctx ends. Other replicas are taken to be about as far from Redis as this one.
func (c *Client) WaitPast(ctx context.Context, t time.Time) error {
	for {
		left := t.Sub(c.AsOf(ctx).Add(-c.clock.lag()))
		if left < 0 {
			return nil
		}
		wait := time.NewTimer(left + time.Microsecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// read returns the time of this process.
func (c *clock) read() time.Time { return c.base.Add(time.Since(c.started)) }

func (c *clock) now() time.Time {
	b := c.fastest.Load()
	if b == nil {
		return c.read()
	}
	return c.read().Add((b.low + b.high) / 2)
}

func (c *clock) earliest() time.Time {
	now, b := c.read(), c.fastest.Load()
	if b == nil {
		return now
	}
	if t := now.Add(b.low - b.drift(now)); t.After(b.floor) {
		return t
	}
	return b.floor
}

func (c *clock) latest() time.Time {
	now, b := c.read(), c.fastest.Load()
	if b == nil {
		return now
	}
	return now.Add(b.high + b.drift(now))
}

// drift returns by how much bounds have widened since they were sampled.
func (b *bounds) drift(now time.Time) time.Duration { return max(now.Sub(b.sampled), 0) / maxDrift }

// error returns by how much earliest may be behind.
func (c *clock) error() time.Duration {
	now, b := c.read(), c.fastest.Load()
	if b == nil {
		return 0
	}
	return b.high - b.low + 2*b.drift(now)
}

// lag returns the maximum error of a good estimate.
func (c *clock) lag() time.Duration {
	return max(estimateLag, 2*time.Duration(c.shortest.Load()))
}

// knows reports whether a server has been sampled.
func (c *clock) knows(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.servers[addr]
	return ok
}

// sample takes the answer of a server to TIME, which was sent and answered at the given times of this process.
func (c *clock) sample(addr string, redis, sent, answered time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if trip := answered.Sub(sent); c.samples == 0 || trip < c.trip {
		c.trip = trip
	}
	if c.samples++; c.samples >= enoughSamples {
		c.shortest.Store(int64(c.trip))
	}
	b := bounds{low: redis.Sub(answered), high: redis.Sub(sent) + time.Microsecond, sampled: answered} // TIME is in microseconds
	if before, ok := c.servers[addr]; ok {
		drift := before.drift(answered)
		low, high := max(b.low, before.low-drift), min(b.high, before.high+drift)
		if low <= high { // else a clock was set
			b.low, b.high = low, high
		}
	}
	c.servers[addr] = b

	fastest := b
	for addr, other := range c.servers {
		age := answered.Sub(other.sampled)
		if age > serverMemory {
			delete(c.servers, addr)
			continue
		}
		drift := other.drift(answered)
		fastest.low, fastest.high = max(fastest.low, other.low-drift), max(fastest.high, other.high+drift)
	}
	if before := c.earliest(); c.fastest.Load() != nil && before.Sub(c.read().Add(fastest.low)) < maxSkew {
		fastest.floor = before
	}
	c.fastest.Store(&fastest)
}
