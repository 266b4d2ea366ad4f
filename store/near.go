package store

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// near is the near cache: decoded values of recently read keys, kept right by the invalidations that Redis pushes over
// the connections that read them (CLIENT TRACKING).
//
// Three rules make it right on any number of connections, whatever the order in which replies, pushes and writes of this
// process meet. A read takes a ticket before it is sent, and what it brought is kept only if its key was not invalidated
// and no connection was lost since. A write of this process forgets its keys after Redis has answered and
// before the caller is told, so that a later read finds nothing and asks Redis. And a read waits for another one only if
// that one's ticket is still good.
//
// Nil is a near cache that holds nothing.
type near struct {
	seed     maphash.Seed
	shards   [nearShards]nearShard
	ttl      time.Duration
	maxBytes int64 // of one shard
	epoch    time.Time
	// generation counts the times that everything was dropped.
	generation atomic.Uint64
	// heard is the latest time, since epoch, up to which every invalidation is known to have arrived.
	heard atomic.Int64
	// confirming guards sources, the primaries that were asked last.
	confirming sync.Mutex
	sources    string

	hits, misses, evictions, invalidations, flushes atomic.Int64
}

const (
	// nearShards is small enough that a large value fits one shard's part of the memory.
	nearShards = 16
	// nearCounters is large enough that a read in flight is seldom spoiled by the invalidation of another key.
	nearCounters = 64
)

// nearLongest bounds how long a value is kept that nothing else ends, should an invalidation ever be lost.
const nearLongest = 10 * time.Minute

// nearOverhead is about what the bookkeeping of one value takes.
const nearOverhead = 160

type nearShard struct {
	mu      sync.RWMutex
	entries map[string]*nearEntry
	flights map[string]*nearFlight
	// invalidated counts what was invalidated or forgotten, key by key hashed into a few counters.
	invalidated [nearCounters]uint64
	bytes       int64
	// head and hand belong to SIEVE (Zhang et al., NSDI 2024): a hit only sets a bit, so that readers share the lock.
	head, tail, hand *nearEntry
	_                [64]byte // shards do not share a cache line
}

type nearEntry struct {
	key        string
	value      any
	size       int64
	began      time.Duration // since near.epoch: when the read that brought it began
	expires    time.Duration // since near.epoch: when the value itself ends
	generation uint64
	visited    atomic.Bool
	newer      *nearEntry
	older      *nearEntry
}

type nearFlight struct {
	ticket nearTicket
	done   chan struct{}
	value  any
	err    error
}

// nearTicket remembers how things stood when a read began, and when that was: what it brings is as old as that.
type nearTicket struct {
	invalidated, generation uint64
	began                   time.Duration // since near.epoch
}

// good reports whether nothing has happened to the key since; the shard is locked.
func (n *near) good(t nearTicket, s *nearShard, counter uint64) bool {
	return s.invalidated[counter] == t.invalidated && n.generation.Load() == t.generation
}

func newNear(maxBytes int64, ttl time.Duration) *near {
	if maxBytes <= 0 || ttl <= 0 {
		return nil
	}
	n := &near{seed: maphash.MakeSeed(), ttl: ttl, maxBytes: maxBytes / nearShards, epoch: time.Now()}
	for i := range n.shards {
		n.shards[i].entries = make(map[string]*nearEntry)
		n.shards[i].flights = make(map[string]*nearFlight)
	}
	return n
}

// shard returns the key's shard and its counter there.
func (n *near) shard(key string) (s *nearShard, counter uint64) {
	h := maphash.String(n.seed, key)
	return &n.shards[h%nearShards], h / nearShards % nearCounters
}

// get returns what is kept under key.
func (n *near) get(key string) (any, bool) {
	if n == nil {
		return nil, false
	}
	v, ok := n.peek(key)
	if ok {
		n.hits.Add(1)
	} else {
		n.misses.Add(1)
	}
	return v, ok
}

// getBytes is get for a key that is not a string yet, and need not become one where there is a value.
func (n *near) getBytes(key []byte) (any, bool) {
	if n == nil {
		return nil, false
	}
	s := &n.shards[maphash.Bytes(n.seed, key)%nearShards]
	s.mu.RLock()
	e := s.entries[string(key)]
	s.mu.RUnlock()
	v, ok := n.use(e)
	if ok {
		n.hits.Add(1)
	} else {
		n.misses.Add(1)
	}
	return v, ok
}

func (n *near) peek(key string) (any, bool) {
	if n == nil {
		return nil, false
	}
	s, _ := n.shard(key)
	s.mu.RLock()
	e := s.entries[key]
	s.mu.RUnlock()
	return n.use(e)
}

// use returns the value of what was found, if it may still be used.
func (n *near) use(e *nearEntry) (any, bool) {
	if e == nil || e.generation != n.generation.Load() || !n.fresh(e) {
		return nil, false
	}
	if !e.visited.Load() { // a store would make every reader of a hot key fight for its cache line
		e.visited.Store(true)
	}
	return e.value, true
}

// fresh reports whether a value that was not invalidated may still be used: it has not ended, and was read, or its
// source last heard from, less than ttl ago.
func (n *near) fresh(e *nearEntry) bool {
	now := time.Since(n.epoch)
	return now < e.expires && now-max(e.began, time.Duration(n.heard.Load())) < n.ttl
}

