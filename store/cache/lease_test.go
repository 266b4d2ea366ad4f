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
		tb.Fatalf("get or lease %q: %v: %s", key, err, redis.Cause(err))
	}
	return l
}

// lease takes a lease, which must be free.
func lease(tb testing.TB, s *store.Store, namespace, key string, o cache.LeaseOptions) string {
	tb.Helper()
	l := getOrLease(tb, s, namespace, key, o)
	if l.Token == "" || !cache.ValidLease(l.Token) || l.LeaseTTL != o.TTL {
		tb.Fatalf("no lease of %q: %+v", key, l)
	}
	return l.Token
}

func fillLease(tb testing.TB, s *store.Store, namespace, key, token string, w cache.Write) cache.FillOutcome {
	tb.Helper()
	outcome, etag, err := s.Cache.Fill(tb.Context(), namespace, key, token, w)
	if err != nil || (etag != "") != (outcome == cache.Filled) {
		tb.Fatalf("fill %q: %v, %q, %v", key, outcome, etag, err)
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
				t.Errorf("%v: %s", err, redis.Cause(err))
			case l.Token != "":
				loads.Add(1)
				after(load)
				if outcome, _, err := s.Cache.Fill(t.Context(), namespace, "key", l.Token, cache.Write{Value: []byte("loaded"), Fresh: time.Hour}); err != nil || outcome != cache.Filled {
					t.Errorf("fill: %v, %v", outcome, err)
				}
			case l.Entry == nil || string(l.Value) != "loaded" || !l.Fresh:
				t.Errorf("got %+v", l)
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
			t.Errorf("loaded %d times", loads)
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
			t.Errorf("%d %s", calls[name], name)
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
			t.Errorf("loaded %d times", loads)
		}
		if took := time.Since(began); took < ttl-5*time.Millisecond || took > 10*time.Second {
			t.Errorf("taken over after %v", took)
		}
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("late")}); outcome != cache.Superseded {
			t.Errorf("the late fill: %v", outcome)
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
					t.Fatal(err)
				}
				select {
				case w := <-got:
					if w.err != nil || (w.leased.Entry != nil) != way.value || (w.leased.Token != "") == way.value {
						t.Errorf("%s: %+v, %v", key, w.leased, w.err)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: nobody was woken", key)
				}
			}
		}
	})
}

