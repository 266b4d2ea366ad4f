package service

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// TestStampede: 200 callers of two replicas want one cold key whose load takes 300 ms. It is loaded once, all get the value,
// and those who wait do not ask Redis over and over.
func TestStampede(t *testing.T) {
	t.Parallel()
	const callers = 200
	one := newAPI(t, policy.Limits{})
	other := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{one.addr}, CommandTimeout: 10 * time.Second}}, policy.Limits{})
	one.redis.ResetCommandCalls(t)
	var loads atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		a := []*api{one, other}[i%2]
		wg.Go(func() {
			got, err := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Key: "k", LeaseTtl: secs(30), WaitTimeout: secs(30)})
			switch {
			case err != nil:
				t.Errorf("GetOrLease = %v, want nil", err)
			case got.LeaseToken != "":
				loads.Add(1)
				one.ages(t, 300*time.Millisecond)
				filled, err := a.cache.Fill(t.Context(), &cachev1.FillRequest{Key: "k", LeaseToken: got.LeaseToken, Value: []byte("v")})
				if err != nil || filled.Outcome != cachev1.FillOutcome_FILL_OUTCOME_STORED {
					t.Errorf("Fill = %v, %v, want STORED", filled, err)
				}
			case got.Outcome != leaseHit || string(got.Value) != "v":
				t.Errorf("GetOrLease = %v, want a HIT of v", got)
			}
		})
	}
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("loads = %d, want 1", n)
	}
	calls := one.redis.CommandCalls(t)
	asked := calls["get"] + calls["pttl"] + calls["evalsha"] + calls["eval"]
	if t.Logf("%d commands", asked); asked > callers {
		t.Errorf("Redis served %d commands for %d callers, want at most one each: %v", asked, callers, calls)
	}
}
