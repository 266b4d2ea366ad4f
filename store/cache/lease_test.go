package cache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// tenSeconds are leases that no test outlives by chance.
var tenSeconds = cache.LeaseOptions{TTL: 10 * time.Second}

func getOrLease(tb testing.TB, s *store.Store, namespace, key string, o cache.LeaseOptions) cache.Leased {
	tb.Helper()
	l, err := s.Cache.GetOrLease(tb.Context(), namespace, key, o)
	if err != nil {
		tb.Fatalf("GetOrLease of %q: error %v, want none: %s", key, err, redis.Cause(err))
	}
	return l
}

// lease takes a lease, which must be free.
func lease(tb testing.TB, s *store.Store, namespace, key string, o cache.LeaseOptions) string {
	tb.Helper()
	l := getOrLease(tb, s, namespace, key, o)
	if l.Token == "" || !cache.ValidLease(l.Token) || l.LeaseTTL != o.TTL {
		tb.Fatalf("GetOrLease of %q = %+v, want a lease of %v", key, l, o.TTL)
	}
	return l.Token
}

func fillLease(tb testing.TB, s *store.Store, namespace, key, token string, w cache.Write) cache.FillOutcome {
	tb.Helper()
	outcome, etag, err := s.Cache.Fill(tb.Context(), namespace, key, token, w)
	if err != nil || (etag != "") != (outcome == cache.Filled) {
		tb.Fatalf("Fill of %q = %v, %q, %v, want an etag only if filled", key, outcome, etag, err)
	}
	return outcome
}

// after passes when a time has.
func after(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // what is tested is time

// herd lets n callers on both replicas want one key, of which those with the lease take their time to load it, and returns
// how many had to. Everyone must get the value.
func herd(t *testing.T, stores [2]*store.Store, namespace string, n int, o cache.LeaseOptions, load time.Duration) int64 {
	t.Helper()
	var loads atomic.Int64
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			s := stores[i%2]
			l, err := s.Cache.GetOrLease(t.Context(), namespace, "key", o)
			switch {
			case err != nil:
				t.Errorf("GetOrLease: error %v, want none: %s", err, redis.Cause(err))
			case l.Token != "":
				loads.Add(1)
				after(load)
				if outcome, _, err := s.Cache.Fill(t.Context(), namespace, "key", l.Token, cache.Write{Value: []byte("loaded"), Fresh: time.Hour}); err != nil || outcome != cache.Filled {
					t.Errorf("Fill = %v, %v, want %v", outcome, err, cache.Filled)
				}
			case l.Entry == nil || string(l.Value) != "loaded" || !l.Fresh:
				t.Errorf("GetOrLease = %+v, want the loaded value, fresh", l)
			}
		})
	}
	callers.Wait()
	return loads.Load()
}

// TestLeaseOneLoaderAcrossReplicas: a cold key that everybody wants is loaded once.
func TestLeaseOneLoaderAcrossReplicas(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := cache.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}
		if loads := herd(t, storetest.Replicas(t, s), namespace, 200, o, 300*time.Millisecond); loads != 1 {
			t.Errorf("%d loads, want 1", loads)
		}
	})
}

// TestLeaseHerdCosts: those who wait do not ask Redis over and over.
func TestLeaseHerdCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}}
	stores := [2]*store.Store{storetest.Open(t, o), storetest.Open(t, o)}
	calls := storetest.Costs(t, server, func() {
		herd(t, stores, "n", 200, cache.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}, 300*time.Millisecond)
	})
	// A lease asked for and a fill, on each replica a few reads of the entry and of the lease's end.
	for name, most := range map[string]int64{"evalsha": 8, "eval": 4, "get": 60, "pttl": 30} {
		if calls[name] > most {
			t.Errorf("%d %s, want at most %d", calls[name], name, most)
		}
	}
	t.Log(calls)
}

// TestLeaseTakeoverAfterLeaseExpires: a holder that never fills holds the others up for its lease and no longer.
func TestLeaseTakeoverAfterLeaseExpires(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const ttl = 300 * time.Millisecond
		began := time.Now()
		token := lease(t, s, namespace, "key", cache.LeaseOptions{TTL: ttl})
		if loads := herd(t, storetest.Replicas(t, s), namespace, 20, cache.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}, 0); loads != 1 {
			t.Errorf("%d loads, want 1", loads)
		}
		if took := time.Since(began); took < ttl-5*time.Millisecond || took > 10*time.Second {
			t.Errorf("taken over after %v, want after %v", took, ttl)
		}
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("late")}); outcome != cache.Superseded {
			t.Errorf("late Fill = %v, want %v", outcome, cache.Superseded)
		}
	})
}

