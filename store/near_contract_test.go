package store_test

import (
	"context"
	"errors"
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
							t.Errorf("%s: %v: %s", w.name, err, redis.Cause(err))
							return
						}
						if f.Entry != nil && v(f) < least {
							t.Errorf("%s: read %d after %d was acknowledged", w.name, v(f), least)
							return
						}
					}
				})
			}
			before := s.Stats()
			for i := range int64(w.rounds) {
				want, err := w.write(s, namespace, i)
				if err != nil {
					t.Errorf("%s: %v: %s", w.name, err, redis.Cause(err))
					break
				}
				if want >= 0 {
					said.Store(want)
				}
				f := storetest.Get(t, s, namespace, "key", true)
				if f.Entry == nil && want >= 0 || f.Entry != nil && v(f) != want {
					t.Errorf("%s: wrote %d, read %+v", w.name, want, f.Entry)
					break
				}
			}
			close(stop)
			readers.Wait()
			if after := s.Stats(); after.Near.Hits == before.Near.Hits {
				t.Errorf("%s: nothing was served from memory", w.name)
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
					t.Fatalf("the other replica serves an old value %v after the write", time.Since(acknowledged))
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

// TestNearHardBoundWhenPartitioned: no push comes through, and what is served is never older than NearCacheTTL.
func TestNearHardBoundWhenPartitioned(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, 500*time.Millisecond
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("1")})

	var read time.Time // what is held was asked for before
	storetest.Eventually(t, "the value is held", func() bool {
		first := storetest.Get(t, s, namespace, "key", true)
		read = time.Now()
		return !first.Near && storetest.Get(t, s, namespace, "key", true).Near
	})
	proxy.Blackhole(true)
	storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("2")})
	served := 0
	for deadline := time.Now().Add(2 * o.Redis.NearCacheTTL); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		asked := time.Now()
		f, err := s.Cache.Get(ctx, namespace, "key", true)
		cancel()
		switch {
		case err == nil && storetest.Version(t, f) == 1:
			served++
			if age := asked.Sub(read); age > o.Redis.NearCacheTTL {
				t.Fatalf("served a value that is %v old", age)
			}
		case err == nil:
			t.Fatalf("read %q through a black hole", f.Value)
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, redis.ErrUnavailable):
			t.Fatalf("%v: %s", err, redis.Cause(err))
		}
	}
	if served == 0 {
		t.Error("the near cache did not serve at all")
	}
	proxy.Blackhole(false)
	storetest.Eventually(t, "the new value is read", func() bool {
		f, err := s.Cache.Get(t.Context(), namespace, "key", true)
		return err == nil && storetest.Version(t, f) == 2
	})
}

// TestNearFlushedWhenNetworkIsSilent: a dead network is noticed by itself, long before a large NearCacheTTL is over.
func TestNearFlushedWhenNetworkIsSilent(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, time.Hour
	s, namespace := storetest.Open(t, o), storetest.NewNamespace()
	storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("1")})
	storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, namespace, "key", true).Near })
	proxy.Blackhole(true)
	storetest.Eventually(t, "the value is not served any more", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := s.Cache.Get(ctx, namespace, "key", true)
		return err != nil
	})
	proxy.CutAll() // closing a connection that does not answer takes a second
}

// TestNearFlushedWhenConnectionLost: the pushes of a lost connection are lost with it, so the next read asks Redis.
func TestNearFlushedWhenConnectionLost(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheTTL = []string{proxy.Addr}, time.Hour
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	for round := range int64(5) {
		storetest.Set(t, direct, namespace, "key", cache.Write{Value: strconv.AppendInt(nil, round, 10)})
		storetest.Eventually(t, "the value is held", func() bool {
			f, err := s.Cache.Get(t.Context(), namespace, "key", true)
			return err == nil && f.Near && storetest.Version(t, f) == round
		})
		flushes := s.Stats().Near.Flushes
		proxy.Refuse(true)
		proxy.CutAll()
		// Nobody hears of this one.
		storetest.Set(t, direct, namespace, "key", cache.Write{Value: []byte("1000")})
		storetest.Eventually(t, "the loss is noticed", func() bool { return s.Stats().Near.Flushes > flushes })
		if f, err := s.Cache.Get(t.Context(), namespace, "key", true); !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("read %v without a connection: %v", f.Entry, err)
		}
		proxy.Refuse(false)
		storetest.Eventually(t, "redis is asked", func() bool {
			f, err := s.Cache.Get(t.Context(), namespace, "key", true)
			if err == nil && storetest.Version(t, f) != 1000 {
				t.Errorf("read %d", storetest.Version(t, f))
			}
			return err == nil
		})
	}
}