// TestFillRaces: what happened to a key, its tags or its namespace after a lease was given wins over what was loaded under
// it, whatever the order in which they arrive.
func TestFillRaces(t *testing.T) {
	short, long := cache.Write{Value: []byte("written"), Fresh: time.Millisecond}, cache.Write{Value: []byte("written"), Fresh: time.Hour}
	gone := func(t *testing.T, s *store.Store, namespace string) {
		t.Helper()
		storetest.Eventually(t, "the entry is gone", func() bool {
			return storetest.Command(t, s, "EXISTS", s.Cache.RedisKey(namespace, "key")) == int64(0)
		})
	}
	tests := []struct {
		name  string
		lease cache.LeaseOptions
		// before prepares the key, meanwhile is what happens after the lease.
		before    func(t *testing.T, s *store.Store, namespace string) error
		meanwhile func(t *testing.T, s *store.Store, namespace string) error
		outcome   cache.FillOutcome
	}{
		{"Undisturbed", tenSeconds, nil, nil, cache.Filled},
		{"AfterDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Delete(t.Context(), namespace, "key", nil)
			return err
		}, cache.Invalidated},
		{"AfterSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			return nil
		}, cache.Superseded},
		{"AfterShortSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", short)
			gone(t, s, namespace)
			return nil
		}, cache.Invalidated},
		{"AfterShortConditionalSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Set(t.Context(), namespace, "key", short, cache.Condition{Kind: cache.IfAbsent})
			gone(t, s, namespace)
			return err
		}, cache.Invalidated},
		{"AfterSetAndDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			_, _, err := s.Cache.Delete(t.Context(), namespace, "key", nil)
			return err
		}, cache.Invalidated},
		{"AfterBatchSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "key", Write: long}})
			return err
		}, cache.Superseded},
		{"AfterShortBatchSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "key", Write: short}})
			gone(t, s, namespace)
			return err
		}, cache.Invalidated},
		{"AfterBatchDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Cache.BatchDelete(t.Context(), namespace, []string{"key", "other"})
			return err
		}, cache.Invalidated},
		{"AfterIncrement", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: 1})
			return err
		}, cache.Superseded},
		{"AfterShortIncrement", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: 1, TTL: time.Millisecond, Policy: cache.TTLOnCreate})
			gone(t, s, namespace)
			return err
		}, cache.Invalidated},
		{"AfterShortIncrementOfACounterThatOthersMade", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Command(t, s, "SET", s.Cache.RedisKey(namespace, "key"), "5")
			_, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: 1, TTL: time.Millisecond, Policy: cache.TTLAlways})
			gone(t, s, namespace)
			return err
		}, cache.Invalidated},
		{"AfterIncrementThatWasRejected", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			least := int64(10)
			r, err := s.Cache.Increment(t.Context(), namespace, "key", cache.Increment{Delta: -1, Min: &least})
			if r.Outcome != cache.Rejected {
				t.Errorf("increment: %+v", r)
			}
			return err
		}, cache.Filled},
		{"AfterInvalidateTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateDelete, time.Hour)
		}, cache.Invalidated},
		{"AfterInvalidateTagsStale", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateStale, time.Hour)
		}, cache.Invalidated},
		{"AfterInvalidationOfOtherTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"other"}, cache.InvalidateDelete, time.Hour)
		}, cache.Filled},
		{"AfterClearNamespace", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.ClearNamespace(t.Context(), namespace, cache.InvalidateDelete)
		}, cache.Invalidated},
		{"AfterExpiry", cache.LeaseOptions{TTL: 30 * time.Millisecond}, nil, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Eventually(t, "the lease is over", func() bool {
				return storetest.Command(t, s, "EXISTS", s.Cache.LeaseKey(namespace, "key")) == int64(0)
			})
			return nil
		}, cache.LeaseExpired},
		{"AfterTouchThatEndsTheEntry", cache.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			return nil
		}, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Cache.Touch(t.Context(), namespace, "key", time.Millisecond, cache.TouchOverwrite)
			gone(t, s, namespace)
			return err
		}, cache.Invalidated},
		{"OverWhatWasSeen", cache.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			return nil
		}, nil, cache.Filled},
		{"AfterAnotherSetOverWhatWasSeen", cache.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			return nil
		}, func(t *testing.T, s *store.Store, namespace string) error {
			storetest.Set(t, s, namespace, "key", long)
			return nil
		}, cache.Superseded},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		both := storetest.Replicas(t, s)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				for i, other := range both {
					space := storetest.NewNamespace()
					if test.before != nil {
						if err := test.before(t, s, space); err != nil {
							t.Fatal(err)
						}
					}
					token := lease(t, s, space, "key", test.lease)
					if test.meanwhile != nil {
						if err := test.meanwhile(t, other, space); err != nil {
							t.Fatalf("%v: %s", err, redis.Cause(err))
						}
					}
					outcome := fillLease(t, s, space, "key", token, cache.Write{Value: []byte("loaded"), Fresh: time.Hour, Tags: []string{"tag"}})
					served := func() bool {
						e := storetest.Get(t, s, space, "key", false).Entry
						return e != nil && string(e.Value) == "loaded"
					}
					// The near cache of another replica may not have heard of the invalidation. Then the value is
					// written, and whoever reads it sees that it is older.
					unheard := i == 1 && test.outcome == cache.Invalidated && outcome == cache.Filled
					if outcome != test.outcome && !unheard {
						t.Errorf("replica %d: %v, want %v", i, outcome, test.outcome)
					}
					stale := test.name == "AfterInvalidateTagsStale" && unheard
					if want := test.outcome == cache.Filled || stale; served() != want {
						t.Errorf("replica %d: what was loaded is served: %v", i, !want)
					}
				}
			})
		}
	})
}

func TestFillWithForeignLease(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		a := lease(t, s, namespace, "a", tenSeconds)
		b := lease(t, s, namespace, "b", tenSeconds)
		for _, token := range []string{a, "", "x", a + a, a[:len(a)-1]} {
			if outcome := fillLease(t, s, namespace, "b", token, cache.Write{Value: []byte("foreign")}); outcome != cache.Invalidated {
				t.Errorf("%q: %v", token, outcome)
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, "b", token, 0); released || err != nil {
				t.Errorf("%q: released %v, %v", token, released, err)
			}
		}
		if storetest.Get(t, s, namespace, "b", false).Entry != nil {
			t.Error("filled under a foreign lease")
		}
		if outcome := fillLease(t, s, namespace, "b", b, cache.Write{}); outcome != cache.Filled {
			t.Errorf("its own lease: %v", outcome)
		}
	})
}

