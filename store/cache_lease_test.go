package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// tenSeconds are leases that no test outlives by chance.
var tenSeconds = store.LeaseOptions{TTL: 10 * time.Second}

func getOrLease(tb testing.TB, s *store.Store, namespace, key string, o store.LeaseOptions) store.Leased {
	tb.Helper()
	l, err := s.GetOrLease(tb.Context(), namespace, key, o)
	if err != nil {
		tb.Fatalf("get or lease %q: %v: %s", key, err, store.Cause(err))
	}
	return l
}

// lease takes a lease, which must be free.
func lease(tb testing.TB, s *store.Store, namespace, key string, o store.LeaseOptions) string {
	tb.Helper()
	l := getOrLease(tb, s, namespace, key, o)
	if l.Token == "" || !store.ValidLease(l.Token) || l.LeaseTTL != o.TTL {
		tb.Fatalf("no lease of %q: %+v", key, l)
	}
	return l.Token
}

func fillLease(tb testing.TB, s *store.Store, namespace, key, token string, w store.Write) store.FillOutcome {
	tb.Helper()
	outcome, etag, err := s.Fill(tb.Context(), namespace, key, token, w)
	if err != nil || (etag != "") != (outcome == store.Filled) {
		tb.Fatalf("fill %q: %v, %q, %v", key, outcome, etag, err)
	}
	return outcome
}

// replicas returns two stores on the same data.
func replicas(t *testing.T, s *store.Store) [2]*store.Store {
	t.Helper()
	if s.Mode() == store.Embedded {
		return [2]*store.Store{s, s}
	}
	return [2]*store.Store{s, open(t, options(s.Mode()))}
}

// after passes when a time has.
func after(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // what is tested is time

// herd lets n callers on both replicas want one key, of which those with the lease take their time to load it, and returns
// how many had to. Everyone must get the value.
func herd(t *testing.T, stores [2]*store.Store, namespace string, n int, o store.LeaseOptions, load time.Duration) int64 {
	t.Helper()
	var loads atomic.Int64
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			s := stores[i%2]
			l, err := s.GetOrLease(t.Context(), namespace, "key", o)
			switch {
			case err != nil:
				t.Errorf("%v: %s", err, store.Cause(err))
			case l.Token != "":
				loads.Add(1)
				after(load)
				if outcome, _, err := s.Fill(t.Context(), namespace, "key", l.Token, store.Write{Value: []byte("loaded"), Fresh: time.Hour}); err != nil || outcome != store.Filled {
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
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := store.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}
		if loads := herd(t, replicas(t, s), namespace, 200, o, 300*time.Millisecond); loads != 1 {
			t.Errorf("loaded %d times", loads)
		}
	})
}

// TestLeaseHerdCosts: those who wait do not ask Redis over and over.
func TestLeaseHerdCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}
	stores := [2]*store.Store{open(t, o), open(t, o)}
	calls := costs(t, server, func() {
		herd(t, stores, "n", 200, store.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}, 300*time.Millisecond)
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
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const ttl = 300 * time.Millisecond
		began := time.Now()
		token := lease(t, s, namespace, "key", store.LeaseOptions{TTL: ttl})
		if loads := herd(t, replicas(t, s), namespace, 20, store.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}, 0); loads != 1 {
			t.Errorf("loaded %d times", loads)
		}
		if took := time.Since(began); took < ttl-5*time.Millisecond || took > 10*time.Second {
			t.Errorf("taken over after %v", took)
		}
		if outcome := fillLease(t, s, namespace, "key", token, store.Write{Value: []byte("late")}); outcome != store.Superseded {
			t.Errorf("the late fill: %v", outcome)
		}
	})
}

