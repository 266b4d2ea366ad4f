package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// Found is what a read found. Entry is nil when there is nothing.
type Found struct {
	*Entry
	// Near says that the near cache answered.
	Near bool
	// Stale says that the entry was invalidated, or is too old for the caller, and may be served as stale until its hard
	// expiry.
	Stale bool
}

// Get reads an entry, from the near cache if near is set and it is there, else from the primary. Entries past their hard
// expiry or invalidated are not found.
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

// read returns what is stored, invalidated or not; nil means nothing. Where it asked Redis for the namespace's mark as
// well, cleared is that.
func (c *Cache) read(ctx context.Context, namespace, redisKey string) (e *Entry, hit bool, cleared *invalidation, err error) {
	if v, ok := c.redis.Near.Get(redisKey); ok {
		return v.(*Entry), true, nil, nil
	}
	return c.readThrough(ctx, namespace, redisKey, true)
}

// readThrough is read where the near cache was found to know nothing, or is not to be asked.
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
		e, m, err := c.fetch(ctx, redisKey, clearedKey, func(conns *redis.Conns) rueidis.Client { return conns.Tracked })
		if m != nil {
			cleared = m
			c.redis.Near.Put(clearedKey, ticket, *m, invalidationSize, near.Longest)
		}
		size, ttl := c.keep(e)
		return e, size, ttl, err
	})
	if err != nil {
		return nil, false, nil, err
	}
	return v.(*Entry), hit, cleared, nil
}

// found leaves out what has expired by now, as Redis removes it in its own time, and what has been invalidated.
func (c *Cache) found(ctx context.Context, namespace string, e *Entry, hit bool, cleared *invalidation, useNear bool) (Found, error) {
	if e == nil || !e.Hard.IsZero() && !c.redis.Now().Before(e.Hard) {
		return Found{Near: hit}, nil
	}
	state, err := c.judge(ctx, namespace, e, cleared, useNear)
	if err != nil || state == entryGone || state == entryStale && e.Negative {
		return Found{Near: hit}, err
	}
	return Found{Entry: e, Near: hit, Stale: state == entryStale}, nil
}

// entrySize and stringSize are about what an Entry and a string take beside their bytes.
const entrySize, stringSize = 160, 24

// keep returns the size of an entry and for how long the near cache may keep it. That there is none is kept, too.
func (c *Cache) keep(e *Entry) (size int, ttl time.Duration) {
	ttl = near.Longest
	if e == nil {
		return 0, ttl
	}
	if !e.Hard.IsZero() {
		ttl = min(ttl, e.Hard.Sub(c.redis.Now()))
	}
	// The value shares the memory of what was read; the labels are there and in strings of their own.
	size = entrySize + headerSize + cap(e.Value) + 2*len(e.ContentType)
	for _, tag := range e.Tags {
		size += 2*len(tag) + stringSize
	}
	return size, ttl
}

// fetch reads one entry over the chosen connection, and in the same round trip the mark at clearedKey unless that is empty;
// nil means that there is no entry.
func (c *Cache) fetch(ctx context.Context, redisKey, clearedKey string, choose func(*redis.Conns) rueidis.Client) (e *Entry, m *invalidation, err error) {
	commands := func(b rueidis.Builder) []rueidis.Completed {
		get := b.Get().Key(redisKey).Build()
		if clearedKey == "" {
			return []rueidis.Completed{get}
		}
		return []rueidis.Completed{get, b.Get().Key(clearedKey).Build()}
	}
	answers, err := redis.RoundTrip(ctx, c.redis, "get", redis.Reads, func(ctx context.Context, conns *redis.Conns) ([]rueidis.RedisResult, error) {
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
		m = &parsed
	}
	raw, err := answers[0].AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, m, nil
	}
	if err != nil {
		return nil, nil, redis.ErrInternal
	}
	e, plain, err := c.parseEntry(redisKey, raw)
	if err != nil || !plain {
		return e, m, err
	}
	// An entry of Larder's knows when it expires. Of a plain value only Redis does.
	left, err := redis.RoundTrip(ctx, c.redis, "pttl", redis.Reads, func(ctx context.Context, conns *redis.Conns) (int64, error) {
		client := choose(conns)
		return client.Do(ctx, client.B().Pttl().Key(redisKey).Build()).AsInt64()
	})
	if err != nil {
		return nil, m, err
	}
	return c.expiring(e, left), m, nil
}

// expiring returns a plain value with the expiry that PTTL told; nil if it has gone.
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
