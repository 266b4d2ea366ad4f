package service

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// ttlPolicies maps the ttl policies of the API to those of the store.
var ttlPolicies = map[cachev1.TtlPolicy]cache.TTLPolicy{
	cachev1.TtlPolicy_TTL_POLICY_UNSPECIFIED: cache.TTLOnCreate,
	cachev1.TtlPolicy_TTL_POLICY_ON_CREATE:   cache.TTLOnCreate,
	cachev1.TtlPolicy_TTL_POLICY_ALWAYS:      cache.TTLAlways,
	cachev1.TtlPolicy_TTL_POLICY_KEEP:        cache.TTLKeep,
}

// Increment adds to a counter.
func (c *Cache) Increment(ctx context.Context, r *cachev1.IncrementRequest) (*cachev1.IncrementResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.IncrementRequest_Never)
	policy := ttlPolicies[enum(f, "ttl_policy", r.GetTtlPolicy(), cachev1.TtlPolicy_name)]
	onBound := enum(f, "on_bound", r.GetOnBound(), cachev1.BoundPolicy_name)
	inc := cache.Increment{
		Delta: 1, Initial: r.GetInitial(), TTL: f.fresh(r, neverSet), Policy: policy, Min: r.Min, Max: r.Max,
		Saturate: onBound == cachev1.BoundPolicy_BOUND_POLICY_SATURATE,
	}
	if r.Delta != nil {
		inc.Delta = r.GetDelta()
	}
	if policy == cache.TTLKeep && r.GetExpiry() != nil {
		f.add("ttl_policy", "must not be TTL_POLICY_KEEP if ttl, expire_time or never is set")
	}
	if inc.Min != nil && inc.Max != nil && *inc.Max < *inc.Min {
		f.add("max", "must not be below min")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	done, err := c.store.Cache.Increment(ctx, ns, key, inc)
	if err != nil {
		return nil, err
	}
	resp := &cachev1.IncrementResponse{Outcome: cachev1.IncrementOutcome(done.Outcome), Value: done.Value}
	if done.TTL >= 0 {
		resp.Ttl = durationpb.New(done.TTL)
	}
	return resp, nil
}
