package lock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// A contest is many callers who want one lock, on several replicas.
type contest struct {
	history

	stores  []*store.Store
	ns      string
	permits int
	fair    bool
	rounds  int // that each caller gets the lock
	ttl     time.Duration
	inside  atomic.Int64 // how many have the lock and have not lost it, as far as they know
	most    atomic.Int64
}

// caller gets the lock a number of times. Sometimes it renews it, sometimes it forgets to release it, as one that has crashed.
func (c *contest) caller(ctx context.Context, t testing.TB, number int) {
	s := c.stores[number%len(c.stores)]
	random := rand.New(rand.NewPCG(uint64(number), 7))
	for round := 0; round < c.rounds && ctx.Err() == nil; {
		r := lock.Request{TTL: c.ttl, Wait: 5 * time.Second, Permits: c.permits, Fair: c.fair, ID: fmt.Sprintf("caller-%d-%d-%d", number, round, random.Uint64())}
		var g *lock.Grant
		var err error
		for range 100 { // a lost answer is asked for again
			if g, _, err = s.Locks.Acquire(ctx, c.ns, "contested", r); err == nil || ctx.Err() != nil || !redis.Retryable(err) {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		switch {
		case err != nil && ctx.Err() == nil && !redis.Retryable(err):
			t.Errorf("Acquire = %v, want a grant or a failure of Redis: %s", err, storetest.Cause(err))
			return
		case g == nil:
			continue
		}
		who := fmt.Sprintf("%d.%d", number, round)
		tenure := c.granted(who, c.permits, g)
		if time.Now().Before(g.Ends) {
			c.enters()
			if random.IntN(3) == 0 {
				<-time.After(time.Duration(random.IntN(3)) * time.Millisecond)
			}
			c.inside.Add(-1)
		}
		round++
		if random.IntN(4) == 0 {
			renewed, err := s.Locks.Renew(ctx, c.ns, "contested", g.Token, 0)
			switch {
			case err == nil:
				c.renewed(tenure, renewed)
			case errors.Is(err, lock.ErrNotHeld):
				c.ended(tenure, time.Time{})
				continue
			default: // it may have been renewed, and lasts at least as long as is known
			}
		}
		if random.IntN(20) == 0 {
			continue // crashed: the lock ends by itself
		}
		released, err := s.Locks.Release(ctx, c.ns, "contested", g.Token)
		switch {
		case err == nil && released.Held:
			c.ended(tenure, released.At)
		default:
			c.ended(tenure, time.Time{})
		}
	}
}

// enters notes that one more has the lock.
func (c *contest) enters() {
	n := c.inside.Add(1)
	for {
		if most := c.most.Load(); n <= most || c.most.CompareAndSwap(most, n) {
			return
		}
	}
}

// run lets the callers contend and checks their history.
func (c *contest) run(t *testing.T, callers int, meanwhile func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for number := range callers {
		all.Go(func() { c.caller(ctx, t, number) })
	}
	if meanwhile != nil {
		meanwhile(ctx)
	}
	all.Wait()
	if want := callers * c.rounds; len(c.tenures) < want {
		t.Errorf("the lock was acquired %d times in 90 s, want %d", len(c.tenures), want)
	}
	found := violations(c.tenures)
	for _, v := range found[:min(len(found), 5)] {
		t.Error(v + ", want neither")
	}
	if most := int(c.most.Load()); most > c.permits {
		t.Errorf("callers that had the lock at once = %d, want at most %d", most, c.permits)
	}
}

func TestFiftyContenders(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		replicas := storetest.Replicas(t, s)
		for _, tt := range []struct {
			permits int
			fair    bool
		}{{1, false}, {1, true}, {5, false}, {5, true}} {
			c := &contest{stores: replicas[:], ns: fmt.Sprintf("%s-%d-%t", ns, tt.permits, tt.fair), permits: tt.permits, fair: tt.fair, rounds: 4, ttl: 300 * time.Millisecond}
			c.run(t, 50, nil)
		}
	})
}