// TestLeaseWaiterIsWoken by whatever makes an end of the load, long before the lease does.
func TestLeaseWaiterIsWoken(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		both := replicas(t, s)
		ways := map[string]struct {
			do    func(key, token string) error
			value bool
		}{
			"fill": {func(key, token string) error {
				_, _, err := s.Fill(t.Context(), namespace, key, token, store.Write{Value: []byte("value"), Fresh: time.Hour})
				return err
			}, true},
			"set": {func(key, _ string) error {
				_, _, err := s.Set(t.Context(), namespace, key, store.Write{Value: []byte("value"), Fresh: time.Hour}, store.Condition{})
				return err
			}, true},
			"release": {func(key, token string) error {
				_, err := s.ReleaseLease(t.Context(), namespace, key, token, 0)
				return err
			}, false},
			"delete": {func(key, _ string) error {
				_, _, err := s.Delete(t.Context(), namespace, key, nil)
				return err
			}, false},
		}
		for name, way := range ways {
			for i, waiting := range both {
				key := name + string(rune('0'+i))
				token := lease(t, s, namespace, key, store.LeaseOptions{TTL: store.MaxLease})
				got := waitFor(t, namespace, key, store.LeaseOptions{TTL: time.Second, Wait: 50 * time.Second}, waiting)
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
	short, long := store.Write{Value: []byte("written"), Fresh: time.Millisecond}, store.Write{Value: []byte("written"), Fresh: time.Hour}
	gone := func(t *testing.T, s *store.Store, namespace string) {
		t.Helper()
		eventually(t, "the entry is gone", func() bool { return s.Command(t, "EXISTS", s.RedisKey(namespace, "key")) == int64(0) })
	}
	tests := []struct {
		name  string
		lease store.LeaseOptions
		// before prepares the key, meanwhile is what happens after the lease.
		before    func(t *testing.T, s *store.Store, namespace string) error
		meanwhile func(t *testing.T, s *store.Store, namespace string) error
		outcome   store.FillOutcome
	}{
		{"Undisturbed", tenSeconds, nil, nil, store.Filled},
		{"AfterDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Delete(t.Context(), namespace, "key", nil)
			return err
		}, store.Invalidated},
		{"AfterSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			return nil
		}, store.Superseded},
		{"AfterShortSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", short)
			gone(t, s, namespace)
			return nil
		}, store.Invalidated},
		{"AfterShortConditionalSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Set(t.Context(), namespace, "key", short, store.Condition{Kind: store.IfAbsent})
			gone(t, s, namespace)
			return err
		}, store.Invalidated},
		{"AfterSetAndDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			_, _, err := s.Delete(t.Context(), namespace, "key", nil)
			return err
		}, store.Invalidated},
		{"AfterBatchSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.BatchSet(t.Context(), namespace, []store.BatchWrite{{Key: "key", Write: long}})
			return err
		}, store.Superseded},
		{"AfterShortBatchSet", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.BatchSet(t.Context(), namespace, []store.BatchWrite{{Key: "key", Write: short}})
			gone(t, s, namespace)
			return err
		}, store.Invalidated},
		{"AfterBatchDelete", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.BatchDelete(t.Context(), namespace, []string{"key", "other"})
			return err
		}, store.Invalidated},
		{"AfterIncrement", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Increment(t.Context(), namespace, "key", store.Increment{Delta: 1})
			return err
		}, store.Superseded},
		{"AfterShortIncrement", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			_, err := s.Increment(t.Context(), namespace, "key", store.Increment{Delta: 1, TTL: time.Millisecond, Policy: store.TTLOnCreate})
			gone(t, s, namespace)
			return err
		}, store.Invalidated},
		{"AfterShortIncrementOfACounterThatOthersMade", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			s.Command(t, "SET", s.RedisKey(namespace, "key"), "5")
			_, err := s.Increment(t.Context(), namespace, "key", store.Increment{Delta: 1, TTL: time.Millisecond, Policy: store.TTLAlways})
			gone(t, s, namespace)
			return err
		}, store.Invalidated},
		{"AfterIncrementThatWasRejected", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			least := int64(10)
			r, err := s.Increment(t.Context(), namespace, "key", store.Increment{Delta: -1, Min: &least})
			if r.Outcome != store.Rejected {
				t.Errorf("increment: %+v", r)
			}
			return err
		}, store.Filled},
		{"AfterInvalidateTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.InvalidateTags(t.Context(), namespace, []string{"tag"}, store.InvalidateDelete, time.Hour)
		}, store.Invalidated},
		{"AfterInvalidateTagsStale", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.InvalidateTags(t.Context(), namespace, []string{"tag"}, store.InvalidateStale, time.Hour)
		}, store.Invalidated},
		{"AfterInvalidationOfOtherTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.InvalidateTags(t.Context(), namespace, []string{"other"}, store.InvalidateDelete, time.Hour)
		}, store.Filled},
		{"AfterClearNamespace", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.ClearNamespace(t.Context(), namespace, store.InvalidateDelete)
		}, store.Invalidated},
		{"AfterExpiry", store.LeaseOptions{TTL: 30 * time.Millisecond}, nil, func(t *testing.T, s *store.Store, namespace string) error {
			eventually(t, "the lease is over", func() bool { return s.Command(t, "EXISTS", s.LeaseKey(namespace, "key")) == int64(0) })
			return nil
		}, store.LeaseExpired},
		{"AfterTouchThatEndsTheEntry", store.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			return nil
		}, func(t *testing.T, s *store.Store, namespace string) error {
			_, _, err := s.Touch(t.Context(), namespace, "key", time.Millisecond, store.TouchOverwrite)
			gone(t, s, namespace)
			return err
		}, store.Invalidated},
		{"OverWhatWasSeen", store.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			return nil
		}, nil, store.Filled},
		{"AfterAnotherSetOverWhatWasSeen", store.LeaseOptions{TTL: 10 * time.Second, MaxAge: time.Nanosecond}, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			return nil
		}, func(t *testing.T, s *store.Store, namespace string) error {
			set(t, s, namespace, "key", long)
			return nil
		}, store.Superseded},
	}
	everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		both := replicas(t, s)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				for i, other := range both {
					space := newNamespace()
					if test.before != nil {
						if err := test.before(t, s, space); err != nil {
							t.Fatal(err)
						}
					}
					token := lease(t, s, space, "key", test.lease)
					if test.meanwhile != nil {
						if err := test.meanwhile(t, other, space); err != nil {
							t.Fatalf("%v: %s", err, store.Cause(err))
						}
					}
					outcome := fillLease(t, s, space, "key", token, store.Write{Value: []byte("loaded"), Fresh: time.Hour, Tags: []string{"tag"}})
					served := func() bool {
						e := get(t, s, space, "key", false).Entry
						return e != nil && string(e.Value) == "loaded"
					}
					// The near cache of another replica may not have heard of the invalidation. Then the value is
					// written, and whoever reads it sees that it is older.
					unheard := i == 1 && test.outcome == store.Invalidated && outcome == store.Filled
					if outcome != test.outcome && !unheard {
						t.Errorf("replica %d: %v, want %v", i, outcome, test.outcome)
					}
					stale := test.name == "AfterInvalidateTagsStale" && unheard
					if want := test.outcome == store.Filled || stale; served() != want {
						t.Errorf("replica %d: what was loaded is served: %v", i, !want)
					}
				}
			})
		}
	})
}

