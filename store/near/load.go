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
// one meanwhile, and waits for another reader's fetch of the key as long as that fetch's ticket is good. If that fetch fails
// because its reader gave up, those who waited share the next one, which one of them makes; if it fails otherwise, they share
// one more, and its error if it fails as well. Fetch runs in the caller's goroutine and returns the value, its approximate size
// in bytes and how long it may be kept.
func (c *Cache) Load(ctx context.Context, key string, fetch func() (value any, size int, ttl time.Duration, err error)) (value any, hit bool, err error) {
	if c == nil {
		value, _, _, err = fetch()
		return value, false, err
	}
	s, n := c.shard(key)
	for failed := 0; ; {
		if value, ok := c.peek(key); ok {
			return value, true, nil
		}
		s.mu.Lock()
		ticket := c.ticket(s, n)
		f := s.flights[key]
		if f == nil || !c.good(f.ticket, s, n) {
			f = &flight{ticket: ticket, done: make(chan struct{}), err: errPanicked}
			s.flights[key] = f
			s.mu.Unlock()
			value, err = c.lead(f, s, key, fetch)
			return value, false, err
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if f.err == nil {
			return f.value, false, nil
		}
		if gaveUp := errors.Is(f.err, context.DeadlineExceeded) || errors.Is(f.err, context.Canceled); gaveUp {
			continue
		}
		if failed++; failed == 2 && !errors.Is(f.err, errPanicked) {
			return nil, false, f.err
		}
	}
}

// lead makes the fetch of a flight, which it ends.
func (c *Cache) lead(f *flight, s *shard, key string, fetch func() (value any, size int, ttl time.Duration, err error)) (any, error) {
	defer func() {
		s.mu.Lock()
		if s.flights[key] == f {
			delete(s.flights, key)
		}
		s.mu.Unlock()
		close(f.done) // those who wait find it gone, or the next one
	}()
	value, size, ttl, err := fetch()
	f.value, f.err = value, err
	if err == nil {
		c.Put(key, f.ticket, value, size, ttl)
	}
	return value, err
}
