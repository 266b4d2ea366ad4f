package session

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// touchInterval is how often activity of a session is recorded at most, across all replicas: a twentieth of its idle
// timeout, between a second and a minute. A session so ends up to that much early, and never late.
func touchInterval(idle time.Duration) time.Duration {
	return min(max(idle/20, time.Second), time.Minute)
}

// maxTouches bounds the touches under way. When Redis is slow the ones beyond are left out: the next validation makes
// up for them.
const maxTouches = 64

// toucher runs touches off the path of requests, one at a time for each session.
type toucher struct {
	mu      sync.Mutex
	busy    map[string]struct{}
	closed  bool
	running sync.WaitGroup
}

// close waits for the touches under way; no other begins.
func (t *toucher) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}

// start reports whether a touch of the session may begin; then done must be called.
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

// touchLater records, without waiting for it, activity of a session if that is wanted and would change something, and that
// a successor has arrived, which ends the life of the secret before it.
func (s *Sessions) touchLater(c credential, namespace string, session *Session, active, arrived bool, every time.Duration) {
	interval := touchNever
	// Once the absolute timeout comes first, sliding the idle timeout changes nothing.
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
		_, _ = s.touch(ctx, c, namespace, interval) // counted by the observer; the next one makes up for it
	}()
}

// touch records that a secret was presented, as activity if the last one is at least the interval ago, and returns
// when that was last recorded in Unix milliseconds; zero means that the session has ended or that the secret is not good. A
// secret that was superseded long ago ends it.
func (s *Sessions) touch(ctx context.Context, c credential, namespace string, interval time.Duration) (int64, error) {
	keys, args := touching(c, namespace, interval)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, touchScript, redis.Writes, keys, args...)
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}

// touching returns the keys and arguments of a touch.
func touching(c credential, namespace string, interval time.Duration) (keys, args []string) {
	keys, args = changing(c.partition, namespace, c.id)
	return keys, append(args, strconv.FormatInt(interval.Milliseconds(), 10), string(c.hash[:]))
}