func TestFillWithForeignLease(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		a := lease(t, s, namespace, "a", tenSeconds)
		b := lease(t, s, namespace, "b", tenSeconds)
		for _, token := range []string{a, "", "x", a + a, a[:len(a)-1]} {
			if outcome := fillLease(t, s, namespace, "b", token, store.Write{Value: []byte("foreign")}); outcome != store.Invalidated {
				t.Errorf("%q: %v", token, outcome)
			}
			if released, err := s.ReleaseLease(t.Context(), namespace, "b", token, 0); released || err != nil {
				t.Errorf("%q: released %v, %v", token, released, err)
			}
		}
		if get(t, s, namespace, "b", false).Entry != nil {
			t.Error("filled under a foreign lease")
		}
		if outcome := fillLease(t, s, namespace, "b", b, store.Write{}); outcome != store.Filled {
			t.Errorf("its own lease: %v", outcome)
		}
	})
}

func TestFillTwice(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		if outcome := fillLease(t, s, namespace, "key", token, store.Write{Value: []byte("1"), Fresh: time.Hour}); outcome != store.Filled {
			t.Fatal(outcome)
		}
		if outcome := fillLease(t, s, namespace, "key", token, store.Write{Value: []byte("2"), Fresh: time.Hour}); outcome != store.Superseded {
			t.Errorf("the second: %v", outcome)
		}
		if e := get(t, s, namespace, "key", true).Entry; e == nil || string(e.Value) != "1" {
			t.Errorf("holds %v", e)
		}
	})
}

