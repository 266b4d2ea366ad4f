package redis_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// within is how soon writes work again when there is a new primary.
const within = 5 * time.Second

// replicaOf makes a server a replica of another, and returns once it follows.
func replicaOf(t *testing.T, replica, primary *redistest.Server) {
	t.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	replica.Do(t, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	primary.Do(t, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	replica.Do(t, "REPLICAOF", host, port)
	storetest.Eventually(t, "the replica follows", func() bool {
		role, _ := replica.Do(t, "ROLE").([]any)
		return len(role) > 3 && role[3] == "connected"
	})
}

// pair starts a primary and its replica, and a proxy at the one address of the primary.
func pair(t *testing.T) (primary, replica *redistest.Server, proxy *redistest.Proxy) {
	t.Helper()
	primary, replica = redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
	replicaOf(t, replica, primary)
	return primary, replica, redistest.StartProxy(t, primary.Addr)
}

// trySet writes a value and returns how that ended.
func trySet(t *testing.T, s *store.Store, key, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err := s.Cache.Set(ctx, "n", key, cache.Write{Value: []byte(value)}, cache.Condition{})
	return err
}

// TestFailoverBehindOneAddress: the address of the primary leads to another server, and the connections to the former one stay
// open. What the former one becomes makes no difference: writes work again soon, and what is answered from memory is soon what
// is written elsewhere.
func TestFailoverBehindOneAddress(t *testing.T) {
	t.Parallel()
	for name, demote := range map[string]func(t *testing.T, former, next *redistest.Server){
		"the former one follows": func(t *testing.T, former, next *redistest.Server) { t.Helper(); replicaOf(t, former, next) },
		// It hears of no write any more.
		"the former one is a replica cut off": func(t *testing.T, former, _ *redistest.Server) {
			t.Helper()
			former.Do(t, "REPLICAOF", "127.0.0.1", "1")
		},
		"the former one is a primary still": func(*testing.T, *redistest.Server, *redistest.Server) {},
	} {
		for _, writes := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", writing", false: ", reading"}[writes], func(t *testing.T) {
				t.Parallel()
				former, next, proxy := pair(t)
				const ttl = 2 * time.Second
				s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: ttl}})
				created, err := s.Sessions.Create(t.Context(), "n", session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
				if err != nil {
					t.Fatalf("Create = %v, want no error", err)
				}
				storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("1")})
				validate := func() (session.Verdict, error) {
					return s.Sessions.Validate(t.Context(), "n", session.Validation{Token: created.Token, Near: true, Touch: session.TouchNever})
				}
				storetest.Eventually(t, "all is held", func() bool {
					v, err := validate()
					return err == nil && v.Session != nil && storetest.Get(t, s, "n", "key", true).Near
				})
				storetest.Eventually(t, "the replica has it", func() bool { return next.Do(t, "EXISTS", storetest.EntryKey("n", "key")) == int64(1) })

				next.Do(t, "REPLICAOF", "NO", "ONE")
				proxy.SetTarget(next.Addr)
				demote(t, former, next)
				changed := time.Now()
				if writes {
					storetest.Eventually(t, "a write arrives at the new primary", func() bool {
						return trySet(t, s, "written", "1") == nil && next.Do(t, "EXISTS", storetest.EntryKey("n", "written")) == int64(1)
					})
					if took := time.Since(changed); took > within {
						t.Errorf("the first write arrived after %v, want %v at most", took, within)
					}
				}
				other := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{next.Addr}}})
				storetest.Set(t, other, "n", "key", cache.Write{Value: []byte("2")})
				_, err = other.Sessions.RevokeSubject(t.Context(), "n", "ann", session.SubjectRevocation{})
				if err != nil {
					t.Fatalf("RevokeSubject = %v, want no error", err)
				}
				written := time.Now()
				var right time.Time // since when all answers are right
				for right.IsZero() || time.Since(right) < ttl {
					asked := time.Now()
					f, err1 := s.Cache.Get(t.Context(), "n", "key", true)
					v, err2 := validate()
					switch stale := err1 == nil && storetest.Version(t, f) != 2 || err2 == nil && v.Session != nil; {
					case stale && asked.Sub(written) > ttl+200*time.Millisecond:
						t.Fatalf("%v after the writes: Get = %d, Validate = %+v, want what was written", asked.Sub(written), storetest.Version(t, f), v)
					case stale || err1 != nil || err2 != nil:
						right = time.Time{}
					case right.IsZero():
						right = asked
					}
					if asked.Sub(written) > 2*within {
						t.Fatalf("%v after the writes: %v, %v, want no errors", asked.Sub(written), err1, err2)
					}
				}
				if err := s.Redis.Ping(t.Context()); err != nil {
					t.Errorf("Ping = %v, want no error", err)
				}
			})
		}
	}
}

