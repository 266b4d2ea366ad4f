package service

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// wantDegraded waits until /health names a problem, and checks that the replica goes on serving.
func (a *api) wantDegraded(t *testing.T, problem string) {
	t.Helper()
	eventually(t, "degraded by "+problem, func() bool { return a.health.Problems()[problem] != "" })
	w := httptest.NewRecorder()
	a.AdminHandler(false).ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))
	if text := w.Body.String(); w.Code != 200 || !strings.Contains(text, `"degraded"`) || !strings.Contains(text, `"connected"`) || !strings.Contains(text, problem) {
		t.Errorf("/health = %d %s, want 200, degraded by %s and connected", w.Code, text, problem)
	}
	for _, name := range []string{"ready", "", cachev1.CacheService_ServiceDesc.ServiceName} {
		if got := a.state(t, name); got != serving {
			t.Errorf("%q = %v while degraded by %s, want %v", name, got, problem, serving)
		}
	}
	if got := metric(t, a.Server, "larder_redis_degraded", "problem", problem); got != 1 {
		t.Errorf("larder_redis_degraded of %s = %v, want 1", problem, got)
	}
}

func (a *api) wantWell(t *testing.T) {
	t.Helper()
	eventually(t, "well again", func() bool { return a.health.Ready() && len(a.health.Problems()) == 0 })
}

func TestWhatStillWorksIsServed(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.do(t, "CONFIG", "SET", "min-replicas-to-write", "1")
	a.wantDegraded(t, "writes")
	a.do(t, "CONFIG", "SET", "min-replicas-to-write", "0")
	a.wantWell(t)
}

// One primary of three hangs: the other two answer, and nobody is told to go away.
func TestAHungShardIsNotTheEndOfTheOthers(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Args: []string{"cluster-require-full-coverage", "no"}})
	a := serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}}, policy.Limits{})
	a.wantWell(t)
	cluster.Nodes[1].Pause(t)
	looks, end := time.NewTicker(10*time.Millisecond), time.After(3*time.Second)
	defer looks.Stop()
	for watching := true; watching; {
		select {
		case <-looks.C:
			if !a.health.Ready() {
				t.Fatal("not ready while one of three shards hangs, want ready")
			}
		case <-end:
			watching = false
		}
	}
	a.wantDegraded(t, "shards")
	cluster.Nodes[1].Resume(t)
	a.wantWell(t)
}