// Mutual exclusion and the order of the fencing tokens hold while a network is cut and Redis restarts.
func TestContendersWhileRedisFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"appendonly", "yes", "appendfsync", "always"}})
	proxy := redistest.StartProxy(t, server.Addr)
	open := func(addr string) *store.Store {
		return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{addr}, NearCacheBytes: 1 << 20, CommandTimeout: time.Second}})
	}
	c := &contest{stores: []*store.Store{open(server.Addr), open(proxy.Addr)}, ns: "n", permits: 1, rounds: 20, ttl: 500 * time.Millisecond}
	c.run(t, 50, func(ctx context.Context) {
		acquired := func(n int) {
			storetest.Eventually(t, fmt.Sprintf("%d were granted", n), func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.tenures) >= n || ctx.Err() != nil
			})
		}
		acquired(50)
		proxy.CutAll()
		acquired(100)
		proxy.DropReplies(true) // writes are applied, and nobody is told
		acquired(150)
		// A connection that has lost bytes must not go on, which TCP would not let happen.
		proxy.Refuse(true)
		proxy.CutAll()
		proxy.DropReplies(false)
		proxy.Refuse(false)
		acquired(200)
		proxy.Blackhole(true)
		acquired(300)
		proxy.Blackhole(false)
		acquired(400)
		server.Kill()
		server.Restart(t)
		acquired(600)
		if _, err := c.stores[0].Locks.ForceRelease(ctx, c.ns, "contested", 1); err != nil { // nobody's
			t.Errorf("ForceRelease = %v, want nil", err)
		}
	})
}

// A caller that ends its wait after an attempt whose answer was lost keeps no lock that the attempt has acquired.
func TestAWaitThatEndsAfterALostAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	open := func(addr string) *store.Store {
		return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{addr}, CommandTimeout: 500 * time.Millisecond}})
	}
	direct, waiter := open(server.Addr), open(proxy.Addr)
	g := acquire(t, direct, "n", "name", lock.Request{TTL: time.Hour})
	errGone := errors.New("the caller has gone")
	begun := false
	err := waiter.Locks.Hold(t.Context(), "n", "name", lock.Request{TTL: time.Hour, Wait: -1, Fair: true, Owner: "waiter"},
		lock.HoldOptions{Every: time.Millisecond}, func(e lock.HoldEvent) error {
			if e.Kind != lock.HoldWaiting {
				t.Errorf("event = %+v, want only that it waits", e)
				return errGone
			}
			if !begun {
				begun = true
				proxy.DropReplies(true)
				release(t, direct, "n", "name", g)
			}
			state, err := direct.Locks.Get(t.Context(), "n", "name")
			if err != nil || len(state.Holders) == 0 || state.Holders[0].Owner != "waiter" {
				return err
			}
			proxy.DropReplies(false)
			proxy.CutAll()
			return errGone
		})
	if !errors.Is(err, errGone) {
		t.Errorf("Hold = %v, want %v", err, errGone)
	}
	storetest.Eventually(t, "nobody holds the lock", func() bool {
		state, err := direct.Locks.Get(t.Context(), "n", "name")
		return err == nil && state.Count == 0
	})
}

// What a request has acquired whose answers were lost is given back when its context ends, unless a later attempt was told.
func TestARequestThatIsNotToldKeepsNoLock(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	open := func(addr string) *store.Store {
		return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{addr}, CommandTimeout: 500 * time.Millisecond}})
	}
	direct, caller := open(server.Addr), open(proxy.Addr)
	holders := func() int {
		state, err := direct.Locks.Get(t.Context(), "n", "name")
		if err != nil {
			t.Fatalf("Get = %v, want nil", err)
		}
		return state.Count
	}
	for _, told := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		ctx = lock.WithRequest(ctx)
		proxy.DropReplies(true)
		if g, _, err := caller.Locks.Acquire(ctx, "n", "name", lock.Request{TTL: time.Hour}); !errors.Is(err, redis.ErrOutcomeUnknown) {
			t.Fatalf("Acquire without an answer = %v, %v, want %v", g, err, redis.ErrOutcomeUnknown)
		}
		proxy.DropReplies(false)
		proxy.CutAll()
		var g *lock.Grant
		if told {
			storetest.Eventually(t, "the lock is granted", func() bool {
				g, _, _ = caller.Locks.Acquire(ctx, "n", "name", lock.Request{TTL: time.Hour})
				return g != nil
			})
		}
		if n := holders(); n != 1 {
			t.Errorf("holders = %d, want 1", n)
		}
		cancel()
		if told {
			if released, err := caller.Locks.Release(t.Context(), "n", "name", g.Token); err != nil || !released.Held {
				t.Errorf("Release = %v, %v, want that it was held", released, err)
			}
			continue
		}
		storetest.Eventually(t, "nobody holds the lock", func() bool { return holders() == 0 })
	}
}

