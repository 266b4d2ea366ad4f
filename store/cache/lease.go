package cache

import (
	"context"
	"encoding/base64"
	"math"
	mathrand "math/rand/v2"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// MaxLease is the maximum duration of a lease, and the maximum time for which ReleaseLease holds back new leases.
const MaxLease = time.Minute

// The layout of a lease in Redis: random bytes, the times at which it was given and at which it ends, and the etag that the key
// held then, empty for nothing. The lease token is the lease in base64url.
const (
	leaseRandom = 16
	leaseGiven  = leaseRandom
	leaseEnds   = leaseGiven + 8
	leaseSeen   = leaseEnds + 8
)

// ValidLease reports whether token has the form of a lease token.
func ValidLease(token string) bool {
	_, ok := parseLease(token)
	return ok
}

// parseLease returns the lease of a token.
func parseLease(token string) (lease string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	return string(b), err == nil && (len(b) == leaseSeen || len(b) == leaseSeen+16)
}

// LeaseOptions configures a [Cache.GetOrLease].
type LeaseOptions struct {
	// TTL is the duration of the lease, at most [MaxLease].
	TTL time.Duration
	// Wait is the maximum time to wait for another caller's load; 0 means not to wait.
	Wait time.Duration
	// Beta is how eagerly a value is refreshed before it expires; 0 means never.
	Beta float64
	// MaxAge is the maximum age of a fresh entry; 0 means unlimited.
	MaxAge time.Duration
	// Primary reads from the primary instead of the near cache.
	Primary bool
	// FreshOnly treats a stale entry as absent.
	FreshOnly bool
}

// Leased is the result of a [Cache.GetOrLease].
type Leased struct {
	Found
	// Fresh says that the entry is neither stale nor older than MaxAge.
	Fresh bool
	// Token is the lease token; empty if the caller was given no lease.
	Token string
	// LeaseTTL is the duration of the lease.
	LeaseTTL time.Duration
	// RetryAfter is when to ask again if there is neither an entry nor a lease.
	RetryAfter time.Duration
}

// GetOrLease reads an entry. If there is no fresh one it requests the lease to load it, which one caller at a time holds
// across all replicas. A caller that is given neither a lease nor a stale entry waits until the key changes, of which Redis
// tells, or the lease ends, for at most [LeaseOptions.Wait].
func (c *Cache) GetOrLease(ctx context.Context, namespace, key string, o LeaseOptions) (l Leased, err error) {
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	until := time.Now().Add(o.Wait)
	var changed <-chan struct{}
	done := func() {}
	defer func() { done() }()
	for {
		e, hit, cleared, err := c.readForLease(ctx, namespace, redisKey, o.Primary, changed != nil)
		if err != nil {
			return l, err
		}
		if l.Found, err = c.found(ctx, namespace, e, hit, cleared, !o.Primary); err != nil {
			return l, err
		}
		now := c.redis.Now()
		l.Fresh = l.Entry != nil && l.fresh(now, o.MaxAge)
		if l.Entry != nil && !l.Fresh {
			// An entry that is too old counts as stale. A negative entry has no value to serve as stale.
			if l.Stale = true; l.Negative {
				l.Found = Found{Near: l.Near}
			}
		}
		if l.Fresh && !l.refreshEarly(now, o.Beta) {
			return l, nil
		}
		if o.FreshOnly && !l.Fresh {
			l.Entry = nil
		}
		held, err := c.leaseHeld(ctx, leaseKey, changed != nil)
		if err == nil && held <= 0 {
			held, err = c.requestLease(ctx, redisKey, leaseKey, e, o.TTL, &l)
		}
		switch {
		case l.Token != "" || l.Entry != nil && ctx.Err() == nil && (err != nil || held > 0):
			return l, nil // an entry is returned even if the request for the lease failed
		case err != nil:
			return l, err
		case held <= 0: // the key has changed since it was read
			continue
		}
		l.RetryAfter = held
		left := time.Until(until)
		if left <= 0 {
			return l, nil
		}
		if changed == nil {
			// From here on every change is told. The next pass finds a change from before.
			changed, done = c.redis.Wait(redisKey, leaseKey)
			continue
		}
		end, ok := redis.BeginWait(ctx)
		if !ok {
			return l, nil // too many wait already, and the caller is told when to ask again
		}
		wait := time.NewTimer(min(left, held+time.Millisecond))
		select {
		case <-changed:
		case <-wait.C:
			c.redis.Near.Forget(leaseKey) // the lease has expired, which Redis may not have noticed yet
		case <-ctx.Done():
		}
		wait.Stop()
		end()
		if err := ctx.Err(); err != nil {
			return l, err
		}
	}
}

// readForLease is read, or with primary readThrough without the near cache. A caller that waits at the primary reads over the
// tracked connection, so that Redis tells of changes, and keeps nothing.
func (c *Cache) readForLease(ctx context.Context, namespace, redisKey string, primary, waits bool) (e *Entry, hit bool, cleared *invalidation, err error) {
	switch {
	case !primary:
		return c.read(ctx, namespace, redisKey)
	case !waits:
		return c.readThrough(ctx, namespace, redisKey, false)
	}
	e, cleared, err = c.fetch(ctx, redisKey, clearKey(namespace), func(conns *redis.Conns) rueidis.Client { return conns.Tracked })
	return e, false, cleared, err
}

// fresh reports whether an entry is neither stale nor older than maxAge.
func (f *Found) fresh(now time.Time, maxAge time.Duration) bool {
	return !f.Stale && (f.Soft.IsZero() || now.Before(f.Soft)) && (maxAge <= 0 || f.AsOf.IsZero() || now.Sub(f.AsOf) <= maxAge)
}

// refreshEarly decides at random whether to refresh a fresh entry, with a probability that grows as the expiry comes nearer
// and with the load time of the entry: XFetch of Vattani, Chierichetti and Lowenstein, Optimal Probabilistic Cache Stampede
// Prevention, VLDB 2015.
func (f *Found) refreshEarly(now time.Time, beta float64) bool {
	if beta <= 0 || f.LoadTime <= 0 || f.Soft.IsZero() {
		return false
	}
	ahead := float64(f.LoadTime) * beta * -math.Log(1-mathrand.Float64()) //nolint:gosec // spreads load, guards nothing
	return ahead >= float64(f.Soft.Sub(now))
}

// leaseHeld returns the remaining time of the lease that another caller holds, from the near cache or, if ask is set, from
// Redis; 0 means that nobody holds it or that it is unknown. After asking, Redis tells when the lease ends.
func (c *Cache) leaseHeld(ctx context.Context, leaseKey string, ask bool) (time.Duration, error) {
	v, ok := c.redis.Near.Get(leaseKey)
	if !ok && ask {
		var err error
		v, _, err = c.redis.Near.Load(ctx, leaseKey, func() (any, int, time.Duration, error) {
			left, err := redis.RoundTripTo(ctx, c.redis, leaseKey, "pttl", redis.Reads, func(ctx context.Context, conns *redis.Conns) (int64, error) {
				return conns.Tracked.Do(ctx, conns.Tracked.B().Pttl().Key(leaseKey).Build()).AsInt64()
			})
			return time.Now().Add(time.Duration(left) * time.Millisecond), 24, near.Longest, err
		})
		if err != nil {
			return 0, err
		}
	}
	expires, _ := v.(time.Time)
	return max(time.Until(expires), 0), nil
}
