package service

import (
	"sync"
	"testing"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// Calls that wait for a load leave their place to others, and those on one connection leave room for others on it.
func TestWaitingCallsAreNotInFlight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	a := serveWith(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}}, Options{MaxInFlight: 10, MaxConcurrentStreams: 20})
	a.redis = server
	other := cachev1.NewCacheServiceClient(dial(t, a.running.addr))
	eventually(t, "ready", a.health.Ready)
	lease := a.lease(t, &cachev1.GetOrLeaseRequest{Key: "k"}, leaseMiss, true).LeaseToken

	var waiters sync.WaitGroup
	wait := func(c cachev1.CacheServiceClient, n int, want cachev1.GetOrLeaseOutcome) {
		for range n {
			waiters.Go(func() {
				r, err := c.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Key: "k", WaitTimeout: secs(20)})
				if err != nil || r.Outcome != want {
					t.Errorf("GetOrLease = %v, %v, want %v", r.GetOutcome(), err, want)
				}
			})
		}
	}
	wait(a.cache, 5, leaseHit)
	eventually(t, "waiting", func() bool { return metric(t, a.Server, "larder_rpc_waiting") == 5 })
	wait(other, 5, leaseHit)
	eventually(t, "waiting", func() bool { return metric(t, a.Server, "larder_rpc_waiting") == 10 })
	if got := metric(t, a.Server, "larder_rpc_in_flight", "type", "unary"); got != 0 {
		t.Errorf("larder_rpc_in_flight with 10 calls that wait = %v, want 0", got)
	}
	for range 20 {
		a.set(t, &cachev1.SetRequest{Key: "another", Value: []byte("v")})
	}
	start := time.Now()
	r, err := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Key: "k", WaitTimeout: secs(20)})
	if took := time.Since(start); err != nil || r.Outcome != leasePending || r.RetryAfter.AsDuration() <= 0 || took > 5*time.Second {
		t.Errorf("GetOrLease beyond those that may wait = %v, %v after %v, want %v at once, with retry_after", r, err, took, leasePending)
	}
	must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Key: "k", Value: []byte("v"), LeaseToken: lease}))
	waiters.Wait()
	if got := metric(t, a.Server, "larder_rpc_waiting"); got != 0 {
		t.Errorf("larder_rpc_waiting afterwards = %v, want 0", got)
	}
}
