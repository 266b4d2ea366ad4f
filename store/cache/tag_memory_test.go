package cache_test

import (
	"math"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestTouchedStaleEntryStaysStale: an entry that is stale by the invalidation of a tag does not become fresh when Touch keeps it for
// longer than Redis keeps the invalidation.
func TestTouchedStaleEntryStaysStale(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for i, toucher := range storetest.Replicas(t, s) {
			for _, mode := range []cache.TouchMode{cache.TouchOverwrite, cache.TouchExtend, cache.TouchShorten} {
				key, tag := string(mode), string(mode)+string(rune('0'+i))
				w := cache.Write{Value: []byte("value"), Fresh: time.Hour, Stale: time.Hour, Tags: []string{"other", tag}, ContentType: "text/plain"}
				storetest.Set(t, s, namespace, key, w)
				before := storetest.Get(t, s, namespace, key, false).Entry
				if err := s.Cache.InvalidateTags(t.Context(), namespace, []string{tag}, cache.InvalidateStale); err != nil {
					t.Fatalf("InvalidateTags: error %v, want none", err)
				}
				fresh := 2 * time.Hour
				if mode == cache.TouchShorten {
					fresh = time.Minute
				}
				for range 2 {
					if found, changed, err := toucher.Cache.Touch(t.Context(), namespace, key, fresh, mode); !found || err != nil {
						t.Errorf("%s: Touch = %v, %v, %v, want found", mode, found, changed, err)
					}
				}
				storetest.Command(t, s, "DEL", cache.TagKey(namespace, tag)) // as at the end of its time
				for _, read := range reads {
					f := read.get(t, toucher, namespace, key)
					if f.Entry == nil || !f.Stale || string(f.Value) != "value" || f.ETag != before.ETag || len(f.Tags) != 2 || f.Hard.Sub(f.Soft) != time.Hour {
						t.Errorf("%s, replica %d: %s = %+v, want the entry, stale", mode, i, read.name, f)
					}
				}
				// Whoever loads the value anew makes it fresh.
				token := lease(t, toucher, namespace, key, cache.LeaseOptions{TTL: 10 * time.Second, Primary: true})
				if outcome := fillLease(t, toucher, namespace, key, token, w); outcome != cache.Filled {
					t.Errorf("%s: Fill = %v, want %v", mode, outcome, cache.Filled)
				}
				if f := storetest.Get(t, toucher, namespace, key, false); f.Entry == nil || f.Stale {
					t.Errorf("%s: Get after the Fill = %+v, want a fresh entry", mode, f)
				}
			}
		}
	})
}

// TestInvalidationsOutliveTheEntriesOfOtherReplicas: a replica that allows a shorter time to live keeps invalidations for as long as
// the entries of another one live, which may have ended since.
func TestInvalidationsOutliveTheEntriesOfOtherReplicas(t *testing.T) {
	t.Parallel()
	for mode, start := range map[redis.Mode]func(t *testing.T) []string{
		redis.Standalone: func(t *testing.T) []string { return []string{redistest.Start(t, redistest.Options{}).Addr} },
		redis.Cluster:    func(t *testing.T) []string { return redistest.StartCluster(t, redistest.ClusterOptions{}).Addrs() },
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := store.Options{Redis: redis.Options{Mode: mode, Addrs: start(t), NearCacheBytes: 1 << 20}}
			open := func(maxTTL time.Duration) *store.Store {
				o.Cache.MaxTTL = maxTTL
				return storetest.Open(t, o)
			}
			kept := func(s *store.Store, tag string, want time.Duration) {
				t.Helper()
				if err := s.Cache.InvalidateTags(t.Context(), "n", []string{tag}, cache.InvalidateDelete); err != nil {
					t.Fatalf("InvalidateTags: error %v, want none", err)
				}
				got := time.Duration(storetest.Command(t, s, "PTTL", cache.TagKey("n", tag)).(int64)) * time.Millisecond
				if got < want-time.Minute || got > want+2*time.Minute {
					t.Errorf("the invalidation of %q is kept for %v, want %v and up to 2 min", tag, got, want)
				}
			}
			short := open(time.Second)
			kept(short, "early", 2*time.Second)
			writes := map[string]func(s *store.Store) error{
				"set": func(s *store.Store) error {
					_, _, err := s.Cache.Set(t.Context(), "n", "set", tagged("1", "tag"), cache.Condition{})
					return err
				},
				"conditional set": func(s *store.Store) error {
					_, _, err := s.Cache.Set(t.Context(), "n", "conditional", tagged("1", "tag"), cache.Condition{Kind: cache.IfAbsent})
					return err
				},
				"batch set": func(s *store.Store) error {
					_, err := s.Cache.BatchSet(t.Context(), "n", []cache.BatchWrite{{Key: "batch", Write: tagged("1", "tag")}})
					return err
				},
				"fill": func(s *store.Store) error {
					_, _, err := s.Cache.Fill(t.Context(), "n", "fill", lease(t, s, "n", "fill", tenSeconds), tagged("1", "tag"))
					return err
				},
				"touch": func(s *store.Store) error {
					_, _, err := s.Cache.Touch(t.Context(), "n", "set", time.Hour, cache.TouchExtend)
					return err
				},
			}
			longest := time.Hour
			for _, name := range []string{"set", "conditional set", "batch set", "fill", "touch"} {
				longest += time.Hour
				long := open(longest)
				if err := writes[name](long); err != nil {
					t.Fatalf("%s: error %v, want none: %s", name, err, redis.Cause(err))
				}
				long.Close()
				kept(short, name, 2*longest)
				kept(open(time.Second), name+", a new replica", 2*longest)
			}
			kept(open(math.MaxInt64), "as long as can be", math.MaxInt64-2*time.Minute)
		})
	}
}
