package cache_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestFullMemory: calls that take entries away work at maxmemory with noeviction, and calls that add entries are refused.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	for mode, start := range map[redis.Mode]func(t *testing.T) []*redistest.Server{
		redis.Standalone: func(t *testing.T) []*redistest.Server {
			return []*redistest.Server{redistest.Start(t, redistest.Options{})}
		},
		redis.Cluster: func(t *testing.T) []*redistest.Server {
			return redistest.StartCluster(t, redistest.ClusterOptions{}).Nodes
		},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			servers := start(t)
			o := store.Options{Redis: redis.Options{Mode: mode, NearCacheBytes: 1 << 20}}
			for _, server := range servers {
				o.Redis.Addrs = append(o.Redis.Addrs, server.Addr)
			}
			s := storetest.Open(t, o)
			prepared := make(map[string]string) // leases
			keys := storetest.Keys(30)
			for _, key := range keys {
				storetest.Set(t, s, "n", key, tagged("value", "tag-"+key))
				storetest.Set(t, s, "deleted", key, tagged("value", "tag"))
				prepared[key] = lease(t, s, "leased", key, tenSeconds)
			}
			storetest.Set(t, s, "cleared", "key", tagged("value", "tag"))
			for _, server := range servers {
				server.Do(t, "CONFIG", "SET", "maxmemory-policy", "noeviction")
				server.Do(t, "CONFIG", "SET", "maxmemory", "1")
			}

			if _, _, err := s.Cache.Set(t.Context(), "n", "new", cache.Write{Value: []byte("value")}, cache.Condition{}); !errors.Is(err, redis.ErrOverloaded) {
				t.Errorf("Set: error %v, want %v", err, redis.ErrOverloaded)
			}
			refused := map[string]func(key string) error{
				"set if present": func(key string) error {
					_, _, err := s.Cache.Set(t.Context(), "n", key, tagged("new", "tag"), cache.Condition{Kind: cache.IfPresent})
					return err
				},
				"short set": func(key string) error {
					_, _, err := s.Cache.Set(t.Context(), "n", key, cache.Write{Fresh: time.Second}, cache.Condition{})
					return err
				},
				"touch": func(key string) error {
					_, _, err := s.Cache.Touch(t.Context(), "n", key, time.Hour, cache.TouchOverwrite)
					return err
				},
				"increment": func(key string) error {
					_, err := s.Cache.Increment(t.Context(), "counters", key, cache.Increment{Delta: 1})
					return err
				},
				"lease": func(key string) error {
					_, err := s.Cache.GetOrLease(t.Context(), "absent", key, tenSeconds)
					return err
				},
				"fill": func(key string) error {
					_, _, err := s.Cache.Fill(t.Context(), "leased", key, prepared[key], cache.Write{Value: []byte("value")})
					return err
				},
			}
			for name, write := range refused {
				for _, key := range keys {
					if err := write(key); !errors.Is(err, redis.ErrOverloaded) {
						t.Errorf("%s: error %v, want %v: %s", name, err, redis.ErrOverloaded, storetest.Cause(err))
						break
					}
				}
			}
			works := map[string]func(key string) (bool, error){
				"invalidate tags": func(key string) (bool, error) {
					if err := s.Cache.InvalidateTags(t.Context(), "n", []string{"tag-" + key, "unused-" + key}, cache.InvalidateDelete); err != nil {
						return false, err
					}
					f, err := s.Cache.Get(t.Context(), "n", key, false)
					return f.Entry == nil, err
				},
				"clear namespace": func(key string) (bool, error) {
					if err := s.Cache.ClearNamespace(t.Context(), "cleared", cache.InvalidateStale); err != nil {
						return false, err
					}
					if err := s.Cache.ClearNamespace(t.Context(), "cleared-"+key, cache.InvalidateStale); err != nil {
						return false, err
					}
					f, err := s.Cache.Get(t.Context(), "cleared", "key", false)
					return f.Stale, err
				},
				"delete": func(key string) (bool, error) {
					deleted, _, err := s.Cache.Delete(t.Context(), "deleted", key, nil)
					return deleted, err
				},
				"release": func(key string) (bool, error) {
					return s.Cache.ReleaseLease(t.Context(), "leased", key, prepared[key], time.Minute)
				},
			}
			for name, write := range works {
				for _, key := range keys {
					if done, err := write(key); err != nil || !done {
						t.Errorf("%s: done %v, error %v, want it done: %s", name, done, err, storetest.Cause(err))
						break
					}
				}
			}
			results, err := s.Cache.BatchDelete(t.Context(), "n", keys)
			for i, r := range results {
				if r.Err != nil || !r.Deleted {
					t.Errorf("BatchDelete of %q = %+v, want deleted", keys[i], r)
				}
			}
			if err != nil {
				t.Errorf("BatchDelete: error %v, want none", err)
			}
			if err := s.Cache.DeleteMatching(t.Context(), "cleared", "*", "", func(int64, string) error { return nil }); err != nil {
				t.Errorf("DeleteMatching: error %v, want none: %s", err, storetest.Cause(err))
			}
		})
	}
}
