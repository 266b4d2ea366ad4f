package cache

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// MaxLease is the longest that a lease lasts and that leases are held back.
const MaxLease = time.Minute

// A lease in Redis: random bytes, when it was given and for how long, and the etag of what was there, empty for nothing.
const (
	leaseRandom   = 16
	leaseGiven    = leaseRandom
	leaseDuration = leaseGiven + 8
	leaseSeen     = leaseDuration + 8
)

// LeaseOptions say what a GetOrLease wants.
type LeaseOptions struct {
	// TTL is how long a lease lasts, at most MaxLease.
	TTL time.Duration
	// Wait is how long to wait for somebody else's load where there is nothing.
	Wait time.Duration
	// Beta says how eagerly a value is refreshed before it expires; 0 means never.
	Beta float64
	// MaxAge is the greatest age that counts as fresh; 0 means any.
	MaxAge time.Duration
	// Primary reads from the primary, and never from the near cache.
	Primary bool
	// FreshOnly treats what is stale or too old as if there were nothing.
	FreshOnly bool
}

// Leased is what a GetOrLease found, and the lease if it was given one.
type Leased struct {
	Found
	// Fresh says that the entry is neither stale nor too old.
	Fresh bool
	// Token is the lease; empty for none. LeaseTTL is how long it lasts.
	Token    string
	LeaseTTL time.Duration
	// RetryAfter is when to ask again, where there is neither an entry nor a lease.
	RetryAfter time.Duration
}

// GetOrLease reads an entry. Where there is none that is fresh it asks for the lease to load it, which one caller at a
// time has, across all replicas. Who does not get it and has no stale value waits for the new one, woken by Redis.
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
			// Too old is stale, too, and a negative entry has no value that could be served so.
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
			held, err = c.lease(ctx, redisKey, leaseKey, e, o.TTL, &l)
		}
		switch {
		case l.Token != "" || l.Entry != nil && ctx.Err() == nil && (err != nil || held > 0):
			return l, nil // a value is of use also where the lease could not be asked for
		case err != nil:
			return l, err
		case held <= 0: // something else is there by now
			continue
		}
		l.RetryAfter = held
		left := time.Until(until)
		if left <= 0 {
			return l, nil
		}
		if changed == nil {
			// From here on nothing is missed: what changed before is found by looking once more.
			changed, done = c.redis.Wait(redisKey, leaseKey)
			continue
		}
		wait := time.NewTimer(min(left, held+time.Millisecond))
		select {
		case <-changed:
		case <-wait.C:
			c.redis.Near.Forget(leaseKey) // it has expired, and Redis may not have noticed yet
		case <-ctx.Done():
		}
		wait.Stop()
		if err := ctx.Err(); err != nil {
			return l, err
		}
	}
}

// readForLease reads as read does. Who waits at the primary reads over the connection on which Redis tells what changes,
// and keeps nothing.
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

func (f *Found) fresh(now time.Time, maxAge time.Duration) bool {
	return !f.Stale && (f.Soft.IsZero() || now.Before(f.Soft)) && (maxAge <= 0 || f.AsOf.IsZero() || now.Sub(f.AsOf) <= maxAge)
}

// refreshEarly decides by chance, the likelier the nearer the expiry and the longer the last load took: XFetch of
// Vattani, Chierichetti and Lowenstein, Optimal Probabilistic Cache Stampede Prevention, VLDB 2015.
func (f *Found) refreshEarly(now time.Time, beta float64) bool {
	if beta <= 0 || f.LoadTime <= 0 || f.Soft.IsZero() {
		return false
	}
	ahead := float64(f.LoadTime) * beta * -math.Log(1-mathrand.Float64()) //nolint:gosec // spreads load, guards nothing
	return ahead >= float64(f.Soft.Sub(now))
}

