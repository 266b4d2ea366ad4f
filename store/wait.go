package store

import "sync"

// waiters wakes those who wait for a key to change: it is told of every key that Redis says was written and of every key
// that this process has written.
type waiters struct {
	mu   sync.Mutex
	keys map[string]map[chan struct{}]struct{}
}

// add returns a channel that receives when one of the keys changes, or may have. Then done must be called.
func (w *waiters) add(keys ...string) (changed <-chan struct{}, done func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys == nil {
		w.keys = make(map[string]map[chan struct{}]struct{})
	}
	for _, key := range keys {
		if w.keys[key] == nil {
			w.keys[key] = make(map[chan struct{}]struct{})
		}
		w.keys[key][ch] = struct{}{}
	}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, key := range keys {
			if delete(w.keys[key], ch); len(w.keys[key]) == 0 {
				delete(w.keys, key)
			}
		}
	}
}

func (w *waiters) wake(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.keys[key] {
		signal(ch)
	}
}

func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, chans := range w.keys {
		for ch := range chans {
			signal(ch)
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
	s.near.forget(keys...)
	for _, key := range keys {
		s.waiting.wake(key)
	}
	if s.options.Mode == Embedded {
		s.watches.tell(keys)
	}
}
