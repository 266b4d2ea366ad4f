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
	// Invalidated means that the lease was revoked, or that the loaded value was invalidated meanwhile; no valid entry was written.
	Invalidated FillOutcome = -1
	// Superseded means that another caller has written the key meanwhile; nothing was written.
	Superseded FillOutcome = -2
)

// Fill writes a value that was loaded under a lease, if the lease is still held and neither the key, its tags nor its
// namespace has changed since the lease was given. The entry is as of that time, so that a later invalidation applies to it when
// it is read. Fill returns the entry's etag; empty if the outcome is not Filled. It fails with [ErrFenced] if a later holder of
// the lock of its fence has written.
func (c *Cache) Fill(ctx context.Context, namespace, key, token string, w Write) (outcome FillOutcome, etag string, err error) {
	lease, ok := parseLease(token)
	if !ok {
		return Invalidated, "", nil
	}
	if err := c.checkKeyring(&w); err != nil {
		return Invalidated, "", err
	}
	if len(w.Tags) > 0 {
		if err := c.raiseTagMemory(ctx); err != nil {
			return Invalidated, "", err
		}
	}
	redisKey, leaseKey := c.entryKey(namespace, key), c.leaseKey(namespace, key)
	given := fromMicros(binary.BigEndian.Uint64([]byte(lease[leaseGiven:])))
	now := c.redis.Now()
	e, ttl := w.entry(given, now)
	e.LoadTime = now.Sub(given)
	known, unread, err := c.nearInvalidation(ctx, namespace, w.Tags)
	if err != nil {
		return 0, "", err
	}
	invalidated := "0"
	if compare(e, known) != valid {
		invalidated = "1"
	}
	defer c.redis.Forget(redisKey, leaseKey)
	// WritesOnce: a repeated call would find that the first one has used up the lease.
	var found []invalidation
	n, err := c.underFence(ctx, namespace, w.Fence, func(fence []string) (int64, error) {
		keys := []string{redisKey, leaseKey}
		if w.Fence != nil {
			keys = append(keys, c.fencesKey(namespace, key))
		}
		args := append([]string{lease, rueidis.BinaryString(c.encode(redisKey, e)), redis.Millis(ttl), invalidated}, fence...)
		m, inv, err := c.runBeside(ctx, fillScript, redis.WritesOnce, keys, args, unread)
		if err != nil {
			return 0, err
		}
		found = inv
		return m.AsInt64()
	})
	if err != nil {
		return 0, "", err
	}
	for _, inv := range found {
		known = known.or(inv)
	}
	outcome = FillOutcome(n)
	if outcome == Filled && compare(e, known) != valid {
		return Invalidated, "", nil // whoever reads the entry sees that it is invalidated
	}
	if outcome == Filled {
		etag = e.ETag.String()
	}
	return outcome, etag, nil
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
