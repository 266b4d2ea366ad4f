package near

import (
	"context"
	"errors"
	"time"
)

// A flight is a fetch under way, which readers of the same key share.
type flight struct {
	ticket Ticket
	done   chan struct{}
	value  any
	err    error
}

// errPanicked is the error of a flight whose fetch panicked.
var errPanicked = errors.New("the fetch panicked")

// Load returns the value that fetch reads, and keeps it. It returns a kept value with hit set if another reader has kept
// one meanwhile, and waits for another reader's fetch of the key as long as that fetch's ticket is good; if that fetch
// fails, it fetches by itself. Fetch runs in the caller's goroutine and returns the value, its approximate size in bytes
// and how long it may be kept.
func (c *Cache) Load(ctx context.Context, key string, fetch func() (value any, size int, ttl time.Duration, err error)) (value any, hit bool, err error) {
	if c == nil {
		value, _, _, err = fetch()
		return value, false, err
	}
	if value, ok := c.peek(key); ok {
		return value, true, nil
	}
	s, n := c.shard(key)
	s.mu.Lock()
	ticket := c.ticket(s, n)
	if f := s.flights[key]; f != nil && c.good(f.ticket, s, n) {
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if f.err == nil {
			return f.value, false, nil
		}
		// It may have failed for a reason of its own, such as its caller's deadline.
		value, _, _, err = fetch()
		return value, false, err
	}
	f := &flight{ticket: ticket, done: make(chan struct{}), err: errPanicked}
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
		c.Put(key, ticket, value, size, ttl)
	}
	return value, false, err
}
