package cache_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// TestSteppedHostClock: when the clock of a replica's host is set, its writes are as of the time of Redis all the same, so that a
// later invalidation reaches them and an earlier one does not.
func TestSteppedHostClock(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		if s.Redis.Mode() == redis.Embedded {
			return // it has the clock of the host
		}
		for _, step := range []time.Duration{time.Hour, -time.Hour} {
			var offset atomic.Int64
			o := storetest.Options(t, s.Redis.Mode())
			o.Redis.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
			stepped, namespace := storetest.Open(t, o), storetest.NewNamespace()
			invalidations[0].do(t, s, namespace, cache.InvalidateDelete)
			before := stepped.Redis.Earliest()
			offset.Store(int64(step))
			storetest.Set(t, stepped, namespace, "key", tagged("value", "tag"))
			if f := storetest.Get(t, s, namespace, "key", false); f.Entry == nil {
				t.Errorf("step of %v: Get after the Set = nothing, want the entry", step)
			}
			if now := stepped.Redis.Earliest(); now.Before(before) || now.After(s.Redis.Now().Add(sameExpiry)) {
				t.Errorf("step of %v: Earliest = %v, was %v, want it no earlier and not after %v", step, now, before, s.Redis.Now())
			}
			invalidations[0].do(t, s, namespace, cache.InvalidateDelete)
			if f := storetest.Get(t, s, namespace, "key", false); f.Entry != nil {
				t.Errorf("step of %v: Get after the invalidation = %+v, want nothing", step, f.Entry)
			}
		}
	})
}
