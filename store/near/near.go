// Package near is the near cache: decoded values of recently read Redis keys, in the memory of this process. The
// invalidations that Redis pushes over the connections that read the keys (CLIENT TRACKING) keep it coherent.
//
// Three rules make it coherent on any number of connections, in whatever order replies, pushes and writes of this process
// arrive:
//   - A reader takes a [Ticket] before it sends its read. [Cache.Put] keeps the value only if the key was not invalidated
//     and no connection was lost since.
//   - A writer calls [Cache.Forget] after Redis has answered and before it answers its own caller, so that a later read
//     misses and asks Redis.
//   - A reader waits for another reader's fetch only if that fetch's ticket is still good ([Cache.Load]).
package near

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Longest bounds how long a value is kept if nothing else ends it, in case an invalidation is ever lost.
const Longest = 10 * time.Minute

const (
	// shardCount is low enough that a large value fits one shard's part of the memory.
	shardCount = 16
	// counterCount is high enough that the invalidation of one key seldom spoils a read of another key in flight.
	counterCount = 64
	// overhead is the approximate number of bytes that the bookkeeping of one value takes.
	overhead = 160
)

// Cache is a near cache. It is safe for concurrent use. A nil Cache holds nothing: every look-up misses, and every write is
// ignored.
type Cache struct {
	seed     maphash.Seed
	shards   [shardCount]shard
	ttl      time.Duration
	maxBytes int64 // of one shard
	epoch    time.Time
	// generation counts the flushes.
	generation atomic.Uint64
	// heard is the latest time, since epoch, up to which every invalidation is known to have arrived.
	heard atomic.Int64
	// confirming guards sources, the primaries that answered the last confirmation.
	confirming sync.Mutex
	sources    string

	hits, misses, evictions, invalidations, flushes atomic.Int64
}

type shard struct {
	mu      sync.RWMutex
	entries map[string]*entry
	flights map[string]*flight
	// invalidated counts the invalidations of keys, which are hashed into a few counters.
	invalidated [counterCount]uint64
	bytes       int64
	// The entries form a list from head, the newest, to tail. The hand belongs to SIEVE, see evict.
	head, tail, hand *entry
	_                [64]byte // keeps two shards off one cache line
}

type entry struct {
	key        string
	value      any
	size       int64
	began      time.Duration // since Cache.epoch: when the read that fetched the value began
	expires    time.Duration // since Cache.epoch: when the value itself expires
	generation uint64
	visited    atomic.Bool
	newer      *entry
	older      *entry
}

// A Ticket records the state of the cache when a read began, and when that was. The fetched value counts as that old.
type Ticket struct {
	invalidated, generation uint64
	began                   time.Duration // since Cache.epoch
}

// New returns a cache that holds at most maxBytes and answers a look-up only if the value was read, or its source confirmed,
// less than ttl ago. It returns nil, a cache that holds nothing, if either is zero or negative.
func New(maxBytes int64, ttl time.Duration) *Cache {
	if maxBytes <= 0 || ttl <= 0 {
		return nil
	}
	c := &Cache{seed: maphash.MakeSeed(), ttl: ttl, maxBytes: maxBytes / shardCount, epoch: time.Now()}
	for i := range c.shards {
		c.shards[i].entries = make(map[string]*entry)
		c.shards[i].flights = make(map[string]*flight)
	}
	return c
}

// shard returns the shard of a key and the key's counter in it.
func (c *Cache) shard(key string) (s *shard, counter uint64) {
	h := maphash.String(c.seed, key)
	return &c.shards[h%shardCount], h / shardCount % counterCount
}

// Get returns the value of a key, and whether there is one that may be used.
func (c *Cache) Get(key string) (any, bool) {
	if c == nil {
		return nil, false
	}
	v, ok := c.peek(key)
	c.count(ok)
	return v, ok
}

// GetBytes is [Cache.Get] for a key in a byte slice; a hit allocates nothing.
func (c *Cache) GetBytes(key []byte) (any, bool) {
	if c == nil {
		return nil, false
	}
	s := &c.shards[maphash.Bytes(c.seed, key)%shardCount]
	s.mu.RLock()
	e := s.entries[string(key)]
	s.mu.RUnlock()
	v, ok := c.use(e)
	c.count(ok)
	return v, ok
}