// leaseHeld returns for how long somebody has the lease yet, as far as the near cache knows, or if ask is set Redis; 0
// means that nobody has it or that it is not known. Asking makes Redis push the end of the lease.
func (c *Cache) leaseHeld(ctx context.Context, leaseKey string, ask bool) (time.Duration, error) {
	v, ok := c.redis.Near.Get(leaseKey)
	if !ok && ask {
		var err error
		v, _, err = c.redis.Near.Load(ctx, leaseKey, func() (any, int, time.Duration, error) {
			left, err := redis.RoundTrip(ctx, c.redis, "pttl", redis.Reads, func(ctx context.Context, conns *redis.Conns) (int64, error) {
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

// leasing shares one request for a lease among the callers of this process that want the same.
type leasing struct {
	mu   sync.Mutex
	busy map[string]*leaseRequest
}

type leaseRequest struct {
	done chan struct{}
	held time.Duration
	err  error
}

// lease asks for the lease and puts it into l. Else it returns for how long somebody else has it yet; 0 means that e is no
// longer what is stored.
func (c *Cache) lease(ctx context.Context, redisKey, leaseKey string, e *Entry, ttl time.Duration, l *Leased) (held time.Duration, err error) {
	c.leasing.mu.Lock()
	if r := c.leasing.busy[leaseKey]; r != nil {
		c.leasing.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if r.err != nil && ctx.Err() == nil {
			return 0, nil // it may have failed for a reason of its own
		}
		return r.held, ctx.Err()
	}
	r := &leaseRequest{done: make(chan struct{}), err: redis.ErrUnavailable} // the error stands in a panic
	if c.leasing.busy == nil {
		c.leasing.busy = make(map[string]*leaseRequest)
	}
	c.leasing.busy[leaseKey] = r
	c.leasing.mu.Unlock()
	defer func() {
		c.leasing.mu.Lock()
		delete(c.leasing.busy, leaseKey)
		c.leasing.mu.Unlock()
		close(r.done)
	}()

	var random [leaseRandom]byte
	_, _ = rand.Read(random[:])
	seen := ""
	if e != nil {
		seen = e.ETag.String()
	}
	m, err := c.redis.Run(ctx, leaseScript, redis.WritesOnce, []string{redisKey, leaseKey}, seen, string(random[:]), redis.Millis(ttl))
	if r.err = err; err != nil {
		return 0, err
	}
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return 0, redis.ErrInternal
	}
	outcome, err1 := parts[0].AsInt64()
	text, err2 := parts[1].ToString()
	if err1 != nil || err2 != nil {
		return 0, redis.ErrInternal
	}
	switch outcome {
	case 1:
		c.redis.Forget(leaseKey)
		l.Token, l.LeaseTTL = base64.RawURLEncoding.EncodeToString([]byte(text)), ttl
		r.held = ttl
	case 0:
		left, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, redis.ErrInternal
		}
		r.held = max(time.Duration(left)*time.Millisecond, time.Millisecond)
	default:
		c.redis.Near.Forget(redisKey)
	}
	return r.held, nil
}

// FillOutcome is what became of a fill.
type FillOutcome int64

// The outcomes of Fill, as the script numbers them.
const (
	// Filled means that the entry was written.
	Filled FillOutcome = 1
	// LeaseExpired means that the lease's time was over.
	LeaseExpired FillOutcome = 0
	// Invalidated means that the lease was revoked, or that what was loaded was invalidated meanwhile.
	Invalidated FillOutcome = -1
	// Superseded means that somebody has written the key meanwhile.
	Superseded FillOutcome = -2
)

// ValidLease reports whether token has the form of a lease.
func ValidLease(token string) bool {
	_, ok := parseLease(token)
	return ok
}

func parseLease(token string) (lease string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	return string(b), err == nil && (len(b) == leaseSeen || len(b) == leaseSeen+16)
}

// Fill writes what was loaded under a lease, if the lease is still held and nothing has happened to the key, its tags or
// its namespace since it was given. What is written is as of that time: an invalidation that this does not see yet reaches
// it when it is read.
func (c *Cache) Fill(ctx context.Context, namespace, key, token string, w Write) (outcome FillOutcome, etag string, err error) {
	lease, ok := parseLease(token)
	if !ok {
		return Invalidated, "", nil
	}
	if err := c.sealable(&w); err != nil {
		return Invalidated, "", err
	}
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	given := fromMicros(binary.BigEndian.Uint64([]byte(lease[leaseGiven:])))
	now := c.redis.Now()
	e, ttl := w.entry(given, now)
	e.LoadTime = now.Sub(given)
	state, err := c.judge(ctx, namespace, e, nil, true)
	if err != nil {
		return 0, "", err
	}
	invalidated := "0"
	if state != entryValid {
		invalidated = "1"
	}
	defer c.redis.Forget(redisKey, leaseKey)
	// A second try would find the lease used up by the first.
	m, err := c.redis.Run(ctx, fillScript, redis.WritesOnce, []string{redisKey, leaseKey},
		lease, rueidis.BinaryString(c.encode(redisKey, e)), redis.Millis(ttl), invalidated)
	if err != nil {
		return 0, "", err
	}
	n, err := m.AsInt64()
	if outcome = FillOutcome(n); outcome == Filled {
		etag = e.ETag.String()
	}
	return outcome, etag, err
}

// ReleaseLease gives a lease back, holding back new ones for so long, and returns whether it was held.
func (c *Cache) ReleaseLease(ctx context.Context, namespace, key, token string, holdBack time.Duration) (released bool, err error) {
	lease, ok := parseLease(token)
	if !ok {
		return false, nil
	}
	leaseKey := c.leaseKey(namespace, key)
	defer c.redis.Forget(leaseKey)
	m, err := c.redis.Run(ctx, releaseScript, redis.Writes, []string{leaseKey}, lease, redis.Millis(holdBack))
	if err != nil {
		return false, err
	}
	n, err := m.AsInt64()
	return n == 1, err
}
