package client

import (
	"context"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A TTLPolicy says when [Cache.Increment] sets the expiry of a counter. Empty means [TTLOnCreate].
type TTLPolicy string

// The policies of [Cache.Increment].
const (
	// TTLOnCreate sets the expiry when the counter is created and never changes it afterwards.
	TTLOnCreate TTLPolicy = "ON_CREATE"
	// TTLAlways sets the expiry at every increment, so that a counter in use never expires.
	TTLAlways TTLPolicy = "ALWAYS"
	// TTLKeep never sets an expiry. A counter that it creates never expires.
	TTLKeep TTLPolicy = "KEEP"
)

// IncrementOptions are the options of [Cache.Increment]. The zero value counts from 0, without bounds, and uses the
// server's default TTL, 1 h unless configured otherwise.
type IncrementOptions struct {
	// Initial is the value of an absent counter before the delta is added.
	Initial int64
	// TTL is how long the counter exists; the bounds are those of [SetOptions]. At most one of TTL, ExpireTime and Never
	// may be set, and none with [TTLKeep].
	TTL time.Duration
	// ExpireTime is when the counter expires: in the future, and at most the server's maximum TTL away.
	ExpireTime time.Time
	// Never keeps the counter until it is deleted or Redis evicts it.
	Never bool
	// TTLPolicy says when the expiry is set. Empty means [TTLOnCreate].
	TTLPolicy TTLPolicy
	// Min is the lowest value that the increment may produce; nil means no lower bound.
	Min *int64
	// Max is the highest value that the increment may produce; nil means no upper bound. It must not be below Min.
	Max *int64
	// Saturate sets the counter to the bound that the delta would cross, instead of rejecting the increment.
	Saturate bool
}

// An IncrementResult says what an increment did.
type IncrementResult struct {
	// Outcome is [Incremented], [Saturated] or [Rejected].
	Outcome Outcome
	// Value is the counter's value after the call, exact over all 64 bits. It is Initial if the increment was [Rejected]
	// and the counter does not exist.
	Value int64
	// TTL is the time until the counter expires. Zero means that it never expires or does not exist.
	TTL time.Duration
}

// Increment adds delta to a counter, and creates the counter if the key is absent. A delta of 0 reads the counter, and
// creates it too.
//
// A counter is a plain decimal integer in Redis. [ErrNotCounter] means that the key holds something else, and
// [ErrOverflow] that the sum would exceed 64 bits; both leave the key as it was. Increment is never retried: after
// [ErrUnavailable] or [ErrOutcomeUnknown] the delta may or may not have been added.
func (c *Cache) Increment(ctx context.Context, key string, delta int64, o IncrementOptions) (IncrementResult, error) {
	policy, err := number[cachev1.TtlPolicy]("ttl_policy", o.TTLPolicy, "TTL_POLICY_", cachev1.TtlPolicy_value)
	if err != nil {
		return IncrementResult{}, err
	}
	req := &cachev1.IncrementRequest{
		Namespace: c.namespace,
		Key:       key,
		Delta:     &delta,
		Initial:   o.Initial,
		TtlPolicy: policy,
		Min:       o.Min,
		Max:       o.Max,
	}
	if o.Saturate {
		req.OnBound = cachev1.BoundPolicy_BOUND_POLICY_SATURATE
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return IncrementResult{}, invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Increment(ctx, req)
	if err != nil {
		return IncrementResult{}, err
	}
	return IncrementResult{
		Outcome: Outcome(text(r.GetOutcome(), "INCREMENT_OUTCOME_")),
		Value:   r.GetValue(),
		TTL:     r.GetTtl().AsDuration(),
	}, nil
}