// TestLeaseWaiterIsWoken by whatever makes an end of the load, long before the lease does.
func TestLeaseWaiterIsWoken(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		both := storetest.Replicas(t, s)
		ways := map[string]struct {
			do    func(key, token string) error
			value bool
		}{
			"fill": {func(key, token string) error {
				_, _, err := s.Cache.Fill(t.Context(), namespace, key, token, cache.Write{Value: []byte("value"), Fresh: time.Hour})
				return err
			}, true},
			"set": {func(key, _ string) error {
				_, _, err := s.Cache.Set(t.Context(), namespace, key, cache.Write{Value: []byte("value"), Fresh: time.Hour}, cache.Condition{})
				return err
			}, true},
			"release": {func(key, token string) error {
				_, err := s.Cache.ReleaseLease(t.Context(), namespace, key, token, 0)
				return err
			}, false},
			"delete": {func(key, _ string) error {
				_, _, err := s.Cache.Delete(t.Context(), namespace, key, nil)
				return err
			}, false},
		}
		for name, way := range ways {
			for i, waiting := range both {
				key := name + string(rune('0'+i))
				token := lease(t, s, namespace, key, cache.LeaseOptions{TTL: cache.MaxLease})
				got := waitFor(t, namespace, key, cache.LeaseOptions{TTL: time.Second, Wait: 50 * time.Second}, waiting)
				if err := way.do(key, token); err != nil {
					t.Fatalf("%s: error %v, want none", key, err)
				}
				select {
				case w := <-got:
					if w.err != nil || (w.leased.Entry != nil) != way.value || (w.leased.Token != "") == way.value {
						t.Errorf("%s: waiter got %+v, %v, want a value: %v, else a lease", key, w.leased, w.err, way.value)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: the waiter still waits after 10 s, want it woken", key)
				}
			}
		}
	})
}

// TestLeaseServesStaleMeanwhile: nobody waits where there is something to serve.
func TestLeaseServesStaleMeanwhile(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("old"), Fresh: time.Millisecond, Stale: time.Hour})
		storetest.Eventually(t, "the entry is stale", func() bool { return s.Redis.Now().After(storetest.Get(t, s, namespace, "key", false).Soft) })
		o := cache.LeaseOptions{TTL: cache.MaxLease, Wait: 30 * time.Second}
		first := getOrLease(t, s, namespace, "key", o)
		if first.Token == "" || first.Entry == nil || first.Fresh {
			t.Fatalf("GetOrLease = %+v, want a lease and the stale entry", first)
		}
		for _, other := range storetest.Replicas(t, s) {
			began := time.Now()
			l := getOrLease(t, other, namespace, "key", o)
			if l.Token != "" || l.Entry == nil || l.Fresh || string(l.Value) != "old" {
				t.Errorf("GetOrLease while leased = %+v, want the stale entry alone", l)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("GetOrLease took %v, want no wait", took)
			}
		}
		if outcome := fillLease(t, s, namespace, "key", first.Token, cache.Write{Value: []byte("new"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatalf("Fill = %v, want %v", outcome, cache.Filled)
		}
		if l := getOrLease(t, s, namespace, "key", o); !l.Fresh || l.Token != "" || string(l.Value) != "new" {
			t.Errorf("GetOrLease after the fill = %+v, want the new value, fresh", l)
		}
	})
}

// TestLeaseEarlyRefresh: before the expiry somebody gets the lease along with the fresh value, if that is wanted.
func TestLeaseEarlyRefresh(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		after(5 * time.Millisecond)
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("value"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatalf("Fill = %v, want %v", outcome, cache.Filled)
		}
		if load := storetest.Get(t, s, namespace, "key", true).LoadTime; load < 4*time.Millisecond {
			t.Errorf("LoadTime = %v, want at least 4ms", load)
		}
		for range 100 {
			if l := getOrLease(t, s, namespace, "key", tenSeconds); l.Token != "" || !l.Fresh {
				t.Fatalf("GetOrLease with Beta 0 = %+v, want the fresh entry without a lease", l)
			}
		}
		o := tenSeconds
		o.Beta = 1e12
		if l := getOrLease(t, s, namespace, "key", o); l.Token == "" || !l.Fresh || l.Entry == nil {
			t.Errorf("GetOrLease with Beta %v = %+v, want the fresh entry and a lease", o.Beta, l)
		}
		if l := getOrLease(t, s, namespace, "key", o); l.Token != "" || !l.Fresh || l.Entry == nil {
			t.Errorf("second GetOrLease with Beta %v = %+v, want the fresh entry without a lease", o.Beta, l)
		}
	})
}

func TestLeaseMaxAge(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value"), Fresh: time.Hour})
		o := tenSeconds
		o.MaxAge = time.Hour
		if l := getOrLease(t, s, namespace, "key", o); l.Token != "" || !l.Fresh {
			t.Errorf("GetOrLease with MaxAge %v = %+v, want a fresh entry", o.MaxAge, l)
		}
		o.MaxAge = time.Microsecond
		if l := getOrLease(t, s, namespace, "key", o); l.Token == "" || l.Fresh || l.Entry == nil {
			t.Errorf("GetOrLease with MaxAge %v = %+v, want a stale entry and a lease", o.MaxAge, l)
		}
	})
}

// TestLeaseWaitEnds with the time for it, and with the caller.
func TestLeaseWaitEnds(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		lease(t, s, namespace, "key", cache.LeaseOptions{TTL: cache.MaxLease})
		for _, other := range storetest.Replicas(t, s) {
			began := time.Now()
			l := getOrLease(t, other, namespace, "key", cache.LeaseOptions{TTL: time.Second, Wait: 50 * time.Millisecond})
			if took := time.Since(began); l.Token != "" || l.Entry != nil || took < 50*time.Millisecond || took > 20*time.Second {
				t.Errorf("GetOrLease after %v = %+v, want nothing after 50ms", took, l)
			}
			if l.RetryAfter <= 0 || l.RetryAfter > cache.MaxLease {
				t.Errorf("RetryAfter = %v, want a time up to %v", l.RetryAfter, cache.MaxLease)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if l, err := other.Cache.GetOrLease(ctx, namespace, "key", cache.LeaseOptions{TTL: time.Second, Wait: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("GetOrLease = %+v, %v, want error %v", l, err, context.DeadlineExceeded)
			}
			cancel()
		}
	})
}
