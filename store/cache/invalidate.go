package cache

import (
	"context"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// An invalidation records when a tag or a namespace was invalidated in each mode, in microseconds of Redis TIME: entries as
// of deleted or earlier are gone, those as of stale or earlier are stale. 0 means never.
type invalidation struct{ deleted, stale int64 }

// invalidationSize is the length of an invalidation in Redis, in bytes, and about its size in the near cache.
const invalidationSize = 16

// InvalidationMode says what becomes of invalidated entries.
type InvalidationMode string

// The modes of invalidation.
const (
	// InvalidateDelete makes entries gone.
	InvalidateDelete InvalidationMode = "delete"
	// InvalidateStale makes entries stale until their hard expiry.
	InvalidateStale InvalidationMode = "stale"
)

// InvalidateTags makes every entry with one of the tags gone or stale. Its cost does not depend on the number of entries.
// Memory is how long Redis keeps the invalidation: at least as long as an entry with tags can live.
//
// The invalidation reaches every entry whose write or load has begun before the call, and none whose write or load begins
// after it, through whichever replica. For that the call returns only once every replica's estimate of the time of Redis has
// passed the time of the invalidation: a few milliseconds later than Redis answers.
func (c *Cache) InvalidateTags(ctx context.Context, namespace string, tags []string, mode InvalidationMode, memory time.Duration) error {
	keys := make([]string, len(tags))
	for i, t := range tags {
		keys[i] = tagKey(namespace, t)
	}
	var failed error
	var latest int64
	err := c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: invalidateScript.Name(), Effect: redis.Writes,
		Command: func(b rueidis.Builder, i int) rueidis.Completed {
			return b.Eval().Script(invalidateScript.Text()).Numkeys(1).Key(keys[i]).Arg(string(mode), redis.Millis(memory), c.latest()).Build()
		},
		Read: func(_ int, r rueidis.RedisResult) error {
			at, err := r.AsInt64()
			latest = max(latest, at)
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	c.redis.Forget(keys...)
	if err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	return c.redis.WaitPast(ctx, time.UnixMicro(latest))
}

// latest returns the time of an invalidation as an argument of invalidate.lua: one that no entry is as of yet.
func (c *Cache) latest() string { return strconv.FormatInt(c.redis.Latest().UnixMicro()+1, 10) }

// ClearNamespace makes every entry of a namespace gone or stale. Its cost does not depend on the number of entries. It reaches
// the same entries as an invalidation by [Cache.InvalidateTags], and returns as late.
func (c *Cache) ClearNamespace(ctx context.Context, namespace string, mode InvalidationMode) error {
	key := clearKey(namespace)
	// Kept without expiry: some entries never expire, and there is one invalidation for each namespace.
	m, err := c.redis.Run(ctx, invalidateScript, redis.Writes, []string{key}, string(mode), "0", c.latest())
	c.redis.Forget(key)
	if err != nil {
		return err
	}
	at, err := m.AsInt64()
	if err != nil {
		return redis.ErrInternal
	}
	return c.redis.WaitPast(ctx, time.UnixMicro(at))
}

// or returns the later time of each mode.
func (inv invalidation) or(other invalidation) invalidation {
	return invalidation{max(inv.deleted, other.deleted), max(inv.stale, other.stale)}
}

// namespaceInvalidation returns the invalidation of a namespace, from the near cache if it is there.
func (c *Cache) namespaceInvalidation(ctx context.Context, namespace string) (invalidation, error) {
	key := clearKey(namespace)
	if v, ok := c.redis.Near.Get(key); ok {
		return v.(invalidation), nil
	}
	found, err := c.readInvalidations(ctx, []string{key}, true)
	return found[0], err
}

// readInvalidations reads the invalidations at Redis keys in one round trip for each shard. With useNear it keeps them in
// the near cache, which it does not ask.
func (c *Cache) readInvalidations(ctx context.Context, keys []string, useNear bool) ([]invalidation, error) {
	found := make([]invalidation, len(keys))
	tickets := make([]near.Ticket, len(keys))
	if useNear {
		for i, key := range keys {
			tickets[i] = c.redis.Near.Begin(key)
		}
	}
	var failed error
	err := c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: "get", Effect: redis.Reads, Tracked: useNear,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Get().Key(keys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) (err error) {
			if found[i], err = parseInvalidation(r); err == nil && useNear {
				c.redis.Near.Put(keys[i], tickets[i], found[i], invalidationSize, near.Longest)
			}
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err == nil {
		err = failed
	}
	return found, err
}

// parseInvalidation reads the answer of GET to the key of an invalidation; an absent key means never.
func parseInvalidation(r rueidis.RedisResult) (inv invalidation, err error) {
	raw, err := r.AsBytes()
	if rueidis.IsRedisNil(err) {
		return inv, nil
	}
	if err != nil {
		return inv, err
	}
	if len(raw) != invalidationSize {
		return inv, redis.Fail(redis.ErrCorrupt, nil)
	}
	return invalidation{int64(binary.BigEndian.Uint64(raw)), int64(binary.BigEndian.Uint64(raw[8:]))}, nil //nolint:gosec // microseconds
}
