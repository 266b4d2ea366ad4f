package store_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
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

// What the near cache promises, each promise by the test of its name, on real Redis.

// TestNearReadYourWrites: a read that begins after a write through the same store was acknowledged returns that write,
// while others read the same key as fast as they can and so keep filling the near cache.
func TestNearReadYourWrites(t *testing.T) {
	ctx := context.Background()
	writes := []struct {
		name   string
		rounds int
		// write does the i-th write and returns what must be read from then on.
		write func(s *store.Store, namespace string, i int64) (int64, error)
		// version is what is read, never decreasing, for those who read meanwhile.
		version func(f cache.Found) int64
	}{
		{"Set", 3000, func(s *store.Store, namespace string, i int64) (int64, error) {
			_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, i, 10), Fresh: time.Hour}, cache.Condition{})
			return i, err
		}, nil},
		{"conditional Set", 500, func(s *store.Store, namespace string, i int64) (int64, error) {
			_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, i, 10)}, cache.Condition{Kind: cache.IfNoneMatch})
			return i, err
		}, nil},
		{"Increment", 500, func(s *store.Store, namespace string, _ int64) (int64, error) {
			r, err := s.Cache.Increment(ctx, namespace, "key", cache.Increment{Delta: 1})
			return r.Value, err
		}, nil},
		{"BatchSet", 500, func(s *store.Store, namespace string, i int64) (int64, error) {
			w := cache.Write{Value: strconv.AppendInt(nil, i, 10)}
			_, err := s.Cache.BatchSet(ctx, namespace, []cache.BatchWrite{{Key: "other", Write: w}, {Key: "key", Write: w}})
			return i, err
		}, nil},
		{"Touch", 500, func(s *store.Store, namespace string, i int64) (int64, error) {
			fresh := time.Duration(i+1) * time.Hour
			if i == 0 {
				_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: []byte("value"), Fresh: fresh}, cache.Condition{})
				return i, err
			}
			_, _, err := s.Cache.Touch(ctx, namespace, "key", fresh, cache.TouchOverwrite)
			return i, err
		}, func(f cache.Found) int64 { return int64(f.Soft.Sub(f.AsOf).Round(time.Hour)/time.Hour) - 1 }},
		// A deletion is read as nothing, after which the next version is written.
		{"Delete", 500, func(s *store.Store, namespace string, i int64) (int64, error) {
			if i%2 == 1 {
				_, _, err := s.Cache.Delete(ctx, namespace, "key", nil)
				return -1, err
			}
			_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, i, 10)}, cache.Condition{})
			return i, err
		}, nil},
		{"BatchDelete", 500, func(s *store.Store, namespace string, i int64) (int64, error) {
			if i%2 == 1 {
				_, err := s.Cache.BatchDelete(ctx, namespace, []string{"other", "key"})
				return -1, err
			}
			_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, i, 10)}, cache.Condition{})
			return i, err
		}, nil},
		{"DeleteMatching", 100, func(s *store.Store, namespace string, i int64) (int64, error) {
			if i%2 == 1 {
				return -1, s.Cache.DeleteMatching(ctx, namespace, "k*", "", func(int64, string) error { return nil })
			}
			_, _, err := s.Cache.Set(ctx, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, i, 10)}, cache.Condition{})
			return i, err
		}, nil},
	}
	storetest.Nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, w := range writes {
			namespace := namespace + "-" + strconv.Itoa(len(w.name))
			v := w.version
			if v == nil {
				v = func(f cache.Found) int64 { return storetest.Version(t, f) }
			}
			var said atomic.Int64
			said.Store(-1)
			var readers sync.WaitGroup
			stop := make(chan struct{})
			for reader := range 4 {
				readers.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						least := said.Load()
						var f cache.Found
						var err error
						if reader == 0 && i%20 > 0 {
							var batch []cache.BatchFound
							if batch, err = s.Cache.BatchGet(ctx, namespace, []string{"key", "absent"}, true); err == nil {
								f, err = batch[0].Found, batch[0].Err
							}
						} else {
							// Hits never block: without a wait now and then they would leave no processor to the pushes.
							f, err = s.Cache.Get(ctx, namespace, "key", i%20 > 0)
						}
						if err != nil {
							t.Errorf("%s: Get: error %v, want none: %s", w.name, err, redis.Cause(err))
							return
						}
						if f.Entry != nil && v(f) < least {
							t.Errorf("%s: read %d, want at least %d, which was acknowledged", w.name, v(f), least)
							return
						}
					}
				})
			}
			before := s.Stats()
			for i := range int64(w.rounds) {
				want, err := w.write(s, namespace, i)
				if err != nil {
					t.Errorf("%s: error %v, want none: %s", w.name, err, redis.Cause(err))
					break
				}
				if want >= 0 {
					said.Store(want)
				}
				f := storetest.Get(t, s, namespace, "key", true)
				if f.Entry == nil && want >= 0 || f.Entry != nil && v(f) != want {
					t.Errorf("%s: read %+v, want version %d, which was written, -1 meaning nothing", w.name, f.Entry, want)
					break
				}
			}
			close(stop)
			readers.Wait()
			if after := s.Stats(); after.Near.Hits == before.Near.Hits {
				t.Errorf("%s: 0 hits of the near cache, want some", w.name)
			}
		}
	})
}

