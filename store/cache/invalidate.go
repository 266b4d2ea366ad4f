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

// InvalidateTags makes every entry with one of the tags gone or stale. Its cost does not depend on the number of entries. Redis
// keeps the invalidation for as long as an entry with tags can live, twice [Options.MaxTTL] of the replica that allows most.
//
// The invalidation reaches every entry whose write or load has begun before the call, and none whose write or load begins
// after it, through whichever replica. For that the call returns only once every replica's estimate of the time of Redis has
// passed the time of the invalidation: a few milliseconds later than Redis answers.
func (c *Cache) InvalidateTags(ctx context.Context, namespace string, tags []string, mode InvalidationMode) error {
	keys := make([]string, len(tags))
	for i, t := range tags {
		keys[i] = tagKey(namespace, t)
	}
	for {
		memory := c.tagMemory.longest()
		at, err := c.invalidate(ctx, keys, mode, memory)
		c.redis.Forget(keys...)
		if err != nil {
			return err
		}
		if c.tagMemory.longest() <= memory {
			return c.redis.WaitPast(ctx, time.UnixMicro(at))
		}
		// Another replica allows entries to live for longer, which was not known yet.
	}
}

// invalidate records the invalidation of tags, learns for how long it must be kept, and returns its time.
func (c *Cache) invalidate(ctx context.Context, keys []string, mode InvalidationMode, memory time.Duration) (at int64, err error) {
	var failed error
	latest := c.latest(ctx)
	err = c.redis.RunScripts(ctx, redis.Items(len(keys)+1), redis.ScriptBatch{
		Script: invalidateScript, Effect: redis.Writes,
		Call: func(i int) (scriptKeys, args []string) {
			return keys[i : i+1], []string{string(mode), redis.Millis(memory), latest}
		},
		Command: func(b rueidis.Builder, i int) (rueidis.Completed, bool) {
			if i < len(keys) {
				return rueidis.Completed{}, false
			}
			return b.Get().Key(tagMemoryKey).Build(), true
		},
		Read: func(i int, r rueidis.RedisResult) error {
			if i < len(keys) {
				t, err := r.AsInt64()
				at = max(at, t)
				return err
			}
			text, err := r.ToString()
			if err == nil {
				c.tagMemory.learn(parseMemory(text))
			}
			return nil // while it cannot be read, what this process knows has to do
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err == nil {
		err = failed
	}
	return at, err
}

// latest returns the time of an invalidation as an argument of invalidate.lua: one that no entry is as of yet.
func (c *Cache) latest(ctx context.Context) string {
	return strconv.FormatInt(c.redis.Latest(ctx).UnixMicro()+1, 10)
}

// ClearNamespace makes every entry of a namespace gone or stale. Its cost does not depend on the number of entries. It reaches
// the same entries as an invalidation by [Cache.InvalidateTags], and returns as late.
func (c *Cache) ClearNamespace(ctx context.Context, namespace string, mode InvalidationMode) error {
	key := clearKey(namespace)
	// Kept without expiry: some entries never expire, and there is one invalidation for each namespace.
	m, err := c.redis.Run(ctx, invalidateScript, redis.Writes, []string{key}, string(mode), "0", c.latest(ctx))
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

// nearInvalidation returns the latest invalidation of a namespace and of tags, as far as the near cache knows, which holds all
// of them afterwards. Unread are the keys of those that were near-cached, so that the ones in Redis may be later.
func (c *Cache) nearInvalidation(ctx context.Context, namespace string, tags []string) (latest invalidation, unread []string, err error) {
	keys := append(make([]string, 0, 1+len(tags)), clearKey(namespace))
	for _, t := range tags {
		keys = append(keys, tagKey(namespace, t))
	}
	var missing []string
	for _, key := range keys {
		if v, ok := c.redis.Near.Get(key); ok {
			latest = latest.or(v.(invalidation))
			unread = append(unread, key)
		} else {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		found, err := c.readInvalidations(ctx, missing, true)
		if err != nil {
			return latest, nil, err
		}
		for _, inv := range found {
			latest = latest.or(inv)
		}
	}
	return latest, unread, nil
}

// readInvalidations reads the invalidations at Redis keys in one round trip for each shard. With useNear it keeps them in
// the near cache, which it does not ask.
func (c *Cache) readInvalidations(ctx context.Context, keys []string, useNear bool) ([]invalidation, error) {
	found, errs, err := c.readEachInvalidation(ctx, keys, useNear)
	for i := 0; i < len(errs) && err == nil; i++ {
		err = errs[i]
	}
	return found, err
}

// readEachInvalidation is readInvalidations with an error for each key that could not be read; err means that none could.
func (c *Cache) readEachInvalidation(ctx context.Context, keys []string, useNear bool) (found []invalidation, errs []error, err error) {
	found, errs = make([]invalidation, len(keys)), make([]error, len(keys))
	tickets := make([]near.Ticket, len(keys))
	if useNear {
		for i, key := range keys {
			tickets[i] = c.redis.Near.Begin(key)
		}
	}
	err = c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: "get", Effect: redis.Reads, Tracked: useNear,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Get().Key(keys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) (err error) {
			if found[i], err = parseInvalidation(r); err == nil && useNear {
				c.redis.Near.Put(keys[i], tickets[i], found[i], invalidationSize, near.Longest)
			}
			return err
		},
		Fail: func(i int, err error) { errs[i] = err },
	})
	return found, errs, err
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
