package cache_test

import (
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

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
				t.Errorf("Increment = %+v, want outcome %v", r, cache.Rejected)
			}
			return err
		}, cache.Filled},
		{"AfterInvalidateTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateDelete)
		}, cache.Invalidated},
		{"AfterInvalidateTagsStale", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"tag"}, cache.InvalidateStale)
		}, cache.Invalidated},
		{"AfterInvalidationOfOtherTags", tenSeconds, nil, func(t *testing.T, s *store.Store, namespace string) error {
			return s.Cache.InvalidateTags(t.Context(), namespace, []string{"other"}, cache.InvalidateDelete)
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
							t.Fatalf("prepare the key: error %v, want none", err)
						}
					}
					token := lease(t, s, space, "key", test.lease)
					if test.meanwhile != nil {
						if err := test.meanwhile(t, other, space); err != nil {
							t.Fatalf("change the key: error %v, want none: %s", err, redis.Cause(err))
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
						t.Errorf("replica %d: Fill = %v, want %v", i, outcome, test.outcome)
					}
					stale := test.name == "AfterInvalidateTagsStale" && unheard
					if want := test.outcome == cache.Filled || stale; served() != want {
						t.Errorf("replica %d: the loaded value is served: %v, want %v", i, !want, want)
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
				t.Errorf("Fill under %q = %v, want %v", token, outcome, cache.Invalidated)
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, "b", token, 0); released || err != nil {
				t.Errorf("ReleaseLease of %q = %v, %v, want false", token, released, err)
			}
		}
		if storetest.Get(t, s, namespace, "b", false).Entry != nil {
			t.Error("Fill under a foreign lease wrote an entry, want none")
		}
		if outcome := fillLease(t, s, namespace, "b", b, cache.Write{}); outcome != cache.Filled {
			t.Errorf("Fill under its own lease = %v, want %v", outcome, cache.Filled)
		}
	})
}

func TestFillTwice(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token := lease(t, s, namespace, "key", tenSeconds)
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("1"), Fresh: time.Hour}); outcome != cache.Filled {
			t.Fatalf("first Fill = %v, want %v", outcome, cache.Filled)
		}
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Value: []byte("2"), Fresh: time.Hour}); outcome != cache.Superseded {
			t.Errorf("second Fill = %v, want %v", outcome, cache.Superseded)
		}
		if e := storetest.Get(t, s, namespace, "key", true).Entry; e == nil || string(e.Value) != "1" {
			t.Errorf("the key holds %v, want value 1", e)
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
				t.Fatalf("ReleaseLease = %v, %v, want true", released, err)
			}
			for _, other := range storetest.Replicas(t, s) {
				l := getOrLease(t, other, namespace, key, tenSeconds)
				if time.Since(began) > holdBack {
					break // a machine under load
				}
				if l.Token != "" || (l.Entry != nil) != (key == "stale") || (l.RetryAfter > 0 && l.RetryAfter <= holdBack) != (key == "absent") {
					t.Errorf("%s: GetOrLease while held back = %+v, want no lease, and RetryAfter up to %v or the stale entry", key, l, holdBack)
				}
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, key, token, 0); released || err != nil {
				t.Errorf("%s: second ReleaseLease = %v, %v, want false", key, released, err)
			}
			if outcome := fillLease(t, s, namespace, key, token, cache.Write{Value: []byte("late"), Fresh: time.Hour}); outcome != cache.Invalidated {
				t.Errorf("%s: Fill after the release = %v, want %v", key, outcome, cache.Invalidated)
			}
			var next cache.Leased
			storetest.Eventually(t, "there are leases again", func() bool {
				next = getOrLease(t, s, namespace, key, tenSeconds)
				return next.Token != ""
			})
			if took := time.Since(began); took < holdBack-5*time.Millisecond {
				t.Errorf("%s: leases were held back for %v, want %v", key, took, holdBack)
			}
			if released, err := s.Cache.ReleaseLease(t.Context(), namespace, key, next.Token, 0); !released || err != nil {
				t.Errorf("%s: ReleaseLease = %v, %v, want true", key, released, err)
			}
			lease(t, s, namespace, key, tenSeconds)
		}
	})
}
