package store_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// topologies are what the suite runs on: started once for the package, as each takes seconds.
var topologies struct {
	standalone *redistest.Server
	cluster    *redistest.Cluster
	sentinel   *redistest.Sentinel
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var stops []func()
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	start := func(stop func(), err error) bool {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return false
		}
		stops = append(stops, stop)
		return true
	}
	var stop func()
	var err error
	if topologies.standalone, stop, err = redistest.StartMain(redistest.Options{}); !start(stop, err) {
		return 1
	}
	if topologies.cluster, stop, err = redistest.StartClusterMain(redistest.ClusterOptions{}); !start(stop, err) {
		return 1
	}
	if topologies.sentinel, stop, err = redistest.StartSentinelMain(); !start(stop, err) {
		return 1
	}
	return m.Run()
}

// options returns how to reach the shared Redis of a mode, with a near cache.
func options(mode store.Mode) store.Options {
	o := store.Options{Mode: mode, NearCacheBytes: 64 << 20}
	switch mode {
	case store.Standalone:
		o.Addrs = []string{topologies.standalone.Addr}
	case store.Cluster:
		o.Addrs = topologies.cluster.Addrs()
	case store.Sentinel:
		o.Addrs, o.SentinelMaster = topologies.sentinel.Addrs(), topologies.sentinel.MasterSet
	case store.Embedded:
	}
	return o
}

// open returns a connected store, closed with the test.
func open(tb testing.TB, o store.Options) *store.Store {
	tb.Helper()
	s, err := store.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Connect(ctx); err != nil {
		tb.Fatalf("connect: %v: %s", err, store.Cause(err))
	}
	return s
}

// everywhere runs a test in every topology and on the embedded store, each with a namespace of its own.
func everywhere(t *testing.T, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Parallel()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel, store.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, open(t, options(mode)), newNamespace())
		})
	}
}

var namespaces atomic.Int64

// newNamespace returns a namespace that no other test uses.
func newNamespace() string {
	return fmt.Sprintf("t%d", namespaces.Add(1))
}

// eventually waits for something that takes milliseconds, for as long as a machine under load may need.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) { //nolint:forbidigo // polls what has no event
		if time.Now().After(deadline) {
			tb.Fatalf("does not come true: %s", what)
		}
	}
}
