package store_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

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
						t.Fatalf("BatchSet: error %v, want none", err)
					}
				}
			}
			for part := range slices.Chunk(keys, 100) {
				if _, err := s.Cache.BatchGet(t.Context(), "n", part, true); err != nil {
					t.Fatalf("BatchGet: error %v, want none", err)
				}
			}
			if held := s.Stats().Near.Bytes; held > most {
				t.Fatalf("%s: the near cache holds %d bytes, want at most %d", v.name, held, most)
			}
		}
		st := s.Stats()
		if st.Near.Evictions == 0 || st.Near.Bytes < most/2 {
			t.Errorf("%s: Stats = %+v, want evictions and at least %d bytes held", v.name, st, most/2)
		}
		used := heap() - empty
		t.Logf("%s: %d entries, %d bytes by the near cache's reckoning, %d by the runtime's", v.name, st.Near.Entries, st.Near.Bytes, used)
		if used > most*3/2 {
			t.Errorf("%s: %d bytes are used for a near cache of %d, want at most half more", v.name, used, most)
		}
	}
}
