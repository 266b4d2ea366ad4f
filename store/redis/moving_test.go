package redis_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestMovingSlotsUnderLoad: slots move all the time, and hardly a call fails. One that does may be repeated.
func TestMovingSlotsUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: clusterOptions(cluster)})
	keys := storetest.Keys(3000)
	storetest.Fill(t, s, "n", keys)
	operations := []func(key string) error{
		func(key string) error { return trySet(t, s, key, "1") },
		func(key string) error { _, err := s.Cache.Get(t.Context(), "n", key, false); return err },
		func(key string) error { _, err := s.Cache.Get(t.Context(), "n", key, true); return err },
		func(key string) error {
			_, _, err := s.Cache.Touch(t.Context(), "n", key, time.Hour, cache.TouchOverwrite)
			return err
		},
	}
	stop := make(chan struct{})
	var mu sync.Mutex
	calls, failed := 0, 0
	var callers sync.WaitGroup
	for caller := range 4 {
		callers.Go(func() {
			for i := caller; ; i += 5 {
				select {
				case <-stop:
					return
				default:
				}
				err := operations[i%len(operations)](keys[i%len(keys)])
				if err != nil && (!errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err)) {
					t.Errorf("operation %d = %v (%s), want no error or %v, retryable", i%len(operations), err, storetest.Cause(err), redis.ErrUnavailable)
				}
				mu.Lock()
				calls++
				if err != nil {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	moved := 0
	for begin, slot := time.Now(), 0; time.Since(begin) < 5*time.Second; slot += 7 {
		cluster.MoveSlot(t, slot, cluster.Another(t, slot))
		moved++
	}
	close(stop)
	callers.Wait()
	t.Logf("%d of %d calls failed while %d slots moved", failed, calls, moved)
	if failed > calls/1000 {
		t.Errorf("%d of %d calls failed, want 1 in 1,000 at most", failed, calls)
	}
}
