package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestNearCosts: what each operation costs Redis, exactly. Commands inside a script are counted beside it.
func TestNearCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	ctx := t.Context()
	entry := func() { storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value"), Fresh: time.Hour}) }
	held := func() {
		entry()
		// The push of the entry itself may spoil the first read.
		storetest.Eventually(t, "the entry is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
	}
	absent := func() {
		if _, _, err := s.Cache.Delete(ctx, "n", "key", nil); err != nil {
			t.Fatalf("Delete: error %v, want none", err)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Errorf("error %v, want none: %s", err, redis.Cause(err))
		}
	}
	match := func() cache.ETag { return storetest.Get(t, s, "n", "key", false).ETag }
	var etag cache.ETag
	var plain, fresh string
	tests := []struct {
		name    string
		prepare func()
		op      func()
		costs   map[string]int64
	}{
		{"HitCostsNoCommand", held, func() {
			for range 100 {
				storetest.Get(t, s, "n", "key", true)
			}
			_, err := s.Cache.BatchGet(ctx, "n", []string{"key", "key"}, true)
			check(err)
		}, map[string]int64{}},
		{"FirstMissOfANamespaceCostsTwoGets", func() { fresh = storetest.NewNamespace() }, func() { storetest.Get(t, s, fresh, "key", true) }, map[string]int64{"get": 2}},
		{"MissCostsOneGet", absent, func() { storetest.Get(t, s, "n", "key", true) }, map[string]int64{"get": 1}},
		{"HitOfNothingCostsNoCommand", func() {
			absent()
			storetest.Eventually(t, "that there is nothing is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
		}, func() { storetest.Get(t, s, "n", "key", true) }, map[string]int64{}},
		{"ReadOfAnEntryCostsOneGet", entry, func() { storetest.Get(t, s, "n", "key", true) }, map[string]int64{"get": 1}},
		// The entry and the invalidation of its namespace, in one round trip.
		{"PrimaryCostsTwoGets", held, func() { storetest.Get(t, s, "n", "key", false) }, map[string]int64{"get": 2}},
		// Only Redis knows when a plain value expires.
		{"PlainValueCostsTwo", func() {
			plain = storetest.NewNamespace() // another key, as the push of a value written by others takes its time
			storetest.Command(t, s, "SET", storetest.EntryKey("n", plain), "value")
		}, func() { storetest.Get(t, s, "n", plain, true) }, map[string]int64{"get": 1, "pttl": 1}},
		{"SetCostsOneCommand", held, entry, map[string]int64{"set": 1}},
		{"SetForEverCostsOneCommand", held, func() { storetest.Set(t, s, "n", "key", cache.Write{}) }, map[string]int64{"set": 1}},
		// An entry that may be gone before a lease is does not stand in the way of a late Fill.
		{"ShortSetRevokesTheLease", held, func() {
			storetest.Set(t, s, "n", "key", cache.Write{Fresh: cache.MaxLease / 2, Stale: cache.MaxLease / 2})
		}, map[string]int64{"evalsha": 1, "set": 1, "unlink": 1}},
		{"DeleteCostsOneScriptAndOneGet", held, absent, map[string]int64{"evalsha": 1, "get": 1, "type": 1, "getrange": 1, "unlink": 1}},
		{"ConditionalSetCostsOneScriptAndOneGet", func() { held(); etag = match() }, func() {
			_, _, err := s.Cache.Set(ctx, "n", "key", cache.Write{}, cache.Condition{Kind: cache.IfMatch, ETag: etag})
			check(err)
		}, map[string]int64{"evalsha": 1, "get": 1, "getrange": 1, "set": 1, "unlink": 1}},
		{"ConditionalDeleteCostsOneScriptAndOneGet", func() { held(); etag = match() }, func() {
			_, _, err := s.Cache.Delete(ctx, "n", "key", &etag)
			check(err)
		}, map[string]int64{"evalsha": 1, "get": 1, "type": 1, "getrange": 1, "unlink": 1}},
		{"TouchCostsOneScriptAndOneGet", held, func() {
			_, _, err := s.Cache.Touch(ctx, "n", "key", time.Minute, cache.TouchOverwrite)
			check(err)
		}, map[string]int64{"evalsha": 1, "get": 1, "getrange": 2, "setrange": 1, "pexpire": 1, "unlink": 1}},
		{"IncrementCostsOneScript", func() { storetest.Command(t, s, "SET", storetest.EntryKey("n", "counter"), "1") }, func() {
			_, err := s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1})
			check(err)
		}, map[string]int64{"evalsha": 1, "getrange": 2, "get": 1, "type": 1, "incrby": 1, "pttl": 1, "unlink": 1}},
		{"BatchGetCostsOneGetForEachKeyNotHeld", func() { held(); storetest.Fill(t, s, "n", storetest.Keys(10)) }, func() {
			_, err := s.Cache.BatchGet(ctx, "n", append(storetest.Keys(10), "key"), true)
			check(err)
		}, map[string]int64{"get": 10}},
	}
	for _, test := range tests { // teaches Redis the scripts
		test.prepare()
		test.op()
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.prepare()
			if diff := cmp.Diff(test.costs, storetest.Costs(t, server, test.op)); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNearTrips counts the waits for Redis as a request sees them.
func TestNearTrips(t *testing.T) {
	storetest.Nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		storetest.Fill(t, s, namespace, storetest.Keys(300))
		trips := func(want int64, what string, op func(ctx context.Context) error) {
			t.Helper()
			ctx, timer := redis.WithTimer(t.Context())
			if err := op(ctx); err != nil {
				t.Errorf("%s: error %v, want none: %s", what, err, redis.Cause(err))
			}
			if got := timer.Trips(); got != want || (timer.Total() > 0) != (want > 0) {
				t.Errorf("%s: %d round trips in %v, want %d", what, got, timer.Total(), want)
			}
		}
		one := func(near bool) func(ctx context.Context) error {
			return func(ctx context.Context) error { _, err := s.Cache.Get(ctx, namespace, "key-0", near); return err }
		}
		batch := func(ctx context.Context) error {
			_, err := s.Cache.BatchGet(ctx, namespace, storetest.Keys(300), true)
			return err
		}
		trips(1, "a miss", one(true))
		trips(1, "from the primary", one(false))
		trips(1, "a batch", batch)
		storetest.Eventually(t, "all is held", func() bool {
			found, err := s.Cache.BatchGet(t.Context(), namespace, storetest.Keys(300), true)
			return err == nil && !slices.ContainsFunc(found, func(f cache.BatchFound) bool { return !f.Near })
		})
		trips(0, "a hit", one(true))
		trips(0, "a batch of hits", batch)
	})
}
