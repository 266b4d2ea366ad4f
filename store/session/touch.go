package session

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// touchInterval returns the minimum time between two recorded activities of a session, across all replicas: a twentieth of
// the idle timeout, at least 1 s and at most 1 min. A session may therefore expire that much before its idle timeout, and
// never after it.
func touchInterval(idle time.Duration) time.Duration {
	return min(max(idle/20, time.Second), time.Minute)
}

// maxTouches bounds the touches under way. Further ones are dropped while Redis is slow: the next validation of the session
// tries again.
const maxTouches = 64

// toucher runs touches in the background, one at a time for each session.
type toucher struct {
	mu       sync.Mutex
	busy     map[string]struct{} // sessions with a touch under way
	arrivals map[string]struct{} // sessions whose current token was presented, which Redis does not know yet
	slots    chan struct{}       // one element for each arrival under way
	closed   bool
	running  sync.WaitGroup
}

const (
	// maxArrivals bounds the arrivals that wait to be recorded. Validations that bring further ones record them themselves.
	maxArrivals = 1024
	// arrivalsAtOnce bounds the arrivals under way.
	arrivalsAtOnce = 16
	// arrivalAttempts and arrivalBackoff say how often a failed arrival is tried again, and how long after the first failure;
	// the wait doubles. After that the next validation tries again.
	arrivalAttempts = 8
	arrivalBackoff  = 50 * time.Millisecond
)

func newToucher() toucher {
	return toucher{
		busy: make(map[string]struct{}), arrivals: make(map[string]struct{}), slots: make(chan struct{}, arrivalsAtOnce),
	}
}

// close waits for the touches under way; no new one begins.
func (t *toucher) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}

// start reports whether a touch of the session may begin. If it may, the caller must call done.
func (t *toucher) start(id string) (done func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, busy := t.busy[id]; busy || t.closed || len(t.busy) >= maxTouches {
		return nil, false
	}
	t.busy[id] = struct{}{}
	t.running.Add(1)
	return func() {
		t.mu.Lock()
		delete(t.busy, id)
		t.mu.Unlock()
		t.running.Done()
	}, true
}

// arrive reports whether the arrival of a session's token is being recorded, or can be. If begin is set, the caller must record
// it and call done.
func (t *toucher) arrive(id string) (done func(), begin, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, waits := t.arrivals[id]; waits {
		return nil, false, true
	}
	if t.closed || len(t.arrivals) >= maxArrivals {
		return nil, false, false
	}
	t.arrivals[id] = struct{}{}
	t.running.Add(1)
	return func() {
		t.mu.Lock()
		delete(t.arrivals, id)
		t.mu.Unlock()
		t.running.Done()
	}, true, true
}

// touchNever is the interval of a touch that records no activity.
const touchNever = -time.Millisecond

// touchLater records in the background that a session was active, if active is set and the interval has passed, and that its
// current secret was presented, if arrived is set. Activity may be dropped, but an arrival may not: ok is false if the caller
// must record it with a touch of its own, of the returned interval.
func (s *Sessions) touchLater(c credential, namespace string, session *Session, active, arrived bool, every time.Duration) (interval time.Duration, ok bool) {
	interval = touchNever
	// If the session expires by its absolute timeout first, recording activity would change nothing.
	if active && session.IdleExpiresAt().Before(session.AbsoluteExpiresAt) {
		if every <= 0 {
			every = touchInterval(session.Idle)
		}
		if s.redis.Now().Sub(session.LastActiveAt) >= every {
			interval = every
		}
	}
	if arrived {
		done, begin, ok := s.touches.arrive(session.ID)
		if begin {
			go func() {
				defer done()
				s.recordArrival(c, namespace, interval)
			}()
		}
		return interval, ok
	}
	if interval == touchNever {
		return interval, true
	}
	if done, begin := s.touches.start(session.ID); begin {
		go func() {
			defer done()
			ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
			defer cancel()
			_, _ = s.touch(ctx, c, namespace, interval) // the observer counts failures; the next validation tries again
		}()
	}
	return interval, true
}

// recordArrival records that a secret was presented, in its turn.
func (s *Sessions) recordArrival(c credential, namespace string, interval time.Duration) {
	ended := s.redis.Lifetime().Done()
	select {
	case s.touches.slots <- struct{}{}:
		defer func() { <-s.touches.slots }()
	case <-ended:
		return
	}
	wait := arrivalBackoff
	for range arrivalAttempts {
		ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
		_, err := s.touch(ctx, c, namespace, interval)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ended:
			return
		}
	}
}

// touch records that a secret was presented, and activity if the last one is at least the interval ago. It returns the last
// recorded activity in Unix milliseconds; zero means that the session is inactive for this secret. A stolen secret ends the
// session.
func (s *Sessions) touch(ctx context.Context, c credential, namespace string, interval time.Duration) (int64, error) {
	keys, args := touching(c, namespace, interval)
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, touchScript, redis.Writes, keys, args...)
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}

// touching returns the keys and arguments of touch.lua.
func touching(c credential, namespace string, interval time.Duration) (keys, args []string) {
	keys, args = changing(c.partition, namespace, c.id)
	return keys, append(args, c.proof(), strconv.FormatInt(interval.Milliseconds(), 10))
}
