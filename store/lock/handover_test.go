package lock_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// BenchmarkHandover measures how long after the beginning of a release a caller that waits at another replica has the lock.
func BenchmarkHandover(b *testing.B) {
	for _, fair := range []bool{false, true} {
		name := "unfair"
		if fair {
			name = "fair"
		}
		b.Run(name, func(b *testing.B) {
			holder, waiter := storetest.Open(b, storetest.Options(b, redis.Standalone)), storetest.Open(b, storetest.Options(b, redis.Standalone))
			ns := storetest.NewNamespace()
			var took []time.Duration
			for b.Loop() {
				g := acquire(b, holder, ns, "name", lock.Request{TTL: time.Minute})
				got := make(chan time.Time, 1)
				go func() {
					next, _, err := waiter.Locks.Acquire(b.Context(), ns, "name", lock.Request{TTL: time.Minute, Wait: time.Minute, Fair: fair})
					at := time.Now()
					if err != nil || next == nil {
						b.Errorf("Acquire = %v, %v, want a grant", next, err)
					} else if _, err := waiter.Locks.Release(b.Context(), ns, "name", next.Token); err != nil {
						b.Errorf("Release = %v, want nil", err)
					}
					got <- at
				}()
				storetest.Eventually(b, "one waits", func() bool { return waiter.Locks.Stats().Waiters == 1 })
				<-time.After(2 * time.Millisecond) // it has looked at the lock
				begin := time.Now()
				release(b, holder, ns, "name", g)
				took = append(took, (<-got).Sub(begin))
				storetest.Eventually(b, "nobody waits", func() bool { return waiter.Locks.Stats().Waiters == 0 })
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms-max")
		})
	}
}

// Callers that wait cost Redis nothing while nothing happens, and are woken by push, also without a near cache.
func TestWaitersAreWokenByPush(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]int64{"near cache": 1 << 20, "no near cache": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			open := func() *store.Store {
				return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: bytes}})
			}
			holder, waiter := open(), open()
			g := acquire(t, holder, "n", "name", lock.Request{TTL: time.Hour})
			const callers = 20
			grants := make(chan *lock.Grant, callers)
			for range callers {
				go func() {
					next, b, err := waiter.Locks.Acquire(t.Context(), "n", "name", lock.Request{TTL: time.Hour, Wait: time.Minute})
					if err != nil || next == nil {
						t.Errorf("Acquire = %v, %v, want a grant", b, err)
					}
					grants <- next
				}()
			}
			storetest.Eventually(t, "all wait", func() bool { return waiter.Locks.Stats().Waiters == callers })
			calls := func() (n int64) {
				for _, name := range []string{"evalsha", "evalsha_ro", "eval", "eval_ro"} {
					n += server.CommandCalls(t)[name]
				}
				return n
			}
			storetest.Eventually(t, "they have looked at the lock", func() bool {
				server.ResetCommandCalls(t)
				<-time.After(100 * time.Millisecond)
				return calls() == 0
			})
			<-time.After(time.Second)
			if n := calls(); n != 0 {
				t.Errorf("scripts in a second in which nothing happened = %d, want none", n)
			}
			for range callers {
				release(t, holder, "n", "name", g)
				begin := time.Now()
				if g = <-grants; g == nil {
					t.FailNow()
				}
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("the next caller has the lock after %v, want much less", took)
				}
			}
			// For each hand-over a release, an attempt and a look or two, however many wait.
			if n := calls(); n > 8*callers {
				t.Errorf("scripts for %d hand-overs = %d, want at most 8 each", callers, n)
			}
		})
	}
}

func TestWaitersAreBounded(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		o := storetest.Options(t, s.Redis.Mode())
		o.Locks = lock.Options{MaxWaiters: 3, MaxWaitersPerLock: 2}
		s = storetest.Open(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, name := range []string{"a", "b", "c"} {
			acquire(t, s, ns, name, request())
		}
		wait := func(name string, fair bool) error {
			r := request()
			r.Wait, r.Fair = time.Minute, fair
			_, _, err := s.Locks.Acquire(ctx, ns, name, r)
			return err
		}
		var all sync.WaitGroup
		for i, name := range []string{"a", "a", "b"} {
			all.Go(func() { _ = wait(name, i%2 == 0) })
			storetest.Eventually(t, "one more waits", func() bool { return s.Locks.Stats().Waiters == int64(i+1) })
			if i == 1 {
				if err := wait("a", true); !errors.Is(err, lock.ErrTooManyWaiters) {
					t.Errorf("third Acquire of a = %v, want %v", err, lock.ErrTooManyWaiters)
				}
			}
		}
		if err := wait("c", false); !errors.Is(err, lock.ErrTooManyWaiters) {
			t.Errorf("fourth Acquire = %v, want %v", err, lock.ErrTooManyWaiters)
		}
		if b := busy(t, s, ns, "c", request()); b.Holders != 1 {
			t.Errorf("Acquire that does not wait = %+v, want one holder", b)
		}
		cancel()
		all.Wait()
		storetest.Eventually(t, "nobody waits and no ticket is left", func() bool {
			state, err := s.Locks.Get(t.Context(), ns, "a")
			return err == nil && state.Waiters == 0 && s.Locks.Stats().Waiters == 0
		})
	})
}

