package cache

import (
	"cmp"
	"context"
	"slices"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// BatchFound is the result of reading one key of a batch.
type BatchFound struct {
	Found
	// Err is why the key could not be read; nil if it was.
	Err error
}

// BatchGetEach reads entries as [Cache.BatchGet] does, about 1 MiB and at most 128 at a time, and calls use with the results of
// each portion and the index of its first key. It stops once use returns false: what it has read in vain by then is little more
// than a portion.
func (c *Cache) BatchGetEach(ctx context.Context, namespace string, keys []string, useNear bool, use func(first int, found []BatchFound) (more bool)) error {
	for first := 0; first < len(keys); {
		next := min(first+c.sizes.portion(namespace), len(keys))
		found, err := c.BatchGet(ctx, namespace, keys[first:next], useNear)
		if err != nil || !use(first, found) {
			return err
		}
		first = next
	}
	return nil
}

// BatchGet reads entries in one round trip for each shard, and in another one the invalidations that the near cache does not
// hold. The batch is not atomic. Results are in the order of keys.
func (c *Cache) BatchGet(ctx context.Context, namespace string, keys []string, useNear bool) ([]BatchFound, error) {
	results := make([]BatchFound, len(keys))
	hits := make([]bool, len(keys))
	var redisKeys []string // of the keys that are missing
	var tickets []near.Ticket
	var missing []int
	var room [redis.KeyRoom]byte
	for i, key := range keys {
		if useNear {
			if v, ok := c.redis.Near.GetBytes(c.appendEntryKey(room[:0], namespace, key)); ok {
				results[i].Entry, hits[i] = v.(*Entry), true
				continue
			}
		}
		if missing == nil {
			redisKeys, tickets, missing = make([]string, len(keys)), make([]near.Ticket, len(keys)), make([]int, 0, len(keys)-i)
		}
		redisKeys[i] = c.entryKey(namespace, key)
		if useNear {
			tickets[i] = c.redis.Near.Begin(redisKeys[i])
		}
		missing = append(missing, i)
	}
	if err := c.batchRead(ctx, namespace, redisKeys, missing, useNear, results); err != nil {
		return nil, err
	}
	if useNear {
		for _, i := range missing {
			if results[i].Err == nil {
				size, ttl := c.keep(results[i].Entry)
				c.redis.Near.Put(redisKeys[i], tickets[i], results[i].Entry, size, ttl)
			}
		}
	}
	known, unknown, err := c.batchInvalidations(ctx, namespace, results, useNear)
	if err != nil {
		return nil, err
	}
	now, cleared := c.redis.Now(), known[clearKey(namespace)]
	for i := range results {
		e := results[i].Entry
		results[i].Found = Found{Near: hits[i]}
		if e == nil || !e.Hard.IsZero() && !now.Before(e.Hard) {
			continue
		}
		v := valid
		if !e.AsOf.IsZero() {
			latest, failed := cleared, unknown[clearKey(namespace)]
			for _, t := range e.Tags {
				key := tagKey(namespace, t)
				latest, failed = latest.or(known[key]), cmp.Or(failed, unknown[key])
			}
			if failed != nil { // the others do not depend on it
				results[i] = BatchFound{Err: failed}
				continue
			}
			v = compare(e, latest)
		}
		if v == valid || v == stale && !e.Negative {
			results[i].Entry, results[i].Stale = e, v == stale
		}
	}
	return results, nil
}

// batchRead reads the missing entries, given by their indexes, into results.
func (c *Cache) batchRead(ctx context.Context, namespace string, redisKeys []string, missing []int, useNear bool, results []BatchFound) error {
	var plain []int
	values, bytes := 0, 0 // read
	err := c.redis.RunBatch(ctx, missing, redis.Batch{
		Name: "get", Effect: redis.Reads, Tracked: useNear, Bulk: true,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Get().Key(redisKeys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) error {
			raw, err := r.AsBytes()
			if rueidis.IsRedisNil(err) {
				return nil
			}
			if err != nil {
				return err
			}
			values, bytes = values+1, bytes+len(raw)
			e, isPlain, err := c.parseEntry(redisKeys[i], raw)
			if isPlain {
				plain = append(plain, i)
			}
			results[i].Entry = e
			return err
		},
		Fail: func(i int, err error) { results[i].Err = err },
	})
	if err != nil {
		return err
	}
	c.sizes.learn(namespace, values, bytes)
	return c.redis.RunBatch(ctx, plain, redis.Batch{
		Name: "pttl", Effect: redis.Reads, Tracked: useNear,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Pttl().Key(redisKeys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) error {
			left, err := r.AsInt64()
			if err == nil {
				results[i].Entry = c.expiring(results[i].Entry, left)
			}
			return err
		},
		Fail: func(i int, err error) { results[i] = BatchFound{Err: err} },
	})
}

// batchInvalidations returns the invalidations that the validity of the entries depends on, by Redis key, and why some of them
// could not be read. Err means that there is no entry whose validity is known.
func (c *Cache) batchInvalidations(ctx context.Context, namespace string, results []BatchFound, useNear bool) (known map[string]invalidation, unknown map[string]error, err error) {
	known, unknown = make(map[string]invalidation), make(map[string]error)
	var missing []string
	look := func(key string) {
		if _, ok := known[key]; ok {
			return
		}
		known[key] = invalidation{}
		if useNear {
			if v, ok := c.redis.Near.Get(key); ok {
				known[key] = v.(invalidation)
				return
			}
		}
		missing = append(missing, key)
	}
	lookedAtClear := false
	for i := range results {
		r := &results[i]
		if r.Entry == nil || r.AsOf.IsZero() {
			continue
		}
		if !lookedAtClear {
			lookedAtClear = true
			look(clearKey(namespace))
		}
		for _, t := range r.Tags {
			look(tagKey(namespace, t))
		}
	}
	if len(missing) == 0 {
		return known, unknown, nil
	}
	found, errs, err := c.readEachInvalidation(ctx, missing, useNear)
	for i, key := range missing {
		if known[key] = found[i]; err != nil {
			unknown[key] = err
		} else if errs[i] != nil {
			unknown[key] = errs[i]
		}
	}
	if ctxErr := ctx.Err(); ctxErr != nil && err != nil {
		return nil, nil, ctxErr
	}
	if err != nil && !dependsOnOthers(namespace, results, unknown) {
		return nil, nil, err
	}
	return known, unknown, nil
}

// dependsOnOthers reports whether the validity of an entry is known although some invalidations are not.
func dependsOnOthers(namespace string, results []BatchFound, unknown map[string]error) bool {
	return slices.ContainsFunc(results, func(r BatchFound) bool {
		return r.Entry != nil && (r.AsOf.IsZero() || unknown[clearKey(namespace)] == nil &&
			!slices.ContainsFunc(r.Tags, func(t string) bool { return unknown[tagKey(namespace, t)] != nil }))
	})
}