// confirm says that all the sources of what is kept have answered, over the connections that brought it, questions that
// were asked after the ticket was taken. Redis pushes and answers in one order over one connection, so that every
// invalidation from before has arrived: what is kept is what would have been read instead of asking. What came from a
// source that is no longer one is not vouched for by the others, so that everything is dropped when the sources change.
func (n *near) confirm(t nearTicket, sources string) {
	if n == nil {
		return
	}
	n.confirming.Lock()
	defer n.confirming.Unlock()
	if sources != n.sources {
		if n.sources != "" {
			n.flush()
		}
		n.sources = sources
		return
	}
	if sources != "" && n.generation.Load() == t.generation && int64(t.began) > n.heard.Load() {
		n.heard.Store(int64(t.began))
	}
}

// sinceConfirmed returns how long ago what is kept was last confirmed.
func (n *near) sinceConfirmed() time.Duration {
	return time.Since(n.epoch) - time.Duration(n.heard.Load())
}

// has reports whether something is kept under key, without counting that as a look-up.
func (n *near) has(key string) bool {
	_, ok := n.peek(key)
	return ok
}

// begin returns the ticket of a read that is about to be sent.
func (n *near) begin(key string) nearTicket {
	if n == nil {
		return nearTicket{}
	}
	s, c := n.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return nearTicket{s.invalidated[c], n.generation.Load(), time.Since(n.epoch)}
}

// put keeps what a read brought, for at most ttl and as long as it is confirmed, unless its ticket has been spoiled. Size is that of the value.
func (n *near) put(key string, t nearTicket, value any, size int, ttl time.Duration) {
	if n == nil {
		return
	}
	s, c := n.shard(key)
	e := &nearEntry{
		key: key, value: value, size: int64(len(key)+size) + nearOverhead,
		began: t.began, expires: time.Since(n.epoch) + ttl, generation: t.generation,
	}
	if e.size > n.maxBytes || ttl <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !n.good(t, s, c) {
		return
	}
	s.remove(s.entries[key])
	s.entries[key] = e
	s.push(e)
	for s.bytes > n.maxBytes {
		s.evict()
		n.evictions.Add(1)
	}
}

// load returns what fetch reads and keeps it, unless somebody else has just done so. It comes after a get that found
// nothing. Concurrent loads of one key share one fetch as long as that is right. Fetch runs in the caller's goroutine and
// returns the value's size and for how long it may be kept.
func (n *near) load(ctx context.Context, key string, fetch func() (value any, size int, ttl time.Duration, err error)) (value any, hit bool, err error) {
	if n == nil {
		value, _, _, err = fetch()
		return value, false, err
	}
	if value, ok := n.peek(key); ok {
		return value, true, nil
	}
	s, c := n.shard(key)
	s.mu.Lock()
	ticket := nearTicket{s.invalidated[c], n.generation.Load(), time.Since(n.epoch)}
	if f := s.flights[key]; f != nil && n.good(f.ticket, s, c) {
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if f.err == nil {
			return f.value, false, nil
		}
		// It may have failed for a reason of its own, such as its caller going away.
		value, _, _, err = fetch()
		return value, false, err
	}
	f := &nearFlight{ticket: ticket, done: make(chan struct{}), err: ErrUnavailable} // the error stands if fetch panics
	s.flights[key] = f
	s.mu.Unlock()
	defer func() {
		close(f.done)
		s.mu.Lock()
		if s.flights[key] == f {
			delete(s.flights, key)
		}
		s.mu.Unlock()
	}()
	value, size, ttl, err := fetch()
	f.value, f.err = value, err
	if err == nil {
		n.put(key, ticket, value, size, ttl)
	}
	return value, false, err
}

// forget drops keys that this process has written, or may have written.
func (n *near) forget(keys ...string) {
	if n == nil {
		return
	}
	for _, key := range keys {
		s, c := n.shard(key)
		s.mu.Lock()
		s.invalidated[c]++
		s.remove(s.entries[key])
		s.mu.Unlock()
	}
}

// invalidate drops a key that Redis says was written.
func (n *near) invalidate(key string) {
	n.invalidations.Add(1)
	n.forget(key)
}

// flush drops everything, at no cost: what is left is not found any more and makes room as it is met.
func (n *near) flush() {
	if n != nil {
		n.generation.Add(1)
		n.flushes.Add(1)
	}
}

// usage returns how many values are kept and about how many bytes they take.
func (n *near) usage() (entries, bytes int64) {
	if n == nil {
		return 0, 0
	}
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.RLock()
		entries += int64(len(s.entries))
		bytes += s.bytes
		s.mu.RUnlock()
	}
	return entries, bytes
}

func (s *nearShard) push(e *nearEntry) {
	e.older = s.head
	if s.head != nil {
		s.head.newer = e
	}
	s.head = e
	if s.tail == nil {
		s.tail = e
	}
	s.bytes += e.size
}

func (s *nearShard) remove(e *nearEntry) {
	if e == nil {
		return
	}
	if s.hand == e {
		s.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.head = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.tail = e.newer
	}
	delete(s.entries, e.key)
	s.bytes -= e.size
}

// evict removes the oldest value that was not asked for since the hand last passed it.
func (s *nearShard) evict() {
	e := s.hand
	if e == nil {
		e = s.tail
	}
	for e.visited.Load() {
		e.visited.Store(false)
		if e = e.newer; e == nil {
			e = s.tail
		}
	}
	s.hand = e.newer
	s.remove(e)
}
