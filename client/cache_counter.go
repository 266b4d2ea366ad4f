package client

import (
	"context"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A TTLPolicy says what an increment does to the counter's expiry.
type TTLPolicy = cachev1.TtlPolicy

// The policies of Increment. The zero value is TTLOnCreate.
const (
	// TTLOnCreate sets the expiry when the counter is created and leaves it alone afterwards.
	TTLOnCreate = cachev1.TtlPolicy_TTL_POLICY_ON_CREATE
	// TTLAlways sets the expiry at every increment, so that a busy counter never ends.
	TTLAlways = cachev1.TtlPolicy_TTL_POLICY_ALWAYS
	// TTLKeep never sets an expiry; a counter that it creates never expires.
	TTLKeep = cachev1.TtlPolicy_TTL_POLICY_KEEP
)

// IncrementOptions say how to count. The zero value counts from 0, without bounds, for the server's default TTL.
type IncrementOptions struct {
	// Initial is what an absent counter counts from before the delta is added.
	Initial int64
	// TTL is how long the counter lives. At most one of TTL, ExpireTime and Never may be set, and none with TTLKeep.
	TTL time.Duration
	// ExpireTime is when the counter ends.
	ExpireTime time.Time
	// Never keeps the counter until it is deleted or evicted.
	Never bool
	// TTLPolicy says when the expiry is applied.
	TTLPolicy TTLPolicy
	// Min is the lowest value that the increment may reach; nil means none.
	Min *int64
	// Max is the highest value that the increment may reach; nil means none.
	Max *int64
	// Saturate sets the counter to the bound that the delta would cross, instead of rejecting the increment.
	Saturate bool
}

// A Counter is what an increment came to.
type Counter struct {
	// Outcome is Incremented, Saturated or Rejected.
	Outcome Outcome
	// Value is the counter now, exact over the whole range; Initial when Rejected and there is no counter.
	Value int64
	// TTL is how much longer the counter lives; zero when it never expires or does not exist.
	TTL time.Duration
}

// Increment adds delta to a counter, which is created if it is absent; a delta of 0 reads it and creates it too. It is
// never retried: after ErrUnavailable or ErrOutcomeUnknown the delta may have been added.
func (c *Cache) Increment(ctx context.Context, key string, delta int64, o IncrementOptions) (Counter, error) {
	req := &cachev1.IncrementRequest{
		Namespace: c.namespace,
		Key:       key,
		Delta:     &delta,
		Initial:   o.Initial,
		TtlPolicy: o.TTLPolicy,
		Min:       o.Min,
		Max:       o.Max,
	}
	if o.Saturate {
		req.OnBound = cachev1.BoundPolicy_BOUND_POLICY_SATURATE
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return Counter{}, invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Increment(ctx, req)
	if err != nil {
		return Counter{}, err
	}
	return Counter{
		Outcome: Outcome(name(r.GetOutcome(), "INCREMENT_OUTCOME_")),
		Value:   r.GetValue(),
		TTL:     r.GetTtl().AsDuration(),
	}, nil
}