func TestFillTwice(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("1"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatal(outcome)
		}
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("2"), Fresh: time.Hour}); outcome != cache.Superseded {
			t.Errorf("the second: %v", outcome)
		}
		if e := storetest.Get(t, s, namespace, "key", true).Entry; e == nil || string(e.Value) != "1" {
			t.Errorf("holds %v", e)
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
			t.Fatalf("%+v", first)
		}
		for _, other := range storetest.Replicas(t, s) {
			began := time.Now()
			l := getOrLease(t, other, namespace, "key", o)
			if l.Token != "" || l.Entry == nil || l.Fresh || string(l.Value) != "old" {
				t.Errorf("while leased: %+v", l)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("waited %v", took)
			}
		}
		if outcome := fillLease(t, s, namespace, "key", first.Token, cache.Write{Value: []byte("new"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatal(outcome)
		}
		if l := getOrLease(t, s, namespace, "key", o); !l.Fresh || l.Token != "" || string(l.Value) != "new" {
			t.Errorf("after the fill: %+v", l)
		}
	})
}

// TestReleaseLeaseHoldsBack: after a failed load nobody tries again for a while, and the stale value stays.
func TestReleaseLeaseHoldsBack(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "stale", cache.Write{Value: []byte("old"), Fresh: time.Millisecond, Stale: time.Hour})
		storetest.Eventually(t, "the entry is stale", func() bool { return s.Redis.Now().After(storetest.Get(t, s, namespace, "stale", false).Soft) })
		const holdBack = 400 * time.Millisecond
		for _, key := range []string{"stale", "absent"} {
			token := lease(t, s, namespace, key, tenSeconds)
			began := time.Now()
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, key, token, holdBack); !released || err != nil {
				t.Fatal(released, err)
			}
			for _, other := range storetest.Replicas(t, s) {
				l := getOrLease(t, other, namespace, key, tenSeconds)
				if time.Since(began) > holdBack {
					break // a machine under load
				}
				if l.Token != "" || (l.Entry != nil) != (key == "stale") || (l.RetryAfter > 0 && l.RetryAfter <= holdBack) != (key == "absent") {
					t.Errorf("%s: held back: %+v", key, l)
				}
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, key, token, 0); released || err != nil {
				t.Errorf("%s: released again: %v, %v", key, released, err)
			}
			if outcome := fillLease(t, s, namespace, key, token, cache.Write{Value: []byte("late"), Fresh: time.Hour}); outcome != cache.Invalidated {
				t.Errorf("%s: filled after the release: %v", key, outcome)
			}
			var next cache.Leased
			storetest.Eventually(t, "there are leases again", func() bool {
				next = getOrLease(t, s, namespace, key, tenSeconds)
				return next.Token != ""
			})
			if took := time.Since(began); took < holdBack-5*time.Millisecond {
				t.Errorf("%s: held back for %v", key, took)
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, key, next.Token, 0); !released || err != nil {
				t.Errorf("%s: %v, %v", key, released, err)
			}
			lease(t, s, namespace, key, tenSeconds)
		}
	})
}

// TestLeaseEarlyRefresh: before the expiry somebody gets the lease along with the fresh value, if that is wanted.
func TestLeaseEarlyRefresh(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		after(5 * time.Millisecond)
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("value"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatal(outcome)
		}
		if load := storetest.Get(t, s, namespace, "key", true).LoadTime; load < 4*time.Millisecond {
			t.Errorf("loaded in %v", load)
		}
		for range 100 {
			if l := getOrLease(t, s, namespace, "key", tenSeconds); l.Token != "" || !l.Fresh {
				t.Fatalf("not wanted: %+v", l)
			}
		}
		o := tenSeconds
		o.Beta = 1e12
		if l := getOrLease(t, s, namespace, "key", o); l.Token == "" || !l.Fresh || l.Entry == nil {
			t.Errorf("wanted: %+v", l)
		}
		if l := getOrLease(t, s, namespace, "key", o); l.Token != "" || !l.Fresh || l.Entry == nil {
			t.Errorf("of two: %+v", l)
		}
	})
}

func TestLeaseMaxAge(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value"), Fresh: time.Hour})
		o := tenSeconds
		o.MaxAge = time.Hour
		if l := getOrLease(t, s, namespace, "key", o); l.Token != "" || !l.Fresh {
			t.Errorf("young enough: %+v", l)
		}
		o.MaxAge = time.Microsecond
		if l := getOrLease(t, s, namespace, "key", o); l.Token == "" || l.Fresh || l.Entry == nil {
			t.Errorf("too old: %+v", l)
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
				t.Errorf("after %v: %+v", took, l)
			}
			if l.RetryAfter <= 0 || l.RetryAfter > cache.MaxLease {
				t.Errorf("retry after %v", l.RetryAfter)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if l, err := other.Cache.GetOrLease(ctx, namespace, "key", cache.LeaseOptions{TTL: time.Second, Wait: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%+v, %v", l, err)
			}
			cancel()
		}
	})
}
