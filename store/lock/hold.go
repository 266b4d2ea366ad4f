package lock

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// HoldKind is what a [HoldEvent] tells.
type HoldKind int

// The kinds of events of [Locks.Hold].
const (
	// HoldWaiting means that the caller waits.
	HoldWaiting HoldKind = iota
	// HoldAcquired means that the caller has the lock.
	HoldAcquired
	// HoldRenewed means that the lock is held, and was renewed if that was due.
	HoldRenewed
	// HoldLost means that the caller no longer has the lock.
	HoldLost
	// HoldBusy means that the time to wait is over.
	HoldBusy
)

// LostReason says why a lock was lost.
type LostReason int

// The reasons.
const (
	// NotLost means that the lock was not lost.
	NotLost LostReason = iota
	// LostExpired means that the lock could not be renewed in time.
	LostExpired
	// LostForced means that the lock was taken away by [Locks.ForceRelease].
	LostForced
	// LostGone means that Redis does not have it.
	LostGone
)

// A HoldEvent tells a holder what happened to its lock.
type HoldEvent struct {
	// Kind is what happened.
	Kind HoldKind
	// Grant is the lock, except for HoldWaiting and HoldBusy; of HoldLost it may be nil.
	Grant *Grant
	// Reason is why the lock was lost.
	Reason LostReason
	// Holder is another holder, for HoldWaiting and HoldBusy, if one is known.
	Holder *Holder
}

// HoldOptions configures [Locks.Hold].
type HoldOptions struct {
	// Token is the lock token of a lock that the caller has; empty means to acquire one.
	Token string
	// Every is the maximum time between two events, so that a caller who is gone is noticed; 0 means no maximum.
	Every time.Duration
	// Keep, called when ctx has ended, says not to release the lock. Nil means to release it.
	Keep func() bool
}

// Hold acquires a lock and holds it until ctx ends, tell fails or the lock is lost: it renews it three times per ttl, and learns
// from Redis of its loss. It tells what happens, and then releases the lock. It returns nil after HoldLost and HoldBusy.
//
// While Redis does not answer, the lock is held until it may have expired.
func (l *Locks) Hold(ctx context.Context, namespace, name string, r Request, o HoldOptions, tell func(HoldEvent) error) error {
	k := lockKey{namespace, name}
	if o.Every <= 0 {
		o.Every = -1
	}
	g, err := l.begin(ctx, k, r, o, tell)
	if g == nil || err != nil {
		return err
	}
	l.counts.holding.Add(1)
	defer l.counts.holding.Add(-1)
	h := &hold{locks: l, key: k, grant: g, ttl: r.TTL, every: o.Every, tell: tell}
	if o.Token != "" && r.TTL == 0 {
		h.ttl = g.ttl
	}
	err = h.run(ctx)
	switch {
	case h.lost == LostForced || h.lost == LostGone:
	case err != nil && ctx.Err() != nil && o.Keep != nil && o.Keep():
		h.last()
	default:
		h.release()
	}
	return err
}

// begin acquires the lock, or takes over one that the caller has.
func (l *Locks) begin(ctx context.Context, k lockKey, r Request, o HoldOptions, tell func(HoldEvent) error) (*Grant, error) {
	if o.Token != "" {
		g, err := l.Renew(ctx, k.namespace, k.name, o.Token, r.TTL)
		if errors.Is(err, ErrNotHeld) {
			l.counts.gone.Add(1)
			return nil, tell(HoldEvent{Kind: HoldLost, Reason: LostGone})
		}
		return g, err
	}
	r.ID = "" // the request cannot be repeated, so that what it has acquired is released if it fails
	g, busy, err := l.acquire(ctx, l.attempt(ctx, k, r), &waiting{o.Every, func(b *Busy) error {
		return tell(HoldEvent{Kind: HoldWaiting, Holder: holderOf(b)})
	}})
	if err == nil && g == nil {
		return nil, tell(HoldEvent{Kind: HoldBusy, Holder: holderOf(busy)})
	}
	return g, err
}

func holderOf(b *Busy) *Holder {
	if b == nil {
		return nil
	}
	return b.Holder
}

// A hold is a lock that is held.
type hold struct {
	locks *Locks
	key   lockKey
	grant *Grant
	ttl   time.Duration
	every time.Duration
	tell  func(HoldEvent) error
	lost  LostReason
}

// renewal is the result of an attempt to renew.
type renewal struct {
	grant *Grant
	err   error
}

func (h *hold) credential() credential {
	c, _ := parseToken(h.grant.Token)
	return c
}

