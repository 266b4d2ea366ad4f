package cache

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// Increment is a change of a counter, which [Cache.Increment] makes.
type Increment struct {
	// Delta is added to the counter.
	Delta int64
	// Initial is the value of an absent counter, to which Delta is added.
	Initial int64
	// TTL is the time to live that Policy applies; 0 means that the counter never expires.
	TTL time.Duration
	// Policy says when TTL is applied.
	Policy TTLPolicy
	// Min and Max bound the sum; nil means no bound.
	Min, Max *int64
	// Saturate sets the counter to the bound that the sum would cross; otherwise such an increment changes nothing.
	Saturate bool
}

// TTLPolicy says when an increment sets the counter's expiry.
type TTLPolicy string

// The policies.
const (
	// TTLOnCreate sets the expiry when the counter is created.
	TTLOnCreate TTLPolicy = "create"
	// TTLAlways sets the expiry with every increment that is not rejected.
	TTLAlways TTLPolicy = "always"
	// TTLKeep never sets the expiry.
	TTLKeep TTLPolicy = "keep"
)

// Incremented is the result of an increment.
type Incremented struct {
	// Outcome says what was done.
	Outcome IncrementOutcome
	// Value is the value of the counter after the increment.
	Value int64
	// TTL is the remaining time to live; negative means that the counter never expires or does not exist.
	TTL time.Duration
}

// IncrementOutcome says what an increment did.
type IncrementOutcome int64

// The outcomes, as the script numbers them.
const (
	// Added means that Delta was added.
	Added IncrementOutcome = 1
	// Saturated means that the counter was set to a bound.
	Saturated IncrementOutcome = 2
	// Rejected means that the sum would have crossed a bound and nothing was written.
	Rejected IncrementOutcome = 3
)

// Increment adds to a counter. It fails with [redis.ErrNotCounter] if the key holds anything else, and with
// [redis.ErrOverflow] if the sum does not fit 64 bits.
func (c *Cache) Increment(ctx context.Context, namespace, key string, inc Increment) (r Incremented, err error) {
	redisKey := c.entryKey(namespace, key)
	defer c.redis.Forget(redisKey)
	bound := "reject"
	if inc.Saturate {
		bound = "saturate"
	}
	increment := func() (onEntry, error) {
		return c.runOnEntry(ctx, incrementScript, redis.WritesOnce, namespace, []string{redisKey, c.leaseKey(namespace, key)},
			decimal(&inc.Delta), decimal(&inc.Initial), redis.Millis(inc.TTL), string(inc.Policy),
			decimal(inc.Min), decimal(inc.Max), bound)
	}
	a, err := increment()
	if errors.Is(err, redis.ErrNotCounter) {
		// Perhaps an entry whose namespace has been cleared: the near cache may not have heard of it yet.
		c.redis.Near.Forget(clearKey(namespace))
		a, err = increment()
	}
	if err != nil {
		return r, err
	}
	if len(a.rest) != 1 {
		return r, redis.ErrInternal
	}
	pttl, err1 := a.rest[0].AsInt64()
	value, err2 := strconv.ParseInt(a.text, 10, 64)
	if err1 != nil || err2 != nil {
		return r, redis.ErrInternal
	}
	return Incremented{IncrementOutcome(a.outcome), value, time.Duration(pttl) * time.Millisecond}, nil
}

// decimal formats a number as an argument of a script; nil becomes the empty string.
func decimal(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}
