package cache

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// A mark records when a tag was invalidated or a namespace cleared, in microseconds of Redis TIME: entries as of deleted
// or before are gone, those as of stale or before are stale. Zero means never.
type invalidation struct{ deleted, stale int64 }

// invalidationSize is about what a mark takes in the near cache.
const invalidationSize = 16

// InvalidationMode says what becomes of invalidated entries.
type InvalidationMode string

// The modes of invalidation.
const (
	// InvalidateDelete makes them gone.
	InvalidateDelete InvalidationMode = "delete"
	// InvalidateStale makes them stale until their hard expiry.
	InvalidateStale InvalidationMode = "stale"
)

// InvalidateTags makes every entry with one of the tags gone or stale, however many they are. Memory is how long the
// invalidation is remembered, which must be as long as any entry with tags can live.
func (c *Cache) InvalidateTags(ctx context.Context, namespace string, tags []string, mode InvalidationMode, memory time.Duration) error {
	keys := make([]string, len(tags))
	for i, t := range tags {
		keys[i] = tagKey(namespace, t)
	}
	defer c.redis.Forget(keys...)
	var failed error
	err := c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: invalidateScript.Name(), Effect: redis.Writes,
		Command: func(b rueidis.Builder, i int) rueidis.Completed {
			return b.Eval().Script(invalidateScript.Text()).Numkeys(1).Key(keys[i]).Arg(string(mode), redis.Millis(memory)).Build()
		},
		Read: func(i int, r rueidis.RedisResult) error {
			at, err := r.AsInt64()
			c.recent.add(keys[i], at)
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err != nil {
		return err
	}
	return failed
}

// ClearNamespace makes every entry of a namespace gone or stale, however many they are.
func (c *Cache) ClearNamespace(ctx context.Context, namespace string, mode InvalidationMode) error {
	key := clearKey(namespace)
	defer c.redis.Forget(key)
	// It is remembered for ever: there may be entries that never expire, and it is one key for each namespace.
	m, err := c.redis.Run(ctx, invalidateScript, redis.Writes, []string{key}, string(mode), "0")
	if err != nil {
		return err
	}
	at, err := m.AsInt64()
	c.recent.add(key, at)
	return err
}

// verdict is what invalidations have to say of an entry.
type validity int

const (
	entryValid validity = iota
	entryStale
	entryGone
)

// skewMargin is by how much the clocks of two shards, or of a primary and the replica that takes over from it, may
// differ. An entry as of so shortly after an invalidation counts as invalidated, too: that costs a miss, and the other
// way would bring old data back.
func (c *Cache) skewMargin() time.Duration {
	if c.redis.Mode() == redis.Cluster || c.redis.Mode() == redis.Sentinel {
		return 50 * time.Millisecond
	}
	return 0 // one server has one clock
}

// reach returns up to which as-of time an invalidation has effect, in microseconds.
func (c *Cache) reach(at int64) int64 {
	if at == 0 {
		return 0
	}
	return at + c.skewMargin().Microseconds()
}

// judge compares an entry with the marks of its namespace and its tags, those that the near cache does not know being
// asked of Redis. Plain values do not say when they were written and are always valid. Clear is the namespace's mark if it
// was read just now.
func (c *Cache) judge(ctx context.Context, namespace string, e *Entry, cleared *invalidation, useNear bool) (validity, error) {
	if e.AsOf.IsZero() {
		return entryValid, nil
	}
	var worst invalidation
	var missing []string
	look := func(key []byte) {
		if useNear {
			if v, ok := c.redis.Near.GetBytes(key); ok {
				worst = worst.or(v.(invalidation))
				return
			}
		}
		missing = append(missing, string(key))
	}
	var room [redis.KeyRoom]byte
	if cleared != nil {
		worst = *cleared
	} else {
		look(appendClearKey(room[:0], namespace))
	}
	for _, t := range e.Tags {
		look(appendTagKey(room[:0], namespace, t))
	}
	if len(missing) > 0 {
		marks, err := c.readInvalidations(ctx, missing, useNear)
		if err != nil {
			return entryValid, err
		}
		for _, m := range marks {
			worst = worst.or(m)
		}
	}
	return c.compare(e, worst), nil
}

func (c *Cache) compare(e *Entry, m invalidation) validity {
	if m == (invalidation{}) {
		return entryValid
	}
	asOf := e.AsOf.UnixMicro()
	switch {
	case asOf <= c.reach(m.deleted):
		return entryGone
	case asOf <= c.reach(m.stale):
		return entryStale
	}
	return entryValid
}

// or returns the later of both times.
func (m invalidation) or(o invalidation) invalidation {
	return invalidation{max(m.deleted, o.deleted), max(m.stale, o.stale)}
}

// readInvalidations reads marks from Redis in one round trip for each shard.
func (c *Cache) readInvalidations(ctx context.Context, keys []string, useNear bool) ([]invalidation, error) {
	found := make([]invalidation, len(keys))
	tickets := make([]near.Ticket, len(keys))
	if useNear {
		for i, key := range keys {
			tickets[i] = c.redis.Near.Begin(key)
		}
	}
	var failed error
	err := c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: "get", Effect: redis.Reads, Tracked: useNear,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Get().Key(keys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) (err error) {
			if found[i], err = parseInvalidation(r); err == nil && useNear {
				c.redis.Near.Put(keys[i], tickets[i], found[i], invalidationSize, near.Longest)
			}
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err == nil {
		err = failed
	}
	return found, err
}

func parseInvalidation(r rueidis.RedisResult) (m invalidation, err error) {
	raw, err := r.AsBytes()
	if rueidis.IsRedisNil(err) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if len(raw) != invalidationSize {
		return m, redis.Fail(redis.ErrCorrupt, nil)
	}
	return invalidation{int64(binary.BigEndian.Uint64(raw)), int64(binary.BigEndian.Uint64(raw[8:]))}, nil //nolint:gosec // microseconds
}

// clearing returns the mark of a namespace, which the near cache usually knows.
func (c *Cache) clearing(ctx context.Context, namespace string) (invalidation, error) {
	key := clearKey(namespace)
	if v, ok := c.redis.Near.Get(key); ok {
		return v.(invalidation), nil
	}
	marks, err := c.readInvalidations(ctx, []string{key}, true)
	return marks[0], err
}

// recentInvalidations are the invalidations that this process has just made. What it writes after them is made to be as of a time
// that they do not reach, although the clocks alone could not tell.
type recentInvalidations struct {
	mu    sync.Mutex
	marks map[string]int64
	count atomic.Int32
	reach func(int64) int64
}

// recentMemory is how long an invalidation is recent: longer than any margin.
const recentMemory = time.Second

func (r *recentInvalidations) add(key string, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.marks == nil {
		r.marks = make(map[string]int64)
	}
	r.marks[key] = max(r.marks[key], at)
	for k, t := range r.marks {
		if t < at-recentMemory.Microseconds() {
			delete(r.marks, k)
		}
	}
	r.count.Store(int32(len(r.marks))) //nolint:gosec // as many as fit a second
}

// after returns the as-of time of what is written now, at a time that Redis has surely reached.
func (r *recentInvalidations) after(now time.Time, namespace string, tags []string) time.Time {
	if r.count.Load() == 0 {
		return now
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	latest := r.marks[clearKey(namespace)]
	for _, t := range tags {
		latest = max(latest, r.marks[tagKey(namespace, t)])
	}
	if least := time.UnixMicro(r.reach(latest) + 1); latest > 0 && least.After(now) {
		return least
	}
	return now
}
