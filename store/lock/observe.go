package lock

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// readAgain is how long an observer goes without a look at a lock of which no change was told, should a push ever be lost.
const readAgain = 10 * time.Second

// An observer follows one lock for all of this process who wait for it, hold or watch it: one read follows each change.
type observer struct {
	locks *Locks
	key   lockKey
	stop  context.CancelFunc

	// These are guarded by locks.mu.
	users   int
	last    *observed     // nil before the first read
	changed chan struct{} // closed when last is replaced
}

// observed is what an observer has read.
type observed struct {
	State
	err error
}

// observe returns the observer of a lock. The caller must leave it.
func (l *Locks) observe(k lockKey) *observer {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.observers[k]
	if o == nil {
		ctx, stop := context.WithCancel(l.redis.Lifetime())
		o = &observer{locks: l, key: k, stop: stop, changed: make(chan struct{})}
		if len(l.observers) == 0 && l.redis.Near == nil && l.redis.Mode() != redis.Embedded {
			// Without a near cache Redis tracks nothing for this process.
			l.broadcast = l.redis.Broadcast([]string{holdersPrefix}, l.redis.Wake, l.wakeAll)
		}
		l.observers[k] = o
		go o.run(ctx)
	}
	o.users++
	return o
}

// leave ends the caller's use, and that of the observer if it was the last one.
func (o *observer) leave() {
	l := o.locks
	l.mu.Lock()
	var ended *redis.Broadcast
	if o.users--; o.users == 0 {
		o.stop()
		delete(l.observers, o.key)
		if len(l.observers) == 0 {
			ended, l.broadcast = l.broadcast, nil
		}
	}
	l.mu.Unlock()
	if ended != nil {
		ended.Close()
	}
}

// wakeAll makes every observer read again.
func (l *Locks) wakeAll() {
	l.mu.Lock()
	keys := make([]lockKey, 0, len(l.observers))
	for k := range l.observers {
		keys = append(keys, k)
	}
	l.mu.Unlock()
	for _, k := range keys {
		l.wake(k)
	}
}

// wake makes the observer of a lock read again, if there is one.
func (l *Locks) wake(k lockKey) { l.redis.Wake(k.holders()) }

// current returns what was read last, nil for nothing yet, and a channel that is closed when something else was read.
func (o *observer) current() (*observed, <-chan struct{}) {
	o.locks.mu.Lock()
	defer o.locks.mu.Unlock()
	return o.last, o.changed
}

// run reads the lock after each change until ctx ends.
func (o *observer) run(ctx context.Context) {
	told, done := o.locks.redis.Wait(o.key.holders())
	defer done()
	failures := 0
	for {
		s, err := o.locks.state(ctx, o.key, true)
		if ctx.Err() != nil {
			return
		}
		o.locks.mu.Lock()
		o.last = &observed{s, err}
		close(o.changed)
		o.changed = make(chan struct{})
		o.locks.mu.Unlock()

		again := readAgain
		switch {
		case err != nil:
			failures++
			again = min(tryAgain<<min(failures-1, 10), tryAgainMax)
		case s.Count > 0 && len(s.Holders) > 0: // one that expires is told late or not at all
			again = min(again, s.Holders[0].Left+time.Millisecond)
		}
		if err == nil {
			failures = 0
		}
		t := time.NewTimer(again)
		select {
		case <-told:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
