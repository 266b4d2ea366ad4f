package store

import "sync"

// waiters wakes those who wait for a key to change: it is told of every key that Redis says was written and of every key
// that this process has written.
type waiters struct {
	mu   sync.Mutex
	keys map[string]map[*waiter]struct{}
}

// waiter is told of keys that have changed, or may have. It must not block.
type waiter struct{ told func(key string) }

// add returns a channel that receives when one of the keys changes, or may have. Then done must be called.
func (w *waiters) add(keys ...string) (changed <-chan struct{}, done func()) {
	ch := make(chan struct{}, 1)
	return ch, w.tell(func(string) { signal(ch) }, keys...)
}

// tell calls told with each of the keys that changes, or may have. Then done must be called.
func (w *waiters) tell(told func(key string), keys ...string) (done func()) {
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

// signal does not block: one pending signal says it all.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// forget drops keys that this process has written, or may have written, from the near cache and tells who
// waits for them.
func (s *Store) forget(keys ...string) {
	s.near.Forget(keys...)
	for _, key := range keys {
		s.waiting.wake(key)
	}
	if s.options.Mode == Embedded {
		s.watches.tell(keys)
		for _, key := range keys {
			// Every change of a session may have added an event, of which Redis would tell.
			if p, ok := partitionOf(key); ok {
				s.waiting.wake(eventsKey(p))
			}
		}
	}
}
