package redis

import (
	"context"
	"sync"
)

// waiters are told of every key that Redis has pushed and of every key that this process has written.
type waiters struct {
	mu   sync.Mutex
	keys map[string]map[*waiter]struct{}
}

// A waiter is told of keys that have changed, or may have. It must not block.
type waiter struct{ told func(key string) }

// Wait returns a channel that receives once one of the keys has changed, or may have. The caller must call done. Redis pushes
// only keys that were read over the tracked connections before.
func (c *Client) Wait(keys ...string) (changed <-chan struct{}, done func()) {
	ch := make(chan struct{}, 1)
	return ch, c.waiting.add(func(string) { Signal(ch) }, keys...)
}

// OnChange calls told with each of the keys that changes, or may have, until done is called. Told must not block.
func (c *Client) OnChange(told func(key string), keys ...string) (done func()) {
	return c.waiting.add(told, keys...)
}

type waitsKey struct{}

// WithWaits returns a context whose call is told before it waits for another call, which may take long and needs nothing but
// memory. Begin returns false if the call may not wait, or else what it calls when it goes on.
func WithWaits(ctx context.Context, begin func() (end func(), ok bool)) context.Context {
	return context.WithValue(ctx, waitsKey{}, begin)
}

// BeginWait tells whoever has made ctx that its call waits, and returns whether it may and what to call when it goes on. Calls that
// wait for anything but Redis itself use it, so that they do not count as ones that work.
func BeginWait(ctx context.Context) (end func(), ok bool) {
	if begin, told := ctx.Value(waitsKey{}).(func() (func(), bool)); told {
		return begin()
	}
	return func() {}, true
}

func (w *waiters) add(told func(key string), keys ...string) (done func()) {
	one := &waiter{told}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys == nil {
		w.keys = make(map[string]map[*waiter]struct{})
	}
	for _, key := range keys {
		if w.keys[key] == nil {
			w.keys[key] = make(map[*waiter]struct{})
		}
		w.keys[key][one] = struct{}{}
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, key := range keys {
			if delete(w.keys[key], one); len(w.keys[key]) == 0 {
				delete(w.keys, key)
			}
		}
	}
}

// Waits reports whether anybody waits for a key.
func (c *Client) Waits(key string) bool {
	c.waiting.mu.Lock()
	defer c.waiting.mu.Unlock()
	return len(c.waiting.keys[key]) > 0
}

// Wake tells those who wait for a key that it has changed.
func (c *Client) Wake(key string) { c.waiting.wake(key) }

func (w *waiters) wake(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.keys[key] {
		one.told(key)
	}
}

func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, all := range w.keys {
		for one := range all {
			one.told(key)
		}
	}
}

// Signal sends to a channel of capacity 1 without blocking: one pending signal is enough.
func Signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// onWrite are functions that are told of keys that this process writes to the embedded store, where Redis would push them.
type onWrite struct {
	mu    sync.Mutex
	tolds map[*waiter]struct{}
}

// OnEmbeddedWrite calls told with every key that this process writes to the embedded store, which pushes nothing, until done
// is called. With any other store told is never called.
func (c *Client) OnEmbeddedWrite(told func(key string)) (done func()) {
	one := &waiter{told}
	w := &c.onWrite
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tolds == nil {
		w.tolds = make(map[*waiter]struct{})
	}
	w.tolds[one] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.tolds, one)
	}
}

func (w *onWrite) tell(keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.tolds {
		for _, key := range keys {
			one.told(key)
		}
	}
}

// Forget drops keys that this process has written, or may have written, from the near cache and tells those who wait for
// them. A writer calls it after Redis has answered and before it answers its own caller.
func (c *Client) Forget(keys ...string) {
	c.Near.Forget(keys...)
	for _, key := range keys {
		c.waiting.wake(key)
	}
	if c.options.Mode == Embedded {
		c.onWrite.tell(keys)
	}
}
