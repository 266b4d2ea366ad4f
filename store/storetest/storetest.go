// Package storetest gives tests connected stores, in every topology of Redis and on the embedded store. The servers are real,
// started on first use and once for each test binary.
package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

var (
	mu    sync.Mutex
	stops []func()

	standalone = once(func() (*redistest.Server, func(), error) { return redistest.StartMain(redistest.Options{}) })
	cluster    = once(func() (*redistest.Cluster, func(), error) {
		return redistest.StartClusterMain(redistest.ClusterOptions{})
	})
	sentinel = once(redistest.StartSentinelMain)
)

// once starts a topology on the first call, and has Main stop it.
func once[T any](start func() (T, func(), error)) func() (T, error) {
	return sync.OnceValues(func() (T, error) {
		topology, stop, err := start()
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			stops = append(stops, stop)
		}
		return topology, err
	})
}

// Main runs the tests of a binary, stops the servers that they have started, and returns the exit code.
func Main(m *testing.M) int {
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, stop := range stops {
			stop()
		}
	}()
	return m.Run()
}

// must returns a topology, or ends the test.
func must[T any](tb testing.TB, start func() (T, error)) T {
	tb.Helper()
	topology, err := start()
	if err != nil {
		tb.Fatalf("start redis: error %v, want none", err)
	}
	return topology
}

// Standalone returns the binary's redis-server.
func Standalone(tb testing.TB) *redistest.Server {
	tb.Helper()
	return must(tb, standalone)
}

// Cluster returns the binary's cluster.
func Cluster(tb testing.TB) *redistest.Cluster {
	tb.Helper()
	redistest.StandaloneOnly(tb)
	return must(tb, cluster)
}

// Sentinel returns the binary's primary, replicas and sentinels.
func Sentinel(tb testing.TB) *redistest.Sentinel {
	tb.Helper()
	redistest.StandaloneOnly(tb)
	return must(tb, sentinel)
}

// Options returns how to reach the binary's Redis of a mode, with a near cache of 64 MiB.
func Options(tb testing.TB, mode redis.Mode) store.Options {
	tb.Helper()
	o := redis.Options{Mode: mode, NearCacheBytes: 64 << 20}
	switch mode {
	case redis.Standalone:
		o.Addrs = []string{Standalone(tb).Addr}
	case redis.Cluster:
		o.Addrs = Cluster(tb).Addrs()
	case redis.Sentinel:
		s := Sentinel(tb)
		o.Addrs, o.SentinelMaster = s.Addrs(), s.MasterSet
	case redis.Embedded:
	}
	return store.Options{Redis: o}
}

// Open returns a connected store, which the end of the test closes.
func Open(tb testing.TB, o store.Options) *store.Store {
	tb.Helper()
	s, err := store.New(o)
	if err != nil {
		tb.Fatalf("New: error %v, want none", err)
	}
	tb.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Redis.Connect(ctx); err != nil {
		tb.Fatalf("Connect: error %v, want none: %s", err, redis.Cause(err))
	}
	return s
}

// Everywhere runs a test in every topology and on the embedded store, in parallel, each with a store and a namespace of its
// own.
func Everywhere(t *testing.T, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Helper()
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel, redis.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, Options(t, mode)), NewNamespace())
		})
	}
}

var namespaces atomic.Int64

// NewNamespace returns a namespace that no other test of the binary uses.
func NewNamespace() string {
	return fmt.Sprintf("t%d", namespaces.Add(1))
}

// Eventually polls until a condition holds that no event announces. It fails the test after 30 s, which leaves room for a machine
// under load. What describes the condition.
func Eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) { //nolint:forbidigo // polls what has no event
		if time.Now().After(deadline) {
			tb.Fatalf("not true after 30 s, want: %s", what)
		}
	}
}

// Command sends any command about one key, as another client of the same Redis would, and returns its answer; nil for none.
func Command(tb testing.TB, s *store.Store, name, redisKey string, args ...string) any {
	tb.Helper()
	v, err := redis.RoundTrip(tb.Context(), s.Redis, "test", redis.Reads, func(ctx context.Context, conns *redis.Conns) (any, error) {
		c := conns.Primary
		v, err := c.Do(ctx, c.B().Arbitrary(name).Keys(redisKey).Args(args...).Build()).ToAny()
		if rueidis.IsRedisNil(err) {
			err = nil
		}
		return v, err
	})
	if err != nil {
		tb.Fatalf("%s %q: error %v, want none: %s", name, redisKey, err, redis.Cause(err))
	}
	return v
}

// Cause is redis.Cause, and empty for nil.
func Cause(err error) string {
	if err == nil {
		return ""
	}
	return redis.Cause(err)
}

// Replicas returns two stores on the same data.
func Replicas(t *testing.T, s *store.Store) [2]*store.Store {
	t.Helper()
	if s.Redis.Mode() == redis.Embedded {
		return [2]*store.Store{s, s}
	}
	return [2]*store.Store{s, Open(t, Options(t, s.Redis.Mode()))}
}

// Alone returns a server and a store of their own, for tests that count commands.
func Alone(t *testing.T) (*redistest.Server, *store.Store) {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	return server, Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
}
