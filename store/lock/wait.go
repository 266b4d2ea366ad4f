package lock

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// tryAgain is how long a request that waits pauses after a failure, doubling to tryAgainMax.
const (
	tryAgain    = 50 * time.Millisecond
	tryAgainMax = time.Second
)

// A waiting is told that a request waits: at the beginning, and then at least once per interval. Its error ends the wait.
type waiting struct {
	every time.Duration
	told  func(*Busy) error
}

// acquire asks for a lock until it is granted or the time to wait is over.
func (l *Locks) acquire(ctx context.Context, a *attempt, w *waiting) (g *Grant, b *Busy, err error) {
	key := gateKey{a.key, a.Permits, a.Fair}
	if a.Wait == 0 || a.Fair || !l.queued(key) {
		first := noPlace
		if a.Fair && a.Wait != 0 {
			first = takePlace
		}
		if g, b, err = l.try(ctx, a, first); err != nil || g != nil || a.Wait == 0 {
			l.abandon(ctx, a, err)
			l.count(b)
			return g, b, err
		}
	}
	g, b, err = l.wait(ctx, a, key, b, w)
	if err != nil && a.Fair {
		l.leaveQueue(a)
	}
	l.count(b)
	return g, b, err
}

func (l *Locks) count(b *Busy) {
	if b != nil {
		l.counts.held.Add(1)
	}
}

// wait waits for a lock in the gate of this process. Busy is the last answer; nil if Redis was not asked.
func (l *Locks) wait(ctx context.Context, a *attempt, key gateKey, busy *Busy, told *waiting) (g *Grant, b *Busy, err error) {
	var order int64
	if busy != nil {
		order = busy.order
	}
	w, err := l.join(key, order)
	if err != nil {
		return nil, nil, err
	}
	defer l.leave(key, w)
	end, ok := redis.BeginWait(ctx)
	if !ok {
		return nil, nil, redis.Fail(ErrTooManyWaiters, errors.New("too many calls wait, in all or on one connection"))
	}
	defer end()
	o := l.observe(a.key)
	defer o.leave()

	over := newTimer(a.Wait)
	defer over.stop()
	// again is when to ask although no change was told: a ticket must be kept, or the last attempt has failed.
	again := newTimer(-1)
	defer again.stop()
	alive := newTimer(-1)
	defer alive.stop()
	if told != nil {
		alive.reset(0)
	}
	if a.Fair {
		again.reset(ticketEvery)
	}
	turn := w.turn // nil once it is this waiter's turn
	var seen *observed
	failures := 0
	var failed error // of the attempts since the last answer, that of one which may have acquired the lock if there was one
	defer func() {
		if g == nil {
			l.abandon(ctx, a, failed)
		}
	}()
	for {
		ask, final := false, false
		var changed <-chan struct{}
		if turn == nil {
			var now *observed
			if now, changed = o.current(); now != nil && now != seen {
				seen, ask = now, now.err != nil || now.Count < a.Permits
				if now.err != nil && failures > 0 {
					ask = false // the pause decides
				}
			}
		}
		if !ask {
			select {
			case <-turn:
				turn = nil
				continue // what was last read of the lock decides
			case <-changed:
				continue
			case <-again.c:
				ask = true
			case <-alive.c:
				if err := told.told(busy); err != nil {
					return nil, nil, err
				}
				alive.reset(told.every)
			case <-over.c:
				ask, final = true, true
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			case <-l.redis.Lifetime().Done():
				return nil, nil, redis.ErrUnavailable
			}
		}
		if !ask {
			continue
		}
		p := noPlace
		switch {
		case a.Fair && final:
			p = leavePlace // in the same step, or whoever comes next would be refused for a caller that is gone
		case a.Fair:
			p = takePlace
		}
		g, b, err := l.try(ctx, a, p)
		if err == nil || !errors.Is(failed, redis.ErrOutcomeUnknown) {
			failed = err
		}
		switch {
		case g != nil:
			return g, nil, nil
		case err != nil && (final || ctx.Err() != nil || !redis.Retryable(err)):
			return nil, nil, err
		case err != nil:
			failures++
			again.reset(min(tryAgain<<min(failures-1, 10), tryAgainMax))
			continue
		case final:
			return nil, b, nil
		}
		busy, failures = b, 0
		switch {
		case a.Fair:
			if l.reorder(key, w, b.order); b.Holders < a.Permits {
				again.reset(min(ticketEvery, b.RetryAfter))
			} else {
				again.reset(ticketEvery)
			}
		case b.Holders < a.Permits: // others wait fairly and come first
			again.reset(b.RetryAfter)
		default:
			again.reset(-1)
		}
	}
}

// A gateKey names those of this process that wait for the same.
type gateKey struct {
	lock    lockKey
	permits int
	fair    bool
}

// A gate is a queue of this process: only the first one asks Redis when the lock may be free.
type gate struct{ waiters []*waiter }

// waiter is one place in a gate. Turn receives once when the waiter is first.
type waiter struct {
	order int64
	turn  chan struct{}
}

// queued reports whether somebody waits in a gate.
func (l *Locks) queued(k gateKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gates[k] != nil
}

// join enters a gate, at the end or before those with a later ticket.
func (l *Locks) join(k gateKey, order int64) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiters >= l.options.MaxWaiters || l.waiting[k.lock] >= l.options.MaxWaitersPerLock {
		return nil, redis.Fail(ErrTooManyWaiters, errors.New("too many waiters in this process"))
	}
	l.waiters++
	l.waiting[k.lock]++
	g := l.gates[k]
	if g == nil {
		g = new(gate)
		l.gates[k] = g
	}
	w := &waiter{order: order, turn: make(chan struct{}, 1)}
	g.insert(w)
	return w, nil
}

func (g *gate) insert(w *waiter) {
	at := len(g.waiters)
	for w.order > 0 && at > 0 && g.waiters[at-1].order > w.order {
		at--
	}
	g.waiters = slices.Insert(g.waiters, at, w)
	if at == 0 {
		redis.Signal(w.turn)
	}
}

// reorder moves a waiter whose ticket was lost and renewed.
func (l *Locks) reorder(k gateKey, w *waiter, order int64) {
	if w.order == order {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.gates[k]; g != nil {
		g.remove(w)
		w.order = order
		g.insert(w)
	}
}

// remove takes a waiter out, and tells the one that is first now.
func (g *gate) remove(w *waiter) {
	at := slices.Index(g.waiters, w)
	if at < 0 {
		return
	}
	g.waiters = slices.Delete(g.waiters, at, at+1)
	if at == 0 && len(g.waiters) > 0 {
		redis.Signal(g.waiters[0].turn)
	}
}

// leave gives a place up.
func (l *Locks) leave(k gateKey, w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters--
	if l.waiting[k.lock]--; l.waiting[k.lock] == 0 {
		delete(l.waiting, k.lock)
	}
	g := l.gates[k]
	if g.remove(w); len(g.waiters) == 0 {
		delete(l.gates, k)
	}
}

// A timer is a time.Timer that may be unset.
type timer struct {
	t *time.Timer
	c <-chan time.Time
}

// newTimer returns a timer that fires after d; a negative d means never.
func newTimer(d time.Duration) *timer {
	t := new(timer)
	t.reset(d)
	return t
}

func (t *timer) reset(d time.Duration) {
	switch {
	case d < 0 && t.t != nil:
		t.t.Stop()
		t.c = nil
	case d < 0:
	case t.t == nil:
		t.t = time.NewTimer(d)
		t.c = t.t.C
	default:
		t.t.Reset(d)
		t.c = t.t.C
	}
}

func (t *timer) stop() { t.reset(-1) }
