package store

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
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
func (s *Store) Get(ctx context.Context, namespace, key string, useNear bool) (Found, error) {
	if useNear {
		var room [keyRoom]byte
		if v, ok := s.near.GetBytes(s.appendCacheKey(room[:0], namespace, key)); ok {
			return s.found(ctx, namespace, v.(*Entry), true, nil, true)
		}
	}
	e, hit, cleared, err := s.readThrough(ctx, namespace, s.cacheKey(namespace, key), useNear)
	if err != nil {
		return Found{}, err
	}
	return s.found(ctx, namespace, e, hit, cleared, useNear)
}

// read returns what is stored, invalidated or not; nil means nothing. Where it asked Redis for the namespace's mark as
// well, cleared is that.
func (s *Store) read(ctx context.Context, namespace, redisKey string) (e *Entry, hit bool, cleared *mark, err error) {
	if v, ok := s.near.Get(redisKey); ok {
		return v.(*Entry), true, nil, nil
	}
	return s.readThrough(ctx, namespace, redisKey, true)
}

// readThrough is read where the near cache was found to know nothing, or is not to be asked.
func (s *Store) readThrough(ctx context.Context, namespace, redisKey string, useNear bool) (e *Entry, hit bool, cleared *mark, err error) {
	if !useNear {
		e, cleared, err = s.fetch(ctx, redisKey, clearKey(namespace), func(c *clients) rueidis.Client { return c.primary })
		return e, false, cleared, err
	}
	v, hit, err := s.near.Load(ctx, redisKey, func() (any, int, time.Duration, error) {
		markKey := clearKey(namespace)
		var ticket near.Ticket
		if s.near.Has(markKey) {
			markKey = ""
		} else {
			ticket = s.near.Begin(markKey)
		}
		e, m, err := s.fetch(ctx, redisKey, markKey, func(c *clients) rueidis.Client { return c.tracked })
		if m != nil {
			cleared = m
			s.near.Put(markKey, ticket, *m, markSize, near.Longest)
		}
		size, ttl := s.keep(e)
		return e, size, ttl, err
	})
	if err != nil {
		return nil, false, nil, err
	}
	return v.(*Entry), hit, cleared, nil
}

// found leaves out what has expired by now, as Redis removes it in its own time, and what has been invalidated.
func (s *Store) found(ctx context.Context, namespace string, e *Entry, hit bool, cleared *mark, useNear bool) (Found, error) {
	if e == nil || !e.Hard.IsZero() && !s.Now().Before(e.Hard) {
		return Found{Near: hit}, nil
	}
	verdict, err := s.judge(ctx, namespace, e, cleared, useNear)
	if err != nil || verdict == entryGone || verdict == entryStale && e.Negative {
		return Found{Near: hit}, err
	}
	return Found{Entry: e, Near: hit, Stale: verdict == entryStale}, nil
}

// entrySize and stringSize are about what an Entry and a string take beside their bytes.
const entrySize, stringSize = 160, 24

// keep returns the size of an entry and for how long the near cache may keep it. That there is none is kept, too.
func (s *Store) keep(e *Entry) (size int, ttl time.Duration) {
	ttl = near.Longest
	if e == nil {
		return 0, ttl
	}
	if !e.Hard.IsZero() {
		ttl = min(ttl, e.Hard.Sub(s.Now()))
	}
	// The value shares the memory of what was read; the labels are there and in strings of their own.
	size = entrySize + headerSize + cap(e.Value) + 2*len(e.ContentType)
	for _, tag := range e.Tags {
		size += 2*len(tag) + stringSize
	}
	return size, ttl
}

// fetch reads one entry over the chosen connection, and in the same round trip the mark at markKey unless that is empty;
// nil means that there is no entry.
func (s *Store) fetch(ctx context.Context, redisKey, markKey string, choose func(*clients) rueidis.Client) (e *Entry, m *mark, err error) {
	commands := func(b rueidis.Builder) []rueidis.Completed {
		get := b.Get().Key(redisKey).Build()
		if markKey == "" {
			return []rueidis.Completed{get}
		}
		return []rueidis.Completed{get, b.Get().Key(markKey).Build()}
	}
	answers, err := trip(ctx, s, "get", reads, func(ctx context.Context, c *clients) ([]rueidis.RedisResult, error) {
		client := choose(c)
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
	if markKey != "" {
		parsed, err := parseMark(answers[1])
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
		return nil, nil, errInternal
	}
	e, plain, err := s.parseEntry(redisKey, raw)
	if err != nil || !plain {
		return e, m, err
	}
	// An entry of Larder's knows when it expires. Of a plain value only Redis does.
	left, err := trip(ctx, s, "pttl", reads, func(ctx context.Context, c *clients) (int64, error) {
		client := choose(c)
		return client.Do(ctx, client.B().Pttl().Key(redisKey).Build()).AsInt64()
	})
	if err != nil {
		return nil, m, err
	}
	return s.expiring(e, left), m, nil
}

// expiring returns a plain value with the expiry that PTTL told; nil if it has gone.
func (s *Store) expiring(e *Entry, pttl int64) *Entry {
	switch {
	case pttl == -2:
		return nil
	case pttl >= 0:
		e.Hard = s.Now().Add(time.Duration(pttl) * time.Millisecond)
		e.Soft = e.Hard
	}
	return e
}

func (s *Store) parseEntry(redisKey string, raw []byte) (e *Entry, plain bool, err error) {
	entry, plain, err := s.decode(redisKey, raw)
	if err != nil {
		return nil, false, err
	}
	return &entry, plain, nil
}
