package client

import (
	"context"
	"errors"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// Pending means that somebody else is loading the value, or that loads are held back after a failure of the origin.
const Pending Outcome = "PENDING"

// The outcomes of Fill beside Stored.
const (
	// LeaseExpired means that the lease's time was over and that nothing was written.
	LeaseExpired Outcome = "LEASE_EXPIRED"
	// Invalidated means that the key, one of its tags or the namespace was invalidated meanwhile; nothing was written.
	Invalidated Outcome = "INVALIDATED"
	// Superseded means that somebody else has written the key meanwhile; nothing was written.
	Superseded Outcome = "SUPERSEDED"
)

// ErrPending means that there is no value yet and that somebody else is loading it, or that the origin has failed.
var ErrPending = errors.New("larder: the value is being loaded by somebody else")

// LeaseOptions say how to read an entry that may have to be loaded.
type LeaseOptions struct {
	// LeaseTTL is how long a lease lasts, at most a minute; zero means 10 s. It should be longer than a load takes.
	LeaseTTL time.Duration
	// WaitTimeout is how long to wait for somebody else's load where there is nothing, at most 30 s; zero means not at all.
	WaitTimeout time.Duration
	// Beta says how eagerly a value is refreshed before it expires: 1 is usual, the larger the earlier; nil means 1, and
	// zero never.
	Beta *float64
	// MaxAge is the greatest age that counts as fresh; zero means any.
	MaxAge time.Duration
}

// A Lease is an entry, and the right to load a new value for it if Token is set.
type Lease struct {
	Entry
	// Token is what Fill and ReleaseLease take; empty means that the caller was not given the lease.
	Token string
	// LeaseTTL is how long the lease lasts.
	LeaseTTL time.Duration
	// RetryAfter is when to ask again where the Outcome is Pending.
	RetryAfter time.Duration
}

// GetOrLease reads an entry, and where there is none that is fresh gives one caller at a time the lease to load it. The
// outcome is Hit, Stale, Negative, Miss (which comes with the lease) or Pending. GetOrLoad does the rest as well.
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
	l.Key, l.Outcome = key, Outcome(name(r.GetOutcome(), "GET_OR_LEASE_OUTCOME_"))
	return l, nil
}

// Fill writes what was loaded under a lease. The outcome is Stored, LeaseExpired, Invalidated or Superseded. Conditions
// of the options are not heeded: the lease is the condition. The call is made once and never retried.
func (c *Cache) Fill(ctx context.Context, key, lease string, value []byte, o SetOptions) (Written, error) {
	req := &cachev1.FillRequest{
		Namespace:   c.namespace,
		Key:         key,
		LeaseToken:  lease,
		Value:       value,
		StaleTtl:    duration(o.StaleTTL),
		Negative:    o.Negative,
		Tags:        o.Tags,
		ContentType: o.ContentType,
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return Written{}, invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Fill(ctx, req, once)
	if err != nil {
		return Written{}, err
	}
	return Written{Key: key, Outcome: Outcome(name(r.GetOutcome(), "FILL_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// ReleaseLease gives a lease back without a value. After a failure of the origin, retryAfter, at most a minute, holds back
// new leases for so long; zero gives the next caller the lease at once.
func (c *Cache) ReleaseLease(ctx context.Context, key, lease string, retryAfter time.Duration) error {
	_, err := c.rpc.ReleaseLease(ctx, &cachev1.ReleaseLeaseRequest{
		Namespace: c.namespace, Key: key, LeaseToken: lease, RetryAfter: duration(retryAfter),
	})
	return err
}

// A Loaded value is what an origin returned.
type Loaded struct {
	// Value is the value; it must be empty where Options.Negative is set.
	Value []byte
	// Options say how to keep it. Tags known only now are welcome.
	Options SetOptions
}

// LoadOptions say how GetOrLoad reads and loads.
type LoadOptions struct {
	LeaseOptions
	// RetryAfter is for how long a failed load keeps everybody from trying again; zero means 1 s.
	RetryAfter time.Duration
}

// GetOrLoad returns the entry of a key, and loads it where there is none that is fresh, one caller at a time across the
// whole cluster: the others are given the stale value, or wait for the new one (WaitTimeout, 5 s unless set) and get
// ErrPending if that takes too long. What this caller has loaded is returned whether or not it could be kept. A refresh
// that fails leaves the old value in place and returns it; a load that fails where there is none returns its error.
func (c *Cache) GetOrLoad(ctx context.Context, key string, o LoadOptions, load func(ctx context.Context) (Loaded, error)) (Entry, error) {
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
		// Even where this caller is gone: the others are waiting.
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.ReleaseLease(releasing, key, l.Token, o.RetryAfter) // it ends by itself as well
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
		return Entry{}, err // the caller's mistake, which would go unnoticed
	}
	e.ETag = written.ETag
	return e, nil
}