// TestNearOtherReplicasWithinOnePush: what one store writes another one serves within one push, although it holds the
// value that was there before.
func TestNearOtherReplicasWithinOnePush(t *testing.T) {
	const rounds = 300
	storetest.Nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		other := storetest.Open(t, storetest.Options(t, s.Redis.Mode()))
		var took []time.Duration
		for i := range int64(rounds) {
			key := fmt.Sprintf("key-%d", i%10)
			storetest.Get(t, other, namespace, key, true)
			if f := storetest.Get(t, other, namespace, key, true); !f.Near {
				// The push of the round before has just dropped it.
				storetest.Eventually(t, "the other replica holds the key", func() bool { return storetest.Get(t, other, namespace, key, true).Near })
			}
			storetest.Set(t, s, namespace, key, cache.Write{Value: strconv.AppendInt(nil, i, 10)})
			acknowledged := time.Now()
			for storetest.Version(t, storetest.Get(t, other, namespace, key, true)) != i {
				if time.Since(acknowledged) > 3*time.Second {
					t.Fatalf("the other replica serves an old value %v after the write, want at most 3s", time.Since(acknowledged))
				}
				runtime.Gosched()
			}
			took = append(took, time.Since(acknowledged))
		}
		slices.Sort(took)
		t.Logf("from the acknowledgement to the new value elsewhere: p50 %v, p99 %v, longest %v",
			took[rounds/2], took[rounds*99/100], took[rounds-1])
	})
}

// TestNearSpoiledReadIsNotKept: a read is under way when its key is written. What it brings was true when it was asked
// for and may be returned, but must not be served again.
func TestNearSpoiledReadIsNotKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	o := store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}}
	s, direct := storetest.Open(t, o), storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	for round := range 20 {
		for name, writer := range map[string]*store.Store{"here": s, "elsewhere": direct} {
			key := fmt.Sprintf("%s-%d", name, round)
			storetest.Set(t, direct, "n", key, cache.Write{Value: []byte("1")})
			server.ResetCommandCalls(t)
			proxy.Delay(50 * time.Millisecond)
			first := make(chan int64)
			go func() { first <- storetest.Version(t, storetest.Get(t, s, "n", key, true)) }()
			storetest.Eventually(t, "redis has read", func() bool { return server.CommandCalls(t)["get"] >= 1 })
			proxy.Delay(0)
			// Over the other connection of the store this one overtakes the reply to the read.
			storetest.Set(t, writer, "n", key, cache.Write{Value: []byte("2")})
			if name == "here" {
				if got := storetest.Version(t, storetest.Get(t, s, "n", key, true)); got != 2 {
					t.Errorf("read version %d after this replica wrote 2, want 2", got)
				}
			}
			if got := <-first; got != 1 && got != 2 {
				t.Errorf("the read under way returned version %d, want 1 or 2", got)
			}
			storetest.Eventually(t, "the new value is read", func() bool { return storetest.Version(t, storetest.Get(t, s, "n", key, true)) == 2 })
			if f := storetest.Get(t, s, "n", key, true); storetest.Version(t, f) != 2 {
				t.Errorf("written %s: read version %d again, want 2", name, storetest.Version(t, f))
			}
		}
	}
}