// TestLeaseServesStaleMeanwhile: nobody waits where there is something to serve.
func TestLeaseServesStaleMeanwhile(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "key", store.Write{Value: []byte("old"), Fresh: time.Millisecond, Stale: time.Hour})
		eventually(t, "the entry is stale", func() bool { return s.Now().After(get(t, s, namespace, "key", false).Soft) })
		o := store.LeaseOptions{TTL: store.MaxLease, Wait: 30 * time.Second}
		first := getOrLease(t, s, namespace, "key", o)
		if first.Token == "" || first.Entry == nil || first.Fresh {
			t.Fatalf("%+v", first)
		}
		for _, other := range replicas(t, s) {
			began := time.Now()
			l := getOrLease(t, other, namespace, "key", o)
			if l.Token != "" || l.Entry == nil || l.Fresh || string(l.Value) != "old" {
				t.Errorf("while leased: %+v", l)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("waited %v", took)
			}
		}
		if outcome := fillLease(t, s, namespace, "key", first.Token, store.Write{Value: []byte("new"), Fresh: time.Hour}); outcome != store.Filled {
			t.Fatal(outcome)
		}
		if l := getOrLease(t, s, namespace, "key", o); !l.Fresh || l.Token != "" || string(l.Value) != "new" {
			t.Errorf("after the fill: %+v", l)
		}
	})
}

// TestReleaseLeaseHoldsBack: after a failed load nobody tries again for a while, and the stale value stays.
func TestReleaseLeaseHoldsBack(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "stale", store.Write{Value: []byte("old"), Fresh: time.Millisecond, Stale: time.Hour})
		eventually(t, "the entry is stale", func() bool { return s.Now().After(get(t, s, namespace, "stale", false).Soft) })
		const holdBack = 400 * time.Millisecond
		for _, key := range []string{"stale", "absent"} {
			token := lease(t, s, namespace, key, tenSeconds)
			began := time.Now()
			if released, err := s.ReleaseLease(t.Context(), namespace, key, token, holdBack); !released || err != nil {
				t.Fatal(released, err)
			}
			for _, other := range replicas(t, s) {
				l := getOrLease(t, other, namespace, key, tenSeconds)
				if time.Since(began) > holdBack {
					break // a machine under load
				}
				if l.Token != "" || (l.Entry != nil) != (key == "stale") || (l.RetryAfter > 0 && l.RetryAfter <= holdBack) != (key == "absent") {
					t.Errorf("%s: held back: %+v", key, l)
				}
			}
			if released, err := s.ReleaseLease(t.Context(), namespace, key, token, 0); released || err != nil {
				t.Errorf("%s: released again: %v, %v", key, released, err)
			}
			if outcome := fillLease(t, s, namespace, key, token, store.Write{Value: []byte("late"), Fresh: time.Hour}); outcome != store.Invalidated {
				t.Errorf("%s: filled after the release: %v", key, outcome)
			}
			var next store.Leased
			eventually(t, "there are leases again", func() bool {
				next = getOrLease(t, s, namespace, key, tenSeconds)
				return next.Token != ""
			})
			if took := time.Since(began); took < holdBack-5*time.Millisecond {
				t.Errorf("%s: held back for %v", key, took)
			}
			if released, err := s.ReleaseLease(t.Context(), namespace, key, next.Token, 0); !released || err != nil {
				t.Errorf("%s: %v, %v", key, released, err)
			}
			lease(t, s, namespace, key, tenSeconds)
		}
	})
}

// TestLeaseEarlyRefresh: before the expiry somebody gets the lease along with the fresh value, if that is wanted.
func TestLeaseEarlyRefresh(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		after(5 * time.Millisecond)
		if outcome := fillLease(t, s, namespace, "key", token, store.Write{Value: []byte("value"), Fresh: time.Hour}); outcome != store.Filled {
			t.Fatal(outcome)
		}
		if load := get(t, s, namespace, "key", true).LoadTime; load < 4*time.Millisecond {
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
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set(t, s, namespace, "key", store.Write{Value: []byte("value"), Fresh: time.Hour})
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
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		lease(t, s, namespace, "key", store.LeaseOptions{TTL: store.MaxLease})
		for _, other := range replicas(t, s) {
			began := time.Now()
			l := getOrLease(t, other, namespace, "key", store.LeaseOptions{TTL: time.Second, Wait: 50 * time.Millisecond})
			if took := time.Since(began); l.Token != "" || l.Entry != nil || took < 50*time.Millisecond || took > 20*time.Second {
				t.Errorf("after %v: %+v", took, l)
			}
			if l.RetryAfter <= 0 || l.RetryAfter > store.MaxLease {
				t.Errorf("retry after %v", l.RetryAfter)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if l, err := other.GetOrLease(ctx, namespace, "key", store.LeaseOptions{TTL: time.Second, Wait: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%+v, %v", l, err)
			}
			cancel()
		}
	})
}
