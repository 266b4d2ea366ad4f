package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// background are the commands that connections and this package send by themselves, beside those of an operation.
var background = []string{
	"ping", "time", "role", "info", "hello", "client|tracking", "client|no-evict", "client|setinfo", "config|resetstat", "cluster|slots", "cluster|shards",
}

// costs returns the commands that Redis ran for an operation.
func costs(t *testing.T, server *redistest.Server, op func()) map[string]int64 {
	t.Helper()
	server.ResetCommandCalls(t)
	op()
	calls := server.CommandCalls(t)
	for _, name := range background {
		delete(calls, name)
	}
	return calls
}

// TestNearCosts: what each operation costs Redis, exactly. Commands inside a script are counted beside it.
func TestNearCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	ctx := t.Context()
	entry := func() { set(t, s, "n", "key", store.Write{Value: []byte("value"), Fresh: time.Hour}) }
	held := func() {
		entry()
		// The push of the entry itself may spoil the first read.
		eventually(t, "the entry is held", func() bool { return get(t, s, "n", "key", true).Near })
	}
	absent := func() {
		if _, _, err := s.Delete(ctx, "n", "key", nil); err != nil {
			t.Fatal(err)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err, store.Cause(err))
		}
	}
	match := func() store.ETag { return get(t, s, "n", "key", false).ETag }
	var etag store.ETag
	var plain, fresh string
	tests := []struct {
		name    string
		prepare func()
		op      func()
		costs   map[string]int64
	}{
		{"HitCostsNoCommand", held, func() {
			for range 100 {
				get(t, s, "n", "key", true)
			}
			_, err := s.BatchGet(ctx, "n", []string{"key", "key"}, true)
			check(err)
		}, map[string]int64{}},
		{"FirstMissOfANamespaceCostsTwoGets", func() { fresh = newNamespace() }, func() { get(t, s, fresh, "key", true) }, map[string]int64{"get": 2}},
		{"MissCostsOneGet", absent, func() { get(t, s, "n", "key", true) }, map[string]int64{"get": 1}},
		{"HitOfNothingCostsNoCommand", func() {
			absent()
			eventually(t, "that there is nothing is held", func() bool { return get(t, s, "n", "key", true).Near })
		}, func() { get(t, s, "n", "key", true) }, map[string]int64{}},
		{"ReadOfAnEntryCostsOneGet", entry, func() { get(t, s, "n", "key", true) }, map[string]int64{"get": 1}},
		// The entry and the mark of its namespace, in one round trip.
		{"PrimaryCostsTwoGets", held, func() { get(t, s, "n", "key", false) }, map[string]int64{"get": 2}},
		// Only Redis knows when a plain value expires.
		{"PlainValueCostsTwo", func() {
			plain = newNamespace() // another key, as the push of a value written by others takes its time
			s.Command(t, "SET", s.RedisKey("n", plain), "value")
		}, func() { get(t, s, "n", plain, true) }, map[string]int64{"get": 1, "pttl": 1}},
		{"SetCostsOneCommand", held, entry, map[string]int64{"set": 1}},
		{"SetForEverCostsOneCommand", held, func() { set(t, s, "n", "key", store.Write{}) }, map[string]int64{"set": 1}},
		// An entry that may be gone before a lease is does not stand in the way of a late Fill.
		{"ShortSetRevokesTheLease", held, func() {
			set(t, s, "n", "key", store.Write{Fresh: store.MaxLease / 2, Stale: store.MaxLease / 2})
		}, map[string]int64{"set": 1, "unlink": 1}},
		{"DeleteCostsOneScript", held, absent, map[string]int64{"evalsha": 1, "type": 1, "getrange": 2, "unlink": 1}},
		{"ConditionalSetCostsOneScript", func() { held(); etag = match() }, func() {
			_, _, err := s.Set(ctx, "n", "key", store.Write{}, store.Condition{Kind: store.IfMatch, ETag: etag})
			check(err)
		}, map[string]int64{"evalsha": 1, "getrange": 2, "set": 1, "unlink": 1}},
		{"ConditionalDeleteCostsOneScript", func() { held(); etag = match() }, func() {
			_, _, err := s.Delete(ctx, "n", "key", &etag)
			check(err)
		}, map[string]int64{"evalsha": 1, "type": 1, "getrange": 2, "unlink": 1}},
		{"TouchCostsOneScript", held, func() {
			_, _, err := s.Touch(ctx, "n", "key", time.Minute, store.TouchOverwrite)
			check(err)
		}, map[string]int64{"evalsha": 1, "getrange": 3, "setrange": 1, "pexpire": 1, "unlink": 1}},
		{"IncrementCostsOneScript", func() { s.Command(t, "SET", s.RedisKey("n", "counter"), "1") }, func() {
			_, err := s.Increment(ctx, "n", "counter", store.Increment{Delta: 1})
			check(err)
		}, map[string]int64{"evalsha": 1, "getrange": 2, "get": 3, "incrby": 1, "pttl": 1, "unlink": 1}},
		{"BatchGetCostsOneGetForEachKeyNotHeld", func() { held(); fill(t, s, "n", keysOf(10)) }, func() {
			_, err := s.BatchGet(ctx, "n", append(keysOf(10), "key"), true)
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
			if diff := cmp.Diff(test.costs, costs(t, server, test.op)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNearTrips counts the waits for Redis as a request sees them.
func TestNearTrips(t *testing.T) {
	nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		fill(t, s, namespace, keysOf(300))
		trips := func(want int64, what string, op func(ctx context.Context) error) {
			t.Helper()
			ctx, timer := store.WithTimer(t.Context())
			if err := op(ctx); err != nil {
				t.Errorf("%s: %v: %s", what, err, store.Cause(err))
			}
			if got := timer.Trips(); got != want || (timer.Total() > 0) != (want > 0) {
				t.Errorf("%s: %d trips, %v", what, got, timer.Total())
			}
		}
		one := func(near bool) func(ctx context.Context) error {
			return func(ctx context.Context) error { _, err := s.Get(ctx, namespace, "key-0", near); return err }
		}
		batch := func(ctx context.Context) error { _, err := s.BatchGet(ctx, namespace, keysOf(300), true); return err }
		trips(1, "a miss", one(true))
		trips(1, "from the primary", one(false))
		trips(1, "a batch", batch)
		eventually(t, "all is held", func() bool {
			found, err := s.BatchGet(t.Context(), namespace, keysOf(300), true)
			return err == nil && !slices.ContainsFunc(found, func(f store.BatchFound) bool { return !f.Near })
		})
		trips(0, "a hit", one(true))
		trips(0, "a batch of hits", batch)
	})
}