// TestReplicaInsteadOfThePrimary: the address leads to a replica, from the start or after a demotion. The store is not ready,
// dials no more than the backoff says, starts no goroutines without end, and works when the server is a primary.
// It runs alone, as refused counts goroutines.
func TestReplicaInsteadOfThePrimary(t *testing.T) {
	for _, connected := range []bool{false, true} {
		t.Run(map[bool]string{false: "from the start", true: "after a demotion"}[connected], func(t *testing.T) {
			server, other := redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
			watched := new(watcher)
			s, err := store.New(store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, Observer: watched}})
			if err != nil {
				t.Fatalf("New = %v, want no error", err)
			}
			defer s.Close()
			connecting := make(chan error, 1)
			connect := func() { connecting <- s.Redis.Connect(t.Context()) }
			if connected {
				connect()
				if err := trySet(t, s, "key", "1"); err != nil {
					t.Fatalf("Set = %v, want no error", err)
				}
			}
			replicaOf(t, server, other)
			if !connected {
				go connect()
			}
			refused(t, s, watched)
			server.Do(t, "REPLICAOF", "NO", "ONE")
			works(t, s, time.Now())
			if err := <-connecting; err != nil {
				t.Errorf("Connect = %v, want no error", err)
			}
		})
	}
}

// refused watches for 3 s that a store without a primary says so, and keeps still otherwise.
func refused(t *testing.T, s *store.Store, watched *watcher) {
	t.Helper()
	const during = 3 * time.Second
	storetest.Eventually(t, "it is not ready", func() bool { return s.Redis.Ping(t.Context()) != nil })
	attempts, goroutines, begin := watched.seen(redis.Dialed)+watched.seen(redis.DialFailed), runtime.NumGoroutine(), time.Now()
	most := 0
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for ticks := time.NewTicker(10 * time.Millisecond); time.Since(begin) < during; <-ticks.C {
				if err := trySet(t, s, "key", "2"); !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
					t.Errorf("Set = %v (%s), want %v, retryable", err, storetest.Cause(err), redis.ErrUnavailable)
					return
				}
				if err := s.Redis.Ping(t.Context()); err == nil {
					t.Error("Ping = no error, want one")
					return
				}
			}
		})
	}
	for ticks := time.NewTicker(5 * time.Millisecond); time.Since(begin) < during; <-ticks.C {
		most = max(most, runtime.NumGoroutine()-goroutines)
	}
	callers.Wait()
	// From half of 50, 100, 200, 400, 800, 1600 ms on.
	if got := watched.seen(redis.Dialed) + watched.seen(redis.DialFailed) - attempts; got > 10 {
		t.Errorf("%d attempts to connect in %v, want 10 at most", got, during)
	}
	if most > 200 { // this test runs alone
		t.Errorf("%d more goroutines than before, want 200 at most", most)
	}
}

// works waits until writes work and the store is ready, which must be soon after there is a primary.
func works(t *testing.T, s *store.Store, since time.Time) {
	t.Helper()
	storetest.Eventually(t, "writes work", func() bool { return trySet(t, s, "key", "3") == nil })
	if took := time.Since(since); took > within {
		t.Errorf("writes work after %v, want %v at most", took, within)
	}
	storetest.Eventually(t, "it is ready", func() bool { return s.Redis.Ping(t.Context()) == nil })
}

// TestAddressOfSeveralServers: connections through one address lead to two servers by turns, which no new connection mends.
// They are not closed again and again, and nothing is kept in memory for longer than the bound.
func TestAddressOfSeveralServers(t *testing.T) {
	t.Parallel()
	one, two := redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, one.Addr)
	stop := make(chan struct{})
	var turns sync.WaitGroup
	turns.Go(func() {
		for targets := []string{one.Addr, two.Addr}; ; targets[0], targets[1] = targets[1], targets[0] {
			proxy.SetTarget(targets[0])
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	})
	watched := new(watcher)
	s := storetest.Open(t, store.Options{Redis: redis.Options{
		Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: 300 * time.Millisecond, Observer: watched,
	}})
	for begin := time.Now(); time.Since(begin) < 3*time.Second; {
		if err := s.Redis.Ping(t.Context()); err != nil && !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("Ping = %v (%s), want no error or %v", err, storetest.Cause(err), redis.ErrUnavailable)
		}
	}
	// Of 30 looks most find another server.
	if got := watched.seen(redis.Dialed); got > 12 { // three at a time
		t.Errorf("%d connections were made in 3 s, want 12 at most", got)
	}
	close(stop)
	turns.Wait()
}