// Those who wait fairly are served in their order, whichever replica they wait at, and before those who do not.
func TestFairOrder(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		for _, permits := range []int{1, 3} {
			replicas := storetest.Replicas(t, s)
			name := fmt.Sprint("fair-", permits)
			var held []*lock.Grant
			for range permits {
				held = append(held, acquire(t, s, ns, name, lock.Request{TTL: time.Minute, Permits: permits}))
			}
			const callers = 12
			grants := make([]*lock.Grant, callers)
			var all sync.WaitGroup
			waits := func(n int) {
				storetest.Eventually(t, fmt.Sprint(n, " wait"), func() bool {
					state, err := s.Locks.Get(t.Context(), ns, name)
					return err == nil && state.Waiters == n
				})
			}
			for i := range callers {
				all.Go(func() {
					r := lock.Request{TTL: time.Minute, Permits: permits, Fair: true, Wait: 60 * time.Second}
					at := replicas[i%2]
					g, b, err := at.Locks.Acquire(t.Context(), ns, name, r)
					if g == nil {
						t.Errorf("Acquire = %v, %v, want a grant", b, err)
						return
					}
					grants[i] = g
					if _, err := at.Locks.Release(t.Context(), ns, name, g.Token); err != nil {
						t.Errorf("Release = %v, want nil", err)
					}
				})
				waits(i + 1)
			}
			// Neither an impatient caller nor one who would wait unfairly gets past them.
			b := busy(t, s, ns, name, lock.Request{TTL: time.Minute, Permits: permits})
			if b.Holders != permits {
				t.Errorf("holders = %d, want %d", b.Holders, permits)
			}
			for _, g := range held {
				release(t, s, ns, name, g)
			}
			all.Wait()
			// With several permits free at once, as many of the first have their turn together.
			for i, g := range grants {
				passed := 0
				for _, earlier := range grants[:i] {
					if g != nil && earlier != nil && earlier.Fence > g.Fence {
						passed++
					}
				}
				if passed >= permits {
					t.Errorf("with %d permits caller %d came before %d of those who waited longer, want fewer than %d", permits, i, passed, permits)
				}
			}
			waits(0)
		}
	})
}

// A caller who waits fairly at a replica that has crashed holds nobody up for long.
func TestATicketOfACrashedReplica(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		tag := "{" + ns + ":name}"
		acquireAt := func(wait time.Duration) (*lock.Grant, *lock.Busy) {
			g, b, err := s.Locks.Acquire(t.Context(), ns, "name", lock.Request{TTL: time.Minute, Fair: true, Wait: wait})
			if err != nil {
				t.Fatalf("Acquire = %v, want nil: %s", err, storetest.Cause(err))
			}
			return g, b
		}
		us := fmt.Sprint(time.Now().Add(2 * time.Second).UnixMicro())
		storetest.Command(t, s, "ZADD", "ld:y:"+tag, "1", "crashed")
		storetest.Command(t, s, "ZADD", "ld:y:"+tag+":kept", us, "crashed")
		if g, b := acquireAt(0); g != nil || b.Holders != 0 || b.RetryAfter <= 0 || b.RetryAfter > 3*time.Second {
			t.Errorf("Acquire beside a ticket = %v, %+v, want that the other comes first", g, b)
		}
		if g, b := acquireAt(20 * time.Second); g == nil || g.At.UnixMicro() < time.Now().Add(-20*time.Second).UnixMicro() {
			t.Errorf("Acquire after a ticket = %v, %v, want a grant", g, b)
		}
	})
}

// A failover may lose a lock, and never lets a fencing token come twice or fall back.
func TestFencingTokensAcrossAFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t)
	s := storetest.Open(t, store.Options{Redis: redis.Options{
		Mode: redis.Sentinel, Addrs: sentinel.Addrs(), SentinelMaster: sentinel.MasterSet, NearCacheBytes: 1 << 20,
	}})
	var last int64
	next := func() {
		t.Helper()
		storetest.Eventually(t, "the lock was granted", func() bool {
			g, _, err := s.Locks.Acquire(t.Context(), "n", "name", request())
			if err != nil || g == nil {
				_, _ = s.Locks.ForceRelease(t.Context(), "n", "name", 0)
				return false
			}
			if g.Fence <= last {
				t.Errorf("token = %d, want above %d", g.Fence, last)
			}
			last = g.Fence
			return true
		})
	}
	for range 3 {
		next()
		sentinel.Failover(t)
	}
	next()
}