func TestNearFlushedOnFLUSHALL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}})
	for _, command := range [][]string{{"FLUSHALL"}, {"FLUSHDB"}, {"FLUSHALL", "ASYNC"}} {
		storetest.Fill(t, s, "n", storetest.Keys(100))
		storetest.Eventually(t, "the values are held", func() bool {
			for _, k := range storetest.Keys(100) {
				if !storetest.Get(t, s, "n", k, true).Near {
					return false
				}
			}
			return true
		})
		server.Do(t, command...)
		storetest.Eventually(t, fmt.Sprintf("%v is noticed", command), func() bool {
			for _, k := range storetest.Keys(100) {
				if storetest.Get(t, s, "n", k, true).Entry != nil {
					return false
				}
			}
			return true
		})
	}
}

// TestNearFollowsExpiryAndEviction: Redis removes keys by itself, too.
func TestNearFollowsExpiryAndEviction(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}})
	held := func(what string) {
		t.Helper()
		storetest.Eventually(t, "held: "+what, func() bool { f := storetest.Get(t, s, "n", "key", true); return f.Near && f.Entry != nil })
	}
	gone := func(what string) {
		t.Helper()
		storetest.Eventually(t, "gone: "+what, func() bool { return storetest.Get(t, s, "n", "key", true).Entry == nil })
	}
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	held("an entry")
	server.Do(t, "PEXPIRE", storetest.EntryKey("n", "key"), "1")
	gone("expired by another client")
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value"), Fresh: 50 * time.Millisecond})
	gone("expired by its own time")
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	held("another entry")
	server.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	if _, err := server.TryDo("SET", "x", "y"); err == nil {
		t.Error("nothing was evicted")
	}
	gone("evicted")
}

// TestNearSurvivesTheTrackingTable: Redis forgets what it has pushed to whom when its table is full, and says so.
func TestNearSurvivesTheTrackingTable(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"tracking-table-max-keys", "10"}})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}}
	s, other := storetest.Open(t, o), storetest.Open(t, o)
	keys := storetest.Keys(100)
	for round := range int64(5) {
		for _, k := range keys {
			storetest.Set(t, other, "n", k, cache.Write{Value: strconv.AppendInt(nil, round, 10)})
		}
		for _, k := range keys {
			storetest.Eventually(t, "the new value", func() bool { return storetest.Version(t, storetest.Get(t, s, "n", k, true)) == round })
		}
	}
}

// TestNearMemoryBounded: ten times what fits is read, and the near cache stays within its bound, by its own reckoning and
// roughly by that of the runtime.
//
// It runs alone, as the heap is everybody's.
func TestNearMemoryBounded(t *testing.T) {
	const most = 4 << 20
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: most, NearCacheTTL: time.Hour}})
	values := []struct {
		name string
		w    cache.Write
		n    int
	}{
		{"large values", cache.Write{Value: make([]byte, 10<<10)}, 10 * most / (10 << 10)},
		{"small values", cache.Write{Value: []byte("v")}, 10 * most / 400},
		{"tags", cache.Write{Value: []byte("v"), Tags: storetest.Keys(32), ContentType: "text/plain"}, 10 * most / 2000},
		{"nothing there", cache.Write{}, 10 * most / 300},
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // far below
	}
	empty := heap()
	for _, v := range values {
		for i := 0; i < v.n; i += 1000 {
			keys := make([]string, min(1000, v.n-i))
			items := make([]cache.BatchWrite, len(keys))
			for j := range keys {
				keys[j] = fmt.Sprintf("%s-%d", v.name, i+j)
				items[j] = cache.BatchWrite{Key: keys[j], Write: v.w}
			}
			if v.name != "nothing there" {
				for part := range slices.Chunk(items, 100) {
					if _, err := s.Cache.BatchSet(t.Context(), "n", part); err != nil {
						t.Fatal(err)
					}
				}
			}
			for part := range slices.Chunk(keys, 100) {
				if _, err := s.Cache.BatchGet(t.Context(), "n", part, true); err != nil {
					t.Fatal(err)
				}
			}
			if held := s.Stats().Near.Bytes; held > most {
				t.Fatalf("%s: holds %d bytes", v.name, held)
			}
		}
		st := s.Stats()
		if st.Near.Evictions == 0 || st.Near.Bytes < most/2 {
			t.Errorf("%s: %+v", v.name, st)
		}
		used := heap() - empty
		t.Logf("%s: %d entries, %d bytes by the near cache's reckoning, %d by the runtime's", v.name, st.Near.Entries, st.Near.Bytes, used)
		if used > most*3/2 {
			t.Errorf("%s: %d bytes are used for a near cache of %d", v.name, used, most)
		}
	}
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
					t.Errorf("read %d after writing 2", got)
				}
			}
			if got := <-first; got != 1 && got != 2 {
				t.Errorf("the read under way returned %d", got)
			}
			storetest.Eventually(t, "the new value is read", func() bool { return storetest.Version(t, storetest.Get(t, s, "n", key, true)) == 2 })
			if f := storetest.Get(t, s, "n", key, true); storetest.Version(t, f) != 2 {
				t.Errorf("written %s: read %d again", name, storetest.Version(t, f))
			}
		}
	}
}
