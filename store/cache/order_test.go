package cache_test

import (
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// orderRounds is how often a test repeats what races by microseconds.
const orderRounds = 50

// TestLoadAfterInvalidation: a load that begins after an invalidation was acknowledged is not wasted, through whichever replica.
func TestLoadAfterInvalidation(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for i, loader := range storetest.Replicas(t, s) {
			for _, way := range invalidations {
				for _, mode := range []cache.InvalidationMode{cache.InvalidateDelete, cache.InvalidateStale} {
					outcomes := make(map[cache.FillOutcome]int)
					namespace := storetest.NewNamespace()
					for range orderRounds / 2 {
						way.do(t, s, namespace, mode)
						l := getOrLease(t, loader, namespace, "key", cache.LeaseOptions{TTL: 10 * time.Second, Primary: true})
						if l.Token == "" {
							t.Fatalf("%s, %s, replica %d: GetOrLease = %+v, want a lease", way.name, mode, i, l)
						}
						outcomes[fillLease(t, loader, namespace, "key", l.Token, tagged("value", "tag"))]++
						if f := storetest.Get(t, loader, namespace, "key", false); f.Entry == nil || f.Stale {
							outcomes[-99]++
						}
					}
					if outcomes[cache.Filled] != orderRounds/2 || len(outcomes) > 1 {
						t.Errorf("%s, %s, replica %d: fills = %v, want %d of %v, all of them read afterwards", way.name, mode, i, outcomes, orderRounds/2, cache.Filled)
					}
				}
			}
		}
	})
}

// TestWriteThroughAnotherReplicaAfterInvalidation: an entry that another replica writes after an invalidation was acknowledged is
// valid, for that replica and for the primary, at once.
func TestWriteThroughAnotherReplicaAfterInvalidation(t *testing.T) {
	writes := map[string]func(t *testing.T, s *store.Store, namespace string) (bool, error){
		"set": func(t *testing.T, s *store.Store, namespace string) (bool, error) {
			stored, _, err := s.Cache.Set(t.Context(), namespace, "key", tagged("new", "tag"), cache.Condition{})
			return stored, err
		},
		"set if absent": func(t *testing.T, s *store.Store, namespace string) (bool, error) {
			stored, _, err := s.Cache.Set(t.Context(), namespace, "key", tagged("new", "tag"), cache.Condition{Kind: cache.IfAbsent})
			return stored, err
		},
		"batch set": func(t *testing.T, s *store.Store, namespace string) (bool, error) {
			stored, err := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "key", Write: tagged("new", "tag")}})
			if err == nil {
				err = stored[0].Err
			}
			return true, err
		},
		"short set": func(t *testing.T, s *store.Store, namespace string) (bool, error) {
			w := tagged("new", "tag")
			w.Fresh = time.Minute
			stored, _, err := s.Cache.Set(t.Context(), namespace, "key", w, cache.Condition{})
			return stored, err
		},
	}
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		other := storetest.Replicas(t, s)[1]
		for name, write := range writes {
			for _, way := range invalidations {
				// The writer has read the namespace before, and its near cache holds that it was not invalidated.
				for _, reads := range []bool{false, true} {
					missed, notStored := 0, 0
					for range orderRounds / 2 {
						namespace := storetest.NewNamespace()
						if reads {
							storetest.Get(t, other, namespace, "key", true)
						}
						storetest.Set(t, s, namespace, "key", tagged("old", "tag"))
						way.do(t, s, namespace, cache.InvalidateDelete)
						stored, err := write(t, other, namespace)
						if err != nil {
							t.Fatalf("%s: error %v, want none: %s", name, err, redis.Cause(err))
						}
						if !stored {
							notStored++
						}
						if f := storetest.Get(t, other, namespace, "key", false); f.Entry == nil || string(f.Value) != "new" {
							missed++
						}
					}
					if missed > 0 || notStored > 0 {
						t.Errorf("%s after invalidation of the %s, near-cached %v: %d not stored, %d missed of %d, want none",
							name, way.name, reads, notStored, missed, orderRounds/2)
					}
				}
			}
		}
	})
}
