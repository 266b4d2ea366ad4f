package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// Found is the result of reading one key.
type Found struct {
	// Entry is nil if the key holds nothing.
	*Entry
	// Near says that the near cache answered.
	Near bool
	// Stale says that the entry was invalidated, or is older than the caller allows. It may be served as stale until
	// Entry.Hard.
	Stale bool
}

// Get reads an entry: from the near cache if useNear is set and the near cache holds the entry, else from the primary. It
// finds nothing if the entry is past its hard expiry or was invalidated with [InvalidateDelete].
func (c *Cache) Get(ctx context.Context, namespace, key string, useNear bool) (Found, error) {
	if useNear {
		var room [redis.KeyRoom]byte
		if v, ok := c.redis.Near.GetBytes(c.appendEntryKey(room[:0], namespace, key)); ok {
			return c.found(ctx, namespace, v.(*Entry), true, nil, true)
		}
	}
	e, hit, cleared, err := c.readThrough(ctx, namespace, c.entryKey(namespace, key), useNear)
	if err != nil {
		return Found{}, err
	}
	return c.found(ctx, namespace, e, hit, cleared, useNear)
}

// read returns the stored entry without regard to its validity; nil means nothing. Hit says that the near cache answered.
// Cleared is the invalidation of the namespace if read has asked Redis for it in the same round trip, else nil.
func (c *Cache) read(ctx context.Context, namespace, redisKey string) (e *Entry, hit bool, cleared *invalidation, err error) {
	if v, ok := c.redis.Near.Get(redisKey); ok {
		return v.(*Entry), true, nil, nil
	}
	return c.readThrough(ctx, namespace, redisKey, true)
}

// readThrough is read without asking the near cache first: useNear says whether the near cache keeps the answer.
func (c *Cache) readThrough(ctx context.Context, namespace, redisKey string, useNear bool) (e *Entry, hit bool, cleared *invalidation, err error) {
	if !useNear {
		e, cleared, err = c.fetch(ctx, redisKey, clearKey(namespace), func(conns *redis.Conns) rueidis.Client { return conns.Primary })
		return e, false, cleared, err
	}
	v, hit, err := c.redis.Near.Load(ctx, redisKey, func() (any, int, time.Duration, error) {
		clearedKey := clearKey(namespace)
		var ticket near.Ticket
		if c.redis.Near.Has(clearedKey) {
			clearedKey = ""
		} else {
			ticket = c.redis.Near.Begin(clearedKey)
		}
		e, read, err := c.fetch(ctx, redisKey, clearedKey, func(conns *redis.Conns) rueidis.Client { return conns.Tracked })
		if read != nil {
			cleared = read
			c.redis.Near.Put(clearedKey, ticket, *read, invalidationSize, near.Longest)
		}
		size, ttl := c.keep(e)
		return e, size, ttl, err
	})
	if err != nil {
		return nil, false, nil, err
	}
	return v.(*Entry), hit, cleared, nil
}

// found returns the result of a read: nothing if the entry has expired, which Redis may notice later, or is gone. Cleared is
// as in validityOf.
func (c *Cache) found(ctx context.Context, namespace string, e *Entry, hit bool, cleared *invalidation, useNear bool) (Found, error) {
	if e == nil || !e.Hard.IsZero() && !c.redis.Now().Before(e.Hard) {
		return Found{Near: hit}, nil
	}
	v, err := c.validityOf(ctx, namespace, e, cleared, useNear)
	if err != nil || v == gone || v == stale && e.Negative {
		return Found{Near: hit}, err
	}
	return Found{Entry: e, Near: hit, Stale: v == stale}, nil
}

// entrySize and stringSize are the approximate sizes in bytes of an Entry and a string, without the bytes they refer to.
const entrySize, stringSize = 160, 24

// keep returns the size of an entry in the near cache and how long it may be kept there. A nil entry, the absence of one, is
// kept as well.
func (c *Cache) keep(e *Entry) (size int, ttl time.Duration) {
	ttl = near.Longest
	if e == nil {
		return 0, ttl
	}
	if !e.Hard.IsZero() {
		ttl = min(ttl, e.Hard.Sub(c.redis.Now()))
	}
	// The value shares the memory of the answer. The labels are both in the answer and in strings of their own.
	size = entrySize + headerSize + cap(e.Value) + 2*len(e.ContentType)
	for _, tag := range e.Tags {
		size += 2*len(tag) + stringSize
	}
	return size, ttl
}

// fetch reads one entry over the chosen connection, and in the same round trip the invalidation at clearedKey unless that is
// empty; a nil entry means nothing.
func (c *Cache) fetch(ctx context.Context, redisKey, clearedKey string, choose func(*redis.Conns) rueidis.Client) (e *Entry, cleared *invalidation, err error) {
	commands := func(b rueidis.Builder) []rueidis.Completed {
		get := b.Get().Key(redisKey).Build()
		if clearedKey == "" {
			return []rueidis.Completed{get}
		}
		return []rueidis.Completed{get, b.Get().Key(clearedKey).Build()}
	}
	answers, err := redis.RoundTripTo(ctx, c.redis, redisKey, "get", redis.Reads, func(ctx context.Context, conns *redis.Conns) ([]rueidis.RedisResult, error) {
		client := choose(conns)
		results := client.DoMulti(ctx, commands(client.B())...)
		for _, r := range results {
			if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
				return nil, err
			}
		}
		return results, nil
	})
	if err != nil {
		return nil, nil, err
	}
	if clearedKey != "" {
		parsed, err := parseInvalidation(answers[1])
		if err != nil {
			return nil, nil, err
		}
		cleared = &parsed
	}
	raw, err := answers[0].AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, cleared, nil
	}
	if err != nil {
		return nil, nil, redis.ErrInternal
	}
	e, plain, err := c.parseEntry(redisKey, raw)
	if err != nil || !plain {
		return e, cleared, err
	}
	// The header of an entry holds its expiry. The expiry of a plain value is known to Redis alone.
	left, err := redis.RoundTripTo(ctx, c.redis, redisKey, "pttl", redis.Reads, func(ctx context.Context, conns *redis.Conns) (int64, error) {
		client := choose(conns)
		return client.Do(ctx, client.B().Pttl().Key(redisKey).Build()).AsInt64()
	})
	if err != nil {
		return nil, cleared, err
	}
	return c.expiring(e, left), cleared, nil
}

// expiring returns a plain value with the expiry that PTTL returned; nil if the value has expired meanwhile.
func (c *Cache) expiring(e *Entry, pttl int64) *Entry {
	switch {
	case pttl == -2:
		return nil
	case pttl >= 0:
		e.Hard = c.redis.Now().Add(time.Duration(pttl) * time.Millisecond)
		e.Soft = e.Hard
	}
	return e
}

func (c *Cache) parseEntry(redisKey string, raw []byte) (e *Entry, plain bool, err error) {
	entry, plain, err := c.decode(redisKey, raw)
	if err != nil {
		return nil, false, err
	}
	return &entry, plain, nil
}
