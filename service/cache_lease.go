package service

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// The limits of leases, which no setting changes.
const (
	defaultLease = 10 * time.Second
	maxWait      = 30 * time.Second
	maxBeta      = 100
)

// GetOrLease reads one entry, or grants the lease to load it.
func (c *Cache) GetOrLease(ctx context.Context, r *cachev1.GetOrLeaseRequest) (*cachev1.GetOrLeaseResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	o := cache.LeaseOptions{TTL: defaultLease, Beta: 1, Primary: !f.rules.Cache.NearCache, FreshOnly: !f.rules.Cache.AllowStale}
	if r.GetLeaseTtl() != nil {
		o.TTL = f.duration("lease_ttl", r.GetLeaseTtl(), 1, cache.MaxLease)
	}
	if r.GetWaitTimeout() != nil {
		o.Wait = f.duration("wait_timeout", r.GetWaitTimeout(), 0, maxWait)
	}
	if r.Beta != nil {
		if o.Beta = r.GetBeta(); !(o.Beta >= 0 && o.Beta <= maxBeta) { // NaN is neither
			f.add("beta", "must be between 0 and %d", maxBeta)
		}
	}
	if r.GetMaxAge() != nil {
		o.MaxAge = f.exactDuration("max_age", r.GetMaxAge(), 1, time.Duration(1<<63-1))
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	l, err := c.store.Cache.GetOrLease(ctx, ns, key, o)
	if err != nil {
		return nil, err
	}
	v := view(l.Found, c.store.Redis.Now(), new(entryTimes))
	resp := &cachev1.GetOrLeaseResponse{
		Value: v.value, Etag: v.etag, Ttl: v.ttl, StaleTtl: v.staleTTL, Age: v.age,
		Source: v.source, ContentType: v.contentType, Tags: v.tags, LeaseToken: l.Token,
	}
	switch {
	case l.Entry != nil && l.Fresh && l.Negative:
		resp.Outcome = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_NEGATIVE
	case l.Entry != nil && l.Fresh:
		resp.Outcome = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_HIT
	case l.Entry != nil:
		resp.Outcome = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_STALE
	case l.Token != "":
		resp.Outcome = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_MISS
	default:
		resp.Outcome = cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_PENDING
		resp.RetryAfter = durationpb.New(l.RetryAfter)
	}
	if l.Token != "" {
		resp.LeaseTtl = durationpb.New(l.LeaseTTL)
	}
	read := cachev1.ReadOutcome(resp.Outcome) // same numbers, except for PENDING
	if resp.Outcome == cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_PENDING {
		read = cachev1.ReadOutcome_READ_OUTCOME_PENDING
	}
	c.reads.of(ns).add(read, l.Near)
	return resp, nil
}

// lease checks a lease token.
func (f *fields) lease(token string) string {
	if !cache.ValidLease(token) {
		f.add("lease_token", "must be a lease token returned by GetOrLease")
	}
	return token
}

// fillOutcomes maps the outcomes of the store to those of the API.
var fillOutcomes = map[cache.FillOutcome]cachev1.FillOutcome{
	cache.Filled:       cachev1.FillOutcome_FILL_OUTCOME_STORED,
	cache.LeaseExpired: cachev1.FillOutcome_FILL_OUTCOME_LEASE_EXPIRED,
	cache.Invalidated:  cachev1.FillOutcome_FILL_OUTCOME_INVALIDATED,
	cache.Superseded:   cachev1.FillOutcome_FILL_OUTCOME_SUPERSEDED,
}

// Fill writes a value that was loaded under a lease.
func (c *Cache) Fill(ctx context.Context, r *cachev1.FillRequest) (*cachev1.FillResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	lease := f.lease(r.GetLeaseToken())
	_, neverSet := r.GetExpiry().(*cachev1.FillRequest_Never)
	w := f.write(r, neverSet)
	w.Fence = f.fence(r.GetFence())
	if err := f.err(); err != nil {
		return nil, err
	}
	outcome, etag, err := c.store.Cache.Fill(ctx, ns, key, lease, w)
	if errors.Is(err, cache.ErrFenced) {
		return &cachev1.FillResponse{Outcome: cachev1.FillOutcome_FILL_OUTCOME_FENCED}, nil
	}
	if err != nil {
		return nil, err
	}
	return &cachev1.FillResponse{Outcome: fillOutcomes[outcome], Etag: etag}, nil
}

// ReleaseLease gives a lease back without writing a value.
func (c *Cache) ReleaseLease(ctx context.Context, r *cachev1.ReleaseLeaseRequest) (*cachev1.ReleaseLeaseResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	lease := f.lease(r.GetLeaseToken())
	var holdBack time.Duration
	if r.GetRetryAfter() != nil {
		holdBack = f.duration("retry_after", r.GetRetryAfter(), 1, cache.MaxLease)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	released, err := c.store.Cache.ReleaseLease(ctx, ns, key, lease, holdBack)
	if err != nil {
		return nil, err
	}
	outcome := cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_NOT_HELD
	if released {
		outcome = cachev1.ReleaseLeaseOutcome_RELEASE_LEASE_OUTCOME_RELEASED
	}
	return &cachev1.ReleaseLeaseResponse{Outcome: outcome}, nil
}
