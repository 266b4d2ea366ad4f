package storetest

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
)

// Get reads an entry; near allows an answer of the near cache.
func Get(tb testing.TB, s *store.Store, namespace, key string, near bool) cache.Found {
	tb.Helper()
	found, err := s.Cache.Get(tb.Context(), namespace, key, near)
	if err != nil {
		tb.Fatalf("Get of %q: error %v, want none: %s", key, err, redis.Cause(err))
	}
	return found
}

// Set writes an entry and returns its etag.
func Set(tb testing.TB, s *store.Store, namespace, key string, w cache.Write) string {
	tb.Helper()
	stored, etag, err := s.Cache.Set(tb.Context(), namespace, key, w, cache.Condition{})
	if err != nil || !stored {
		tb.Fatalf("Set of %q = %v, %v, want stored", key, stored, err)
	}
	return etag
}

// Keys returns n keys, which a cluster spreads over all its nodes.
func Keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	return keys
}

// Fill writes an entry under each key.
func Fill(tb testing.TB, s *store.Store, namespace string, keys []string) {
	tb.Helper()
	for len(keys) > 0 {
		n := min(len(keys), 1000)
		items := make([]cache.BatchWrite, n)
		for i := range items {
			items[i] = cache.BatchWrite{Key: keys[i], Write: cache.Write{Value: []byte("value")}}
		}
		results, err := s.Cache.BatchSet(tb.Context(), namespace, items)
		if err != nil {
			tb.Fatalf("BatchSet: error %v, want none", err)
		}
		for _, r := range results {
			if r.Err != nil {
				tb.Fatalf("BatchSet of one entry: error %v, want none", r.Err)
			}
		}
		keys = keys[n:]
	}
}

// Version returns the number that a test wrote as the value; -1 if the key holds nothing.
func Version(t testing.TB, f cache.Found) int64 {
	t.Helper()
	if f.Entry == nil {
		return -1
	}
	n, err := strconv.ParseInt(string(f.Value), 10, 64)
	if err != nil {
		t.Errorf("read %q, want a number", f.Value)
	}
	return n
}

// Nearly runs a test in every topology that has a near cache, as [Everywhere] does.
func Nearly(t *testing.T, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, Options(t, mode)), NewNamespace())
		})
	}
}

// EntryKey returns the Redis key of an entry in any namespace but the plain one.
func EntryKey(namespace, key string) string { return "ld:c:{" + namespace + ":" + key + "}" }
