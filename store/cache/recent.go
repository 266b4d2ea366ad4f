package cache

import (
	"sync"
	"sync/atomic"
	"time"
)

// recentInvalidations are the invalidations that this process has made within recentMemory. An entry that this process
// writes after one of them gets an as-of time beyond its reach, which the estimated time of Redis alone does not ensure.
type recentInvalidations struct {
	mu    sync.Mutex
	times map[string]int64 // by Redis key of the invalidation, in microseconds of Redis TIME
	count atomic.Int32     // len(times), readable without mu
	reach func(int64) int64
}

// recentMemory is longer than any skew margin.
const recentMemory = time.Second

// add records an invalidation, and drops those that are no longer recent.
func (r *recentInvalidations) add(key string, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.times == nil {
		r.times = make(map[string]int64)
	}
	r.times[key] = max(r.times[key], at)
	for k, t := range r.times {
		if t < at-recentMemory.Microseconds() {
			delete(r.times, k)
		}
	}
	r.count.Store(int32(len(r.times))) //nolint:gosec // the invalidations of one second
}

// after returns the as-of time of an entry that is written now, where now is a time that Redis has surely reached.
func (r *recentInvalidations) after(now time.Time, namespace string, tags []string) time.Time {
	if r.count.Load() == 0 {
		return now
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	latest := r.times[clearKey(namespace)]
	for _, t := range tags {
		latest = max(latest, r.times[tagKey(namespace, t)])
	}
	if least := time.UnixMicro(r.reach(latest) + 1); latest > 0 && least.After(now) {
		return least
	}
	return now
}
