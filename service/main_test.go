package service

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when a goroutine outlives its tests. The one that starts redis-server lives on by design, and
// those in which rueidis puts off what it does about a cluster that has changed end by themselves within seconds.
func TestMain(m *testing.M) {
	// Each check of a property is dozens of calls. -rapid.checks on the command line says otherwise.
	_ = flag.Set("rapid.checks", "30")
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/berthcare/larder/store/redistest.init.func1.1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
	)
}
