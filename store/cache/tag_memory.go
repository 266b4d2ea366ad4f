package cache

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// tagMemory is how long the invalidations of tags are kept: as long as an entry that they reach can live. Replicas may allow
// entries to live for different times, and may have allowed longer ones before they were restarted, so that the time is kept in
// Redis: a replica raises it to its own before it writes entries with tags, and keeps every invalidation for as long as it says.
// It is forgotten when it was not raised for that time: by then all these entries are gone.
type tagMemory struct {
	own time.Duration // what the options of this process call for

	mu     sync.Mutex
	known  time.Duration // the longest time that this process knows of
	raised time.Time     // when this process last raised the time in Redis to its own; zero if never
}

// raiseEvery is how often a process that writes entries with tags raises the time in Redis.
const raiseEvery = time.Minute

// defaultMaxTTL is the maximum time to live of an entry unless [Options.MaxTTL] says otherwise.
const defaultMaxTTL = 720 * time.Hour

// maxMemory is the maximum time for which invalidations are kept, 292 years.
const maxMemory = math.MaxInt64 - time.Second

// newTagMemory returns the memory for entries that live for at most maxTTL when they are written. Touch can extend the fresh part
// to that time again and keeps the stale part, which may be as long. A minute is added for calls under way.
func newTagMemory(maxTTL time.Duration) tagMemory {
	own := maxMemory
	if maxTTL < own/2-time.Minute {
		own = 2*maxTTL + time.Minute
	}
	return tagMemory{own: own, known: own}
}

// longest returns the longest time that this process knows of.
func (m *tagMemory) longest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}

// learn takes a time that is in Redis, in milliseconds.
func (m *tagMemory) learn(ms int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = max(m.known, time.Duration(min(ms, int64(maxMemory/time.Millisecond)))*time.Millisecond)
}

// raiseTagMemory makes sure that invalidations are kept for as long as the entries live that this process writes. It is called
// before an entry with tags is written or touched.
func (c *Cache) raiseTagMemory(ctx context.Context) error {
	m := &c.tagMemory
	m.mu.Lock()
	raised := m.raised
	m.mu.Unlock()
	if time.Since(raised) < raiseEvery {
		return nil
	}
	answer, err := c.redis.Run(ctx, rememberScript, redis.Writes, []string{tagMemoryKey}, redis.Millis(m.own))
	if err == nil {
		var ms int64
		if ms, err = answer.AsInt64(); err == nil {
			m.learn(ms)
			m.mu.Lock()
			m.raised = time.Now()
			m.mu.Unlock()
		}
	}
	if err != nil && raised.IsZero() {
		return err
	}
	return nil // what was raised before is kept for longer than a Redis that is away matters
}

// parseMemory reads the answer of GET to tagMemoryKey; 0 means that there is none.
func parseMemory(text string) int64 {
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return ms
}