// run holds the lock until ctx ends, tell fails or the lock is lost.
func (h *hold) run(ctx context.Context) error {
	o := h.locks.observe(h.key)
	defer o.leave()
	if err := h.tell(HoldEvent{Kind: HoldAcquired, Grant: h.grant}); err != nil {
		return err
	}
	ends := newTimer(time.Until(h.grant.Ends))
	defer ends.stop()
	due := newTimer(h.ttl / 3)
	defer due.stop()
	beat := newTimer(h.every)
	defer beat.stop()
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	renewed := make(chan renewal, 1)
	renewing, failures := false, 0
	asked := make(chan bool, 1)
	asking, again := false, false
	ask := func() { // for this holder alone, again after a change meanwhile
		if again = asking; !asking {
			asking = true
			go func() { asked <- h.absent(working) }()
		}
	}
	var seen *observed
	for {
		now, changed := o.current()
		if now != nil && now != seen {
			if seen = now; now.err == nil && now.now.After(h.grant.At) {
				has, known := now.has(h.grant.id)
				if known && !has {
					return h.gone(ctx)
				}
				if !known {
					ask()
				}
			}
		}
		select {
		case <-changed:
		case <-due.c:
			due.reset(-1)
			if !renewing {
				renewing = true
				until := h.grant.Ends
				go func() {
					ctx, cancel := context.WithDeadline(working, until)
					defer cancel()
					g, err := h.locks.renew(ctx, h.key, h.credential(), h.ttl)
					renewed <- renewal{g, err}
				}()
			}
		case r := <-renewed:
			renewing = false
			switch {
			case errors.Is(r.err, ErrNotHeld):
				return h.gone(ctx)
			case r.err != nil:
				failures++
				due.reset(min(tryAgain<<min(failures-1, 10), tryAgainMax, h.ttl/10))
				continue
			}
			failures = 0
			r.grant.Token = h.grant.Token
			h.grant = r.grant
			ends.reset(time.Until(h.grant.Ends))
			due.reset(h.ttl / 3)
			beat.reset(0)
		case <-beat.c:
			if err := h.tell(HoldEvent{Kind: HoldRenewed, Grant: h.grant}); err != nil {
				return err
			}
			beat.reset(h.every)
		case absent := <-asked:
			if asking = false; absent {
				return h.gone(ctx)
			}
			if again {
				ask()
			}
		case <-ends.c:
			return h.end(LostExpired)
		case <-ctx.Done():
			return ctx.Err()
		case <-h.locks.redis.Lifetime().Done():
			return redis.ErrUnavailable
		}
	}
}

// absent reports whether Redis says that this holder does not have the lock. There are so many holders that the observer does not
// see them all.
func (h *hold) absent(ctx context.Context) bool {
	none, err := redis.RoundTrip(ctx, h.locks.redis, "zscore", redis.Reads, func(ctx context.Context, conns *redis.Conns) (bool, error) {
		err := conns.Primary.Do(ctx, conns.Primary.B().Zscore().Key(h.key.holders()).Member(h.grant.id).Build()).Error()
		return rueidis.IsRedisNil(err), err
	})
	return err == nil && none
}

// gone tells that Redis does not have the lock, and why.
func (h *hold) gone(ctx context.Context) error {
	why := LostGone
	// The answer only explains the loss, which must be told soon.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ids, err := redis.RoundTrip(ctx, h.locks.redis, "get", redis.Reads, func(ctx context.Context, conns *redis.Conns) (string, error) {
		return conns.Primary.Do(ctx, conns.Primary.B().Get().Key(h.key.taken()).Build()).ToString()
	})
	if err == nil && strings.Contains(ids, h.grant.id) {
		why = LostForced
	}
	return h.end(why)
}

func (h *hold) end(why LostReason) error {
	h.lost = why
	switch why {
	case LostExpired:
		h.locks.counts.expired.Add(1)
	case LostForced:
		h.locks.counts.taken.Add(1)
	case LostGone, NotLost:
		h.locks.counts.gone.Add(1)
	}
	return h.tell(HoldEvent{Kind: HoldLost, Grant: h.grant, Reason: why})
}

// release releases the lock although the caller's context has ended. It does not wait for a Redis that does not answer.
func (h *hold) release() {
	ctx, cancel := context.WithTimeout(context.Background(), h.locks.redis.CommandTimeout())
	defer cancel()
	_, _ = h.locks.release(ctx, h.key, h.credential()) // otherwise it expires
}

// last renews a lock that the caller keeps, so that it has the whole ttl to hold it elsewhere, and tells so if it still can.
func (h *hold) last() {
	ctx, cancel := context.WithTimeout(context.Background(), min(h.locks.redis.CommandTimeout(), time.Until(h.grant.Ends)))
	defer cancel()
	g, err := h.locks.renew(ctx, h.key, h.credential(), h.ttl)
	if err != nil {
		return // the caller has what is left of the ttl
	}
	g.Token = h.grant.Token
	_ = h.tell(HoldEvent{Kind: HoldRenewed, Grant: g}) // the caller may be gone
}