// Has reports whether a value of the key may be used, and counts neither a hit nor a miss.
func (c *Cache) Has(key string) bool {
	_, ok := c.peek(key)
	return ok
}

func (c *Cache) count(hit bool) {
	if hit {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
	}
}

func (c *Cache) peek(key string) (any, bool) {
	if c == nil {
		return nil, false
	}
	s, _ := c.shard(key)
	s.mu.RLock()
	e := s.entries[key]
	s.mu.RUnlock()
	return c.use(e)
}

// use returns the value of an entry, nil for none, if it may still be used.
func (c *Cache) use(e *entry) (any, bool) {
	if e == nil || e.generation != c.generation.Load() || !c.fresh(e) {
		return nil, false
	}
	if !e.visited.Load() { // storing each time would make all readers of a hot key fight for its cache line
		e.visited.Store(true)
	}
	return e.value, true
}

// fresh reports whether an entry that was not invalidated may be used: its value has not expired, and it was read, or its
// source confirmed, less than ttl ago.
func (c *Cache) fresh(e *entry) bool {
	now := time.Since(c.epoch)
	return now < e.expires && now-max(e.began, time.Duration(c.heard.Load())) < c.ttl
}

// Begin returns the ticket of a read of a key that is about to be sent.
func (c *Cache) Begin(key string) Ticket {
	if c == nil {
		return Ticket{}
	}
	s, n := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return c.ticket(s, n)
}

// ticket returns the ticket of a read that begins now. The caller holds the shard's lock.
func (c *Cache) ticket(s *shard, counter uint64) Ticket {
	return Ticket{s.invalidated[counter], c.generation.Load(), time.Since(c.epoch)}
}

// good reports whether the key was not invalidated since the ticket was taken. The caller holds the shard's lock.
func (c *Cache) good(t Ticket, s *shard, counter uint64) bool {
	return s.invalidated[counter] == t.invalidated && c.generation.Load() == t.generation
}

// Put keeps a fetched value for at most ttl, unless the key was invalidated since the ticket was taken. Size is the
// approximate number of bytes of the value.
func (c *Cache) Put(key string, t Ticket, value any, size int, ttl time.Duration) {
	if c == nil {
		return
	}
	s, n := c.shard(key)
	e := &entry{
		key: key, value: value, size: int64(len(key)+size) + overhead,
		began: t.began, expires: time.Since(c.epoch) + ttl, generation: t.generation,
	}
	if e.size > c.maxBytes || ttl <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.good(t, s, n) {
		return
	}
	s.remove(s.entries[key])
	s.entries[key] = e
	s.push(e)
	for s.bytes > c.maxBytes {
		s.evict()
		c.evictions.Add(1)
	}
}

// Forget drops keys that this process has written, or may have written.
func (c *Cache) Forget(keys ...string) {
	if c == nil {
		return
	}
	for _, key := range keys {
		s, n := c.shard(key)
		s.mu.Lock()
		s.invalidated[n]++
		s.remove(s.entries[key])
		s.mu.Unlock()
	}
}

// Invalidate drops a key of which Redis has pushed that it was written.
func (c *Cache) Invalidate(key string) {
	if c != nil {
		c.invalidations.Add(1)
		c.Forget(key)
	}
}

// Flush drops everything in constant time: later look-ups ignore the entries, which are removed as they are met.
func (c *Cache) Flush() {
	if c != nil {
		c.generation.Add(1)
		c.flushes.Add(1)
	}
}

// Stats are counters of a [Cache].
type Stats struct {
	// Entries and Bytes are the number of values held and their approximate size.
	Entries, Bytes int64
	// Hits and Misses count look-ups.
	Hits, Misses int64
	// Evictions counts values dropped because the cache was full.
	Evictions int64
	// Invalidations counts the keys that Redis has pushed.
	Invalidations int64
	// Flushes counts how often everything was dropped, as when a connection is lost.
	Flushes int64
}

// Stats returns the counters; all are zero for a nil Cache.
func (c *Cache) Stats() (st Stats) {
	if c == nil {
		return st
	}
	st = Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load(),
		Invalidations: c.invalidations.Load(), Flushes: c.flushes.Load(),
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		st.Entries += int64(len(s.entries))
		st.Bytes += s.bytes
		s.mu.RUnlock()
	}
	return st
}
