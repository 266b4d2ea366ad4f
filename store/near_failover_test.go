package store_test

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

// TestNearSentinelFailover: the new primary knows nothing of what the old one has promised to push.
func TestNearSentinelFailover(t *testing.T) {
	t.Parallel()
	set1 := redistest.StartSentinel(t)
	o := store.Options{Redis: redis.Options{Mode: redis.Sentinel, Addrs: set1.Addrs(), SentinelMaster: set1.MasterSet, NearCacheBytes: 1 << 20, NearCacheTTL: 2 * time.Second}}
	failover(t, o, func() { set1.Failover(t) })
}

// TestNearClusterFailover is the same with a primary that dies.
func TestNearClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	o := store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20, NearCacheTTL: 2 * time.Second}}
	failover(t, o, func() { cluster.Nodes[0].Kill() })
}

// failover writes before and after a failover through one store and reads through another one, which must follow.
func failover(t *testing.T, o store.Options, change func()) {
	t.Helper()
	s, writer := storetest.Open(t, o), storetest.Open(t, o)
	keys := storetest.Keys(30)
	write := func(value string) time.Time {
		var acknowledged time.Time
		for _, k := range keys {
			storetest.Eventually(t, "a write succeeds", func() bool {
				_, _, err := writer.Cache.Set(t.Context(), "n", k, cache.Write{Value: []byte(value)}, cache.Condition{})
				acknowledged = time.Now()
				if err != nil && !errors.Is(err, redis.ErrUnavailable) && !errors.Is(err, redis.ErrOutcomeUnknown) {
					t.Errorf("Set: error %v, want none or one of an unavailable Redis: %s", err, redis.Cause(err))
				}
				return err == nil
			})
		}
		return acknowledged
	}
	write("1")
	for _, k := range keys {
		storetest.Eventually(t, "the value is held", func() bool { f := storetest.Get(t, s, "n", k, true); return f.Near && storetest.Version(t, f) == 1 })
	}
	change()
	acknowledged := write("2")
	for _, k := range keys {
		storetest.Eventually(t, "the new value is read", func() bool {
			asked := time.Now()
			f, err := s.Cache.Get(t.Context(), "n", k, true)
			if err != nil && !errors.Is(err, redis.ErrUnavailable) {
				t.Errorf("Get: error %v, want none or %v: %s", err, redis.ErrUnavailable, redis.Cause(err))
			}
			if late := asked.Sub(acknowledged); err == nil && f.Near && storetest.Version(t, f) != 2 && late > o.Redis.NearCacheTTL+100*time.Millisecond {
				t.Errorf("served from memory a value overwritten %v before, want at most %v", late, o.Redis.NearCacheTTL)
			}
			return err == nil && storetest.Version(t, f) == 2
		})
	}
	storetest.Eventually(t, "all is in order", func() bool { return s.Redis.Ping(t.Context()) == nil && writer.Redis.Ping(t.Context()) == nil })
}