// Releases work when Redis has no memory left, renewals too, and acquisitions are refused.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	g, taken := acquire(t, s, "n", "name", request()), acquire(t, s, "n", "taken", request())
	acquire(t, s, "n", "held", request())
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if _, err := s.Locks.Renew(t.Context(), "n", "name", g.Token, time.Minute); err != nil {
		t.Errorf("Renew = %v, want nil", err)
	}
	release(t, s, "n", "name", g)
	if f, err := s.Locks.ForceRelease(t.Context(), "n", "taken", taken.Fence); err != nil || f.Count != 1 {
		t.Errorf("ForceRelease = %+v, %v, want one holder", f, err)
	}
	for _, fair := range []bool{false, true} {
		r := request()
		r.Fair, r.Wait = fair, time.Second
		if _, _, err := s.Locks.Acquire(t.Context(), "n", "name", r); !errors.Is(err, redis.ErrOverloaded) {
			t.Errorf("Acquire = %v, want %v", err, redis.ErrOverloaded)
		}
		if _, _, err := s.Locks.Acquire(t.Context(), "n", "held", r); fair && !errors.Is(err, redis.ErrOverloaded) || !fair && err != nil {
			t.Errorf("Acquire of a lock that is held, fair: %t = %v, want that only a ticket is refused", fair, err)
		}
	}
}

// While its slot moves a lock is held, or the call is UNAVAILABLE: it is never free because its keys are elsewhere.
func TestLocksWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}})
	g := acquire(t, s, "n", "name", lock.Request{TTL: time.Hour})
	tag := "{n:name}"
	keys := []string{"ld:h:" + tag, "ld:a:" + tag, "ld:f:" + tag}
	slot := cluster.Slot(t, keys[0])
	to := cluster.Another(t, slot)
	check := func(when string) {
		t.Helper()
		if next, _, err := s.Locks.Acquire(t.Context(), "n", "name", request()); next != nil || err != nil && !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("%s: Acquire = %v, %v, want that it is held or %v: %s", when, next, err, redis.ErrUnavailable, storetest.Cause(err))
		}
		if _, err := s.Locks.Renew(t.Context(), "n", "name", g.Token, 0); err != nil && !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("%s: Renew = %v, want nil or %v: %s", when, err, redis.ErrUnavailable, storetest.Cause(err))
		}
	}
	hold, waits := make(chan lock.HoldEvent, 10), make(chan *lock.Grant, 1)
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() {
		held <- s.Locks.Hold(ctx, "n", "name", lock.Request{TTL: time.Hour}, lock.HoldOptions{Token: g.Token}, func(e lock.HoldEvent) error {
			hold <- e
			return nil
		})
	}()
	if e := <-hold; e.Kind != lock.HoldAcquired {
		t.Fatalf("Hold tells %v, want that the lock is held", e)
	}
	go func() {
		next, _, err := s.Locks.Acquire(t.Context(), "n", "name", lock.Request{TTL: time.Hour, Wait: time.Minute})
		if err != nil {
			t.Errorf("Acquire = %v, want a grant", err)
		}
		waits <- next
	}()
	check("before")
	cluster.BeginMove(t, slot, to)
	check("nothing has moved")
	for i := range keys {
		cluster.MoveKeys(t, slot, to, keys[i])
		check(keys[i] + " has moved")
	}
	cluster.EndMove(t, slot, to)
	cluster.AwaitOwner(t, slot, to)
	storetest.Eventually(t, "the new owner answers", func() bool {
		_, err := s.Locks.Renew(t.Context(), "n", "name", g.Token, 0)
		return err == nil
	})
	for {
		select {
		case e := <-hold:
			if e.Kind == lock.HoldLost {
				t.Fatalf("Hold tells %v, want that the lock is held", e)
			}
			continue
		default:
		}
		break
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("Hold = %v, want %v", err, context.Canceled)
	}
	if next := <-waits; next != nil && next.Fence <= g.Fence {
		t.Errorf("token after the move = %d, want above %d", next.Fence, g.Fence)
	}
}
