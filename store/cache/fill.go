package cache

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// FillOutcome is what a [Cache.Fill] did.
type FillOutcome int64

// The outcomes of Fill, as the script numbers them.
const (
	// Filled means that the entry was written.
	Filled FillOutcome = 1
	// LeaseExpired means that the lease had expired; nothing was written.
	LeaseExpired FillOutcome = 0
	// Invalidated means that the lease was revoked, or that the loaded value was invalidated meanwhile; nothing was written.
	Invalidated FillOutcome = -1
	// Superseded means that another caller has written the key meanwhile; nothing was written.
	Superseded FillOutcome = -2
)

// Fill writes a value that was loaded under a lease, if the lease is still held and neither the key, its tags nor its
// namespace has changed since the lease was given. The entry is as of that time, so that an invalidation which Fill does not
// see yet applies to the entry when it is read. Fill returns the entry's etag; empty if nothing was written.
func (c *Cache) Fill(ctx context.Context, namespace, key, token string, w Write) (outcome FillOutcome, etag string, err error) {
	lease, ok := parseLease(token)
	if !ok {
		return Invalidated, "", nil
	}
	if err := c.checkKeyring(&w); err != nil {
		return Invalidated, "", err
	}
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	given := fromMicros(binary.BigEndian.Uint64([]byte(lease[leaseGiven:])))
	now := c.redis.Now()
	e, ttl := w.entry(given, now)
	e.LoadTime = now.Sub(given)
	v, err := c.validityOf(ctx, namespace, e, nil, true)
	if err != nil {
		return 0, "", err
	}
	invalidated := "0"
	if v != valid {
		invalidated = "1"
	}
	defer c.redis.Forget(redisKey, leaseKey)
	// WritesOnce: a repeated call would find that the first one has used up the lease.
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

// ReleaseLease gives a lease back and holds back new leases of the key for a time, at most [MaxLease]; 0 means not at all. It
// returns whether the lease was held.
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
