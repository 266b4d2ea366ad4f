package store

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// BatchFound is what a batch read found under one key, or why it could not be read.
type BatchFound struct {
	Found
	Err error
}

// BatchGet reads entries one by one, in one round trip for each shard. Results are in the order of keys.
func (s *Store) BatchGet(ctx context.Context, namespace string, keys []string, near bool) ([]BatchFound, error) {
	results := make([]BatchFound, len(keys))
	redisKeys := make([]string, len(keys))
	missing := make([]int, 0, len(keys))
	tickets := make([]nearTicket, len(keys))
	for i, key := range keys {
		redisKeys[i] = s.cacheKey(namespace, key)
		if near {
			if v, ok := s.near.get(redisKeys[i]); ok {
				results[i].Found = s.found(v.(*Entry), true)
				continue
			}
			tickets[i] = s.near.begin(redisKeys[i])
		}
		missing = append(missing, i)
	}
	if len(missing) == 0 {
		return results, nil
	}
	var plain []int
	err := s.batch(ctx, "get", reads, near, missing, func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Get().Key(redisKeys[i]).Build()
	}, func(i int, r rueidis.RedisResult) error {
		raw, err := r.AsBytes()
		if rueidis.IsRedisNil(err) {
			return nil
		}
		if err != nil {
			return err
		}
		e, isPlain, err := parseEntry(raw)
		if isPlain {
			plain = append(plain, i)
		}
		results[i].Entry = e
		return err
	}, func(i int, err error) { results[i].Err = err })
	if err != nil {
		return nil, err
	}
	if len(plain) > 0 {
		err = s.batch(ctx, "pttl", reads, near, plain, func(b rueidis.Builder, i int) rueidis.Completed {
			return b.Pttl().Key(redisKeys[i]).Build()
		}, func(i int, r rueidis.RedisResult) error {
			left, err := r.AsInt64()
			if err == nil {
				results[i].Entry = s.expiring(results[i].Entry, left)
			}
			return err
		}, func(i int, err error) { results[i] = BatchFound{Err: err} })
		if err != nil {
			return nil, err
		}
	}
	for _, i := range missing {
		if r := &results[i]; r.Err == nil {
			if near {
				size, ttl := s.keep(r.Entry)
				s.near.put(redisKeys[i], tickets[i], r.Entry, size, ttl)
			}
			r.Found = s.found(r.Entry, false)
		}
	}
	return results, nil
}

// batch sends one command for each index in one round trip and hands each answer to read. An error of one command goes
// to fail, with its index, unless every command failed of the same cause, which makes the whole batch fail.
func (s *Store) batch(ctx context.Context, name string, eff effect, near bool, indexes []int,
	build func(rueidis.Builder, int) rueidis.Completed, read func(int, rueidis.RedisResult) error, fail func(int, error),
) error {
	results, err := trip(ctx, s, name, eff, func(ctx context.Context, c *clients) ([]rueidis.RedisResult, error) {
		client := c.primary
		if near {
			client = c.tracked
		}
		commands := make([]rueidis.Completed, len(indexes))
		for n, i := range indexes {
			commands[n] = build(client.B(), i)
		}
		return client.DoMulti(ctx, commands...), nil
	})
	if err != nil {
		return err
	}
	var first error
	failed := 0
	for n, r := range results {
		err := read(indexes[n], r)
		if err == nil {
			continue
		}
		failed++
		err = classify(ctx, err, eff)
		if first == nil {
			first = err
		}
		fail(indexes[n], err)
	}
	if ctxErr := ctx.Err(); ctxErr != nil && failed > 0 {
		return ctxErr
	}
	if failed == len(indexes) && Retryable(first) {
		return first
	}
	return nil
}

// BatchWrite is one entry of a batch.
type BatchWrite struct {
	Key string
	Write
}

// BatchStored is what became of one entry of a batch.
type BatchStored struct {
	// ETag is that of the entry; empty if Err is set.
	ETag string
	Err  error
}

// BatchSet writes entries one by one, in one round trip for each shard. Results are in the order of items.
func (s *Store) BatchSet(ctx context.Context, namespace string, items []BatchWrite) ([]BatchStored, error) {
	results := make([]BatchStored, len(items))
	redisKeys := make([]string, len(items))
	for i := range items {
		redisKeys[i] = s.cacheKey(namespace, items[i].Key)
	}
	defer s.near.forget(redisKeys...)
	now := s.Now()
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(now)
		results[i].ETag = entries[i].ETag.String()
	}
	err := s.batch(ctx, "set", writes, false, all(len(items)), func(b rueidis.Builder, i int) rueidis.Completed {
		return setCommand(b, redisKeys[i], entries[i], ttls[i])
	}, func(_ int, r rueidis.RedisResult) error {
		return r.Error()
	}, func(i int, err error) { results[i] = BatchStored{Err: err} })
	if err != nil {
		return nil, err
	}
	return results, nil
}

// BatchDeleted is what became of one key of a batch.
type BatchDeleted struct {
	// Deleted says that there was an entry.
	Deleted bool
	Err     error
}

// BatchDelete removes entries one by one, in one round trip for each shard. Results are in the order of keys.
func (s *Store) BatchDelete(ctx context.Context, namespace string, keys []string) ([]BatchDeleted, error) {
	results := make([]BatchDeleted, len(keys))
	redisKeys := make([]string, len(keys))
	for i, key := range keys {
		redisKeys[i] = s.cacheKey(namespace, key)
	}
	defer s.near.forget(redisKeys...)
	err := s.batch(ctx, "unlink", writes, false, all(len(keys)), func(b rueidis.Builder, i int) rueidis.Completed {
		return b.Unlink().Key(redisKeys[i]).Build()
	}, func(i int, r rueidis.RedisResult) error {
		n, err := r.AsInt64()
		results[i].Deleted = n > 0
		return err
	}, func(i int, err error) { results[i] = BatchDeleted{Err: err} })
	if err != nil {
		return nil, err
	}
	return results, nil
}

func all(n int) []int {
	indexes := make([]int, n)
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}
