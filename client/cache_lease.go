package client

import (
	"context"
	"errors"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// ErrPending is the error of [Cache.GetOrLoad] if the key has no value yet and this caller did not get the lease to load
// it: another caller is loading it, or leases are held back after a failed load.
var ErrPending = errors.New("larder: another caller is loading the value, or its load has failed")

// LeaseOptions are the options of [Cache.GetOrLease].
type LeaseOptions struct {
	// LeaseTTL is how long a lease lasts, at most 1 min; it should be longer than a load takes. Zero means 10 s.
	LeaseTTL time.Duration
	// WaitTimeout is how long the server lets this call wait for another caller's load if the key has no value, at most
	// 30 s. Zero means that [Cache.GetOrLease] does not wait and that [Cache.GetOrLoad] waits for up to 5 s. The wait
	// counts toward the deadline of the call, which is [Options].Timeout if ctx has none.
	WaitTimeout time.Duration
	// Beta says how eagerly the server grants a lease to refresh a value before it expires, 0 to 100: the larger, the
	// earlier; 0 means never and nil means 1. It is the beta of XFetch (Vattani, Chierichetti, Lowenstein: Optimal
	// Probabilistic Cache Stampede Prevention, VLDB 2015).
	Beta *float64
	// MaxAge is the highest age that counts as fresh; an older value is [Stale]. Zero means no limit.
	MaxAge time.Duration
}

// A Lease is what [Cache.GetOrLease] found, and the exclusive right to load a new value if Token is set.
type Lease struct {
	Entry
	// Token identifies the lease to [Cache.Fill] and [Cache.ReleaseLease]. Empty means that the caller has no lease.
	Token string
	// LeaseTTL is how long the lease lasts; zero without one.
	LeaseTTL time.Duration
	// RetryAfter is when to ask again if the Outcome is [Pending]; zero otherwise.
	RetryAfter time.Duration
}

// GetOrLease reads an entry. If the key has no fresh value it grants one caller at a time, across all replicas, a lease
// to load one. The outcome is [Hit], [Stale], [Negative], [Miss] (always with a lease) or [Pending] (never with one).
//
// The holder of a lease loads the value and calls [Cache.Fill], or [Cache.ReleaseLease] if the load failed.
// [Cache.GetOrLoad] does all of that.
func (c *Cache) GetOrLease(ctx context.Context, key string, o LeaseOptions) (Lease, error) {
	r, err := c.rpc.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{
		Namespace:   c.namespace,
		Key:         key,
		LeaseTtl:    duration(o.LeaseTTL),
		WaitTimeout: duration(o.WaitTimeout),
		Beta:        o.Beta,
		MaxAge:      duration(o.MaxAge),
	})
	if err != nil {
		return Lease{}, err
	}
	l := Lease{
		Entry: entry(r), Token: r.GetLeaseToken(), LeaseTTL: r.GetLeaseTtl().AsDuration(), RetryAfter: r.GetRetryAfter().AsDuration(),
	}
	l.Key, l.Outcome = key, Outcome(text(r.GetOutcome(), "GET_OR_LEASE_OUTCOME_"))
	return l, nil
}

// Fill writes the value that the holder of a lease has loaded, and ends the lease. The outcome is [Stored],
// [LeaseExpired], [Invalidated], [Superseded] or [Fenced]; all but the first wrote nothing. The conditions of the options are ignored
// because the lease is the condition. Fill is never retried.
func (c *Cache) Fill(ctx context.Context, key, lease string, value []byte, o SetOptions) (WriteResult, error) {
	req := &cachev1.FillRequest{
		Namespace:   c.namespace,
		Key:         key,
		LeaseToken:  lease,
		Value:       value,
		StaleTtl:    duration(o.StaleTTL),
		Negative:    o.Negative,
		Tags:        o.Tags,
		ContentType: o.ContentType,
		Fence:       o.Fence.message(),
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return WriteResult{}, invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Fill(ctx, req, withoutRetry)
	if err != nil {
		return WriteResult{}, err
	}
	return WriteResult{Key: key, Outcome: Outcome(text(r.GetOutcome(), "FILL_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// ReleaseLease ends a lease without a value, as after a failed load. The server grants no new lease for the key until
// retryAfter has passed, at most 1 min; zero means that the next caller gets one at once. A lease that has ended already
// is not an error.
func (c *Cache) ReleaseLease(ctx context.Context, key, lease string, retryAfter time.Duration) error {
	_, err := c.rpc.ReleaseLease(ctx, &cachev1.ReleaseLeaseRequest{
		Namespace: c.namespace, Key: key, LeaseToken: lease, RetryAfter: duration(retryAfter),
	})
	return err
}

// A LoadResult is what the load function of [Cache.GetOrLoad] returns.
type LoadResult struct {
	// Value is the value of the key at its origin. It must be empty if Options.Negative is set.
	Value []byte
	// Options say how to store the value. Its conditions are ignored.
	Options SetOptions
}

// LoadOptions are the options of [Cache.GetOrLoad].
type LoadOptions struct {
	LeaseOptions
	// RetryAfter is for how long no caller gets a lease for the key after a failed load, at most 1 min. Zero means 1 s.
	RetryAfter time.Duration
}

// GetOrLoad returns the entry of a key. If the key has no fresh value it calls load and stores what load returns, with
// one caller loading at a time across all replicas. Other callers get the stale value if the key has one; otherwise they
// wait for the load, for up to WaitTimeout, and then get [ErrPending]. The outcome is [Hit], [Stale] or [Negative].
//
// The loaded value is returned even if it could not be stored, and then without an etag. If load fails, GetOrLoad
// returns the stale value if the key has one and the error of load otherwise.
//
// If Larder cannot be reached, or fails in any other way before it has answered the read, GetOrLoad returns the
// [*Error], such as [ErrUnavailable], and does not call load: the caller decides whether its origin can take the load of
// all callers at once. An error of the store after load is reported only if it is [ErrInvalid].
func (c *Cache) GetOrLoad(ctx context.Context, key string, o LoadOptions, load func(ctx context.Context) (LoadResult, error)) (Entry, error) {
	if o.WaitTimeout == 0 {
		o.WaitTimeout = 5 * time.Second
	}
	if o.RetryAfter == 0 {
		o.RetryAfter = time.Second
	}
	l, err := c.GetOrLease(ctx, key, o.LeaseOptions)
	switch {
	case err != nil:
		return Entry{}, err
	case l.Token == "" && l.Outcome == Pending:
		return l.Entry, ErrPending
	case l.Token == "":
		return l.Entry, nil
	}
	loaded, err := load(ctx)
	if err != nil {
		// The other callers wait for the lease to end, even if this caller's context has.
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.ReleaseLease(releasing, key, l.Token, o.RetryAfter) // without it the lease expires
		if l.Found() {
			return l.Entry, nil
		}
		return Entry{}, err
	}
	e := Entry{Key: key, Outcome: Hit, Value: loaded.Value, ContentType: loaded.Options.ContentType}
	if loaded.Options.Negative {
		e.Outcome = Negative
	}
	written, err := c.Fill(ctx, key, l.Token, loaded.Value, loaded.Options)
	if errors.Is(err, ErrInvalid) {
		return Entry{}, err // a mistake in the options would go unnoticed otherwise
	}
	e.ETag = written.ETag
	return e, nil
}
