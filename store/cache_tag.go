package store

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
)

// A mark records when a tag was invalidated or a namespace cleared, in microseconds of Redis TIME: entries as of deleted
// or before are gone, those as of stale or before are stale. Zero means never.
type mark struct{ deleted, stale int64 }

// markSize is about what a mark takes in the near cache.
const markSize = 16

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
func (s *Store) InvalidateTags(ctx context.Context, namespace string, tags []string, mode InvalidationMode, memory time.Duration) error {
	keys := make([]string, len(tags))
	for i, t := range tags {
		keys[i] = tagKey(namespace, t)
	}
	defer s.forget(keys...)
	var failed error
	err := s.batch(ctx, cacheInvalidate.name, writes, false, all(len(keys)), func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Eval().Script(cacheInvalidate.text).Numkeys(1).Key(keys[i]).Arg(string(mode), millis(memory)).Build()
	}, func(i int, r rueidis.RedisResult) error {
		at, err := r.AsInt64()
		s.recent.add(keys[i], at)
		return err
	}, func(_ int, err error) { failed = err })
	if err != nil {
		return err
	}
	return failed
}

// ClearNamespace makes every entry of a namespace gone or stale, however many they are.
func (s *Store) ClearNamespace(ctx context.Context, namespace string, mode InvalidationMode) error {
	key := clearKey(namespace)
	defer s.forget(key)
	// It is remembered for ever: there may be entries that never expire, and it is one key for each namespace.
	m, err := s.script(ctx, cacheInvalidate, writes, []string{key}, string(mode), "0")
	if err != nil {
		return err
	}
	at, err := m.AsInt64()
	s.recent.add(key, at)
	return err
}

// verdict is what invalidations have to say of an entry.
type verdict int

const (
	entryValid verdict = iota
	entryStale
	entryGone
)

// skewMargin is by how much the clocks of two shards, or of a primary and the replica that takes over from it, may
// differ. An entry as of so shortly after an invalidation counts as invalidated, too: that costs a miss, and the other
// way would bring old data back.
func (s *Store) skewMargin() time.Duration {
	if s.options.Mode == Cluster || s.options.Mode == Sentinel {
		return 50 * time.Millisecond
	}
	return 0 // one server has one clock
}

// reach returns up to which as-of time an invalidation has effect, in microseconds.
func (s *Store) reach(at int64) int64 {
	if at == 0 {
		return 0
	}
	return at + s.skewMargin().Microseconds()
}

// judge compares an entry with the marks of its namespace and its tags, those that the near cache does not know being
// asked of Redis. Plain values do not say when they were written and are always valid. Clear is the namespace's mark if it
// was read just now.
func (s *Store) judge(ctx context.Context, namespace string, e *Entry, cleared *mark, useNear bool) (verdict, error) {
	if e.AsOf.IsZero() {
		return entryValid, nil
	}
	var worst mark
	var missing []string
	look := func(key []byte) {
		if useNear {
			if v, ok := s.near.GetBytes(key); ok {
				worst = worst.or(v.(mark))
				return
			}
		}
		missing = append(missing, string(key))
	}
	var room [keyRoom]byte
	if cleared != nil {
		worst = *cleared
	} else {
		look(appendClearKey(room[:0], namespace))
	}
	for _, t := range e.Tags {
		look(appendTagKey(room[:0], namespace, t))
	}
	if len(missing) > 0 {
		marks, err := s.readMarks(ctx, missing, useNear)
		if err != nil {
			return entryValid, err
		}
		for _, m := range marks {
			worst = worst.or(m)
		}
	}
	return s.compare(e, worst), nil
}

func (s *Store) compare(e *Entry, m mark) verdict {
	if m == (mark{}) {
		return entryValid
	}
	asOf := e.AsOf.UnixMicro()
	switch {
	case asOf <= s.reach(m.deleted):
		return entryGone
	case asOf <= s.reach(m.stale):
		return entryStale
	}
	return entryValid
}

// or returns the later of both times.
func (m mark) or(o mark) mark { return mark{max(m.deleted, o.deleted), max(m.stale, o.stale)} }

// readMarks reads marks from Redis in one round trip for each shard.
func (s *Store) readMarks(ctx context.Context, keys []string, useNear bool) ([]mark, error) {
	marks := make([]mark, len(keys))
	tickets := make([]near.Ticket, len(keys))
	if useNear {
		for i, key := range keys {
			tickets[i] = s.near.Begin(key)
		}
	}
	var failed error
	err := s.batch(ctx, "get", reads, useNear, all(len(keys)), func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Get().Key(keys[i]).Build()
	}, func(i int, r rueidis.RedisResult) (err error) {
		if marks[i], err = parseMark(r); err == nil && useNear {
			s.near.Put(keys[i], tickets[i], marks[i], markSize, near.Longest)
		}
		return err
	}, func(_ int, err error) { failed = err })
	if err == nil {
		err = failed
	}
	return marks, err
}

func parseMark(r rueidis.RedisResult) (m mark, err error) {
	raw, err := r.AsBytes()
	if rueidis.IsRedisNil(err) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if len(raw) != markSize {
		return m, &opError{kind: ErrCorrupt}
	}
	return mark{int64(binary.BigEndian.Uint64(raw)), int64(binary.BigEndian.Uint64(raw[8:]))}, nil //nolint:gosec // microseconds
}

// clearMark returns the mark of a namespace, which the near cache usually knows.
func (s *Store) clearMark(ctx context.Context, namespace string) (mark, error) {
	key := clearKey(namespace)
	if v, ok := s.near.Get(key); ok {
		return v.(mark), nil
	}
	marks, err := s.readMarks(ctx, []string{key}, true)
	return marks[0], err
}

// recentMarks are the invalidations that this process has just made. What it writes after them is made to be as of a time
// that they do not reach, although the clocks alone could not tell.
type recentMarks struct {
	mu    sync.Mutex
	marks map[string]int64
	count atomic.Int32
	reach func(int64) int64
}

// recentMemory is how long an invalidation is recent: longer than any margin.
const recentMemory = time.Second

func (r *recentMarks) add(key string, at int64) {
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
func (r *recentMarks) after(now time.Time, namespace string, tags []string) time.Time {
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
