package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// originDelay is the time that the imitated origin takes to load a value.
const originDelay = 50 * time.Millisecond

// stampede reads the key of the current wave with GetOrLease. The caller that is given the lease loads the value; the
// others wait for it.
func stampede(ctx context.Context, c *caller) (int, error) {
	key := "stampede:" + strconv.Itoa(c.wave)
	for {
		r, err := c.cache.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{Namespace: c.namespace, Key: key, WaitTimeout: durationpb.New(patience)})
		switch {
		case err != nil:
			return 0, err
		case r.GetLeaseToken() != "":
			c.loadFromOrigin(ctx)
			_, err := c.cache.Fill(ctx, &cachev1.FillRequest{Namespace: c.namespace, Key: key, LeaseToken: r.GetLeaseToken(), Value: c.value})
			return 1, err
		case r.GetOutcome() == cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_HIT:
			return 1, nil
		case r.GetOutcome() != cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_PENDING:
			return 0, fmt.Errorf("GetOrLease returned %v, want a hit, a lease or pending", r.GetOutcome())
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(r.GetRetryAfter().AsDuration()):
		}
	}
}

// stampedeWithoutLeases does what callers of a cache without leases do: each caller that misses loads the value.
func stampedeWithoutLeases(ctx context.Context, c *caller) (int, error) {
	key := "stampede:" + strconv.Itoa(c.wave)
	r, err := c.cache.Get(ctx, &cachev1.GetRequest{Namespace: c.namespace, Key: key})
	if err != nil || r.GetOutcome() == cachev1.GetOutcome_GET_OUTCOME_HIT {
		return 1, err
	}
	c.loadFromOrigin(ctx)
	return 1, c.set(ctx, key)
}

// loadFromOrigin counts a load and waits as long as the origin takes.
func (c *caller) loadFromOrigin(ctx context.Context) {
	c.loads.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(originDelay):
	}
}
