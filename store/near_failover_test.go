package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// TestNearSentinelFailover: the new primary knows nothing of what the old one has promised to push.
func TestNearSentinelFailover(t *testing.T) {
	t.Parallel()
	set1 := redistest.StartSentinel(t)
	o := store.Options{Mode: store.Sentinel, Addrs: set1.Addrs(), SentinelMaster: set1.MasterSet, NearCacheBytes: 1 << 20, NearCacheTTL: 2 * time.Second}
	failover(t, o, func() { set1.Failover(t) })
}

// TestNearClusterFailover is the same with a primary that dies.
func TestNearClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	o := store.Options{Mode: store.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20, NearCacheTTL: 2 * time.Second}
	failover(t, o, func() { cluster.Nodes[0].Kill() })
}

// failover writes before and after a failover through one store and reads through another one, which must follow.
func failover(t *testing.T, o store.Options, change func()) {
	t.Helper()
	s, writer := open(t, o), open(t, o)
	keys := keysOf(30)
	write := func(value string) time.Time {
		var acknowledged time.Time
		for _, k := range keys {
			eventually(t, "a write succeeds", func() bool {
				_, _, err := writer.Set(t.Context(), "n", k, store.Write{Value: []byte(value)}, store.Condition{})
				acknowledged = time.Now()
				if err != nil && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrOutcomeUnknown) {
					t.Errorf("set: %v: %s", err, store.Cause(err))
				}
				return err == nil
			})
		}
		return acknowledged
	}
	write("1")
	for _, k := range keys {
		eventually(t, "the value is held", func() bool { f := get(t, s, "n", k, true); return f.Near && version(t, f) == 1 })
	}
	change()
	acknowledged := write("2")
	for _, k := range keys {
		eventually(t, "the new value is read", func() bool {
			asked := time.Now()
			f, err := s.Get(t.Context(), "n", k, true)
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("get: %v: %s", err, store.Cause(err))
			}
			if late := asked.Sub(acknowledged); err == nil && f.Near && version(t, f) != 2 && late > o.NearCacheTTL+100*time.Millisecond {
				t.Errorf("served from memory what was overwritten %v before", late)
			}
			return err == nil && version(t, f) == 2
		})
	}
	eventually(t, "all is in order", func() bool { return s.Ping(t.Context()) == nil && writer.Ping(t.Context()) == nil })
}
