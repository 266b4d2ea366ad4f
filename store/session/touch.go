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
	mu      sync.Mutex
	busy    map[string]struct{}
	closed  bool
	running sync.WaitGroup
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

// touchNever is the interval of a touch that records no activity.
const touchNever = -time.Millisecond

// touchLater records in the background that a session was active, if active is set and the interval has passed, and that its
// current secret was presented, if arrived is set.
func (s *Sessions) touchLater(c credential, namespace string, session *Session, active, arrived bool, every time.Duration) {
	interval := touchNever
	// If the session expires by its absolute timeout first, recording activity would change nothing.
	if active && session.IdleExpiresAt().Before(session.AbsoluteExpiresAt) {
		if every <= 0 {
			every = touchInterval(session.Idle)
		}
		if s.redis.Now().Sub(session.LastActiveAt) >= every {
			interval = every
		}
	}
	if interval == touchNever && !arrived {
		return
	}
	done, ok := s.touches.start(session.ID)
	if !ok {
		return
	}
	go func() {
		defer done()
		ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
		defer cancel()
		_, _ = s.touch(ctx, c, namespace, interval) // the observer counts failures; the next validation tries again
	}()
}

// touch records that a secret was presented, and activity if the last one is at least the interval ago. It returns the last
// recorded activity in Unix milliseconds; zero means that the session is inactive for this secret. A stolen secret ends the
// session.
func (s *Sessions) touch(ctx context.Context, c credential, namespace string, interval time.Duration) (int64, error) {
	keys, args := touching(c, namespace, interval)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, touchScript, redis.Writes, keys, args...)
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}

// touching returns the keys and arguments of touch.lua.
func touching(c credential, namespace string, interval time.Duration) (keys, args []string) {
	keys, args = changing(c.partition, namespace, c.id)
	return keys, append(args, strconv.FormatInt(interval.Milliseconds(), 10), string(c.hash[:]))
}
