package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
)

// BatchFound is what a batch read found under one key, or why it could not be read.
type BatchFound struct {
	Found
	Err error
}

// batchPortion is how many entries are read at a time: only as many values are in memory at once, whatever the size of a
// batch.
const batchPortion = 128

// BatchGetEach reads entries as BatchGet does, a portion at a time, and hands over what it found, first being the number
// of the portion's first key. It stops when use wants no more.
func (c *Cache) BatchGetEach(ctx context.Context, namespace string, keys []string, useNear bool, use func(first int, found []BatchFound) (more bool)) error {
	for first := 0; first < len(keys); first += batchPortion {
		found, err := c.BatchGet(ctx, namespace, keys[first:min(first+batchPortion, len(keys))], useNear)
		if err != nil || !use(first, found) {
			return err
		}
	}
	return nil
}

// BatchGet reads entries one by one, in one round trip for each shard, and another where they depend on marks that the
// near cache does not know. Results are in the order of keys.
func (c *Cache) BatchGet(ctx context.Context, namespace string, keys []string, useNear bool) ([]BatchFound, error) {
	results := make([]BatchFound, len(keys))
	hits := make([]bool, len(keys))
	var redisKeys []string // of those that are missing
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
	if err := c.batchRead(ctx, redisKeys, missing, useNear, results); err != nil {
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
	known, err := c.batchInvalidations(ctx, namespace, results, useNear)
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
		state := entryValid
		if !e.AsOf.IsZero() {
			worst := cleared
			for _, t := range e.Tags {
				worst = worst.or(known[tagKey(namespace, t)])
			}
			state = c.compare(e, worst)
		}
		if state == entryValid || state == entryStale && !e.Negative {
			results[i].Entry, results[i].Stale = e, state == entryStale
		}
	}
	return results, nil
}

// batchRead reads the entries with the given indexes into results.
func (c *Cache) batchRead(ctx context.Context, redisKeys []string, missing []int, useNear bool, results []BatchFound) error {
	var plain []int
	err := c.redis.RunBatch(ctx, missing, redis.Batch{
		Name: "get", Effect: redis.Reads, Tracked: useNear,
		Command: func(b rueidis.Builder, i int) rueidis.Completed { return b.Get().Key(redisKeys[i]).Build() },
		Read: func(i int, r rueidis.RedisResult) error {
			raw, err := r.AsBytes()
			if rueidis.IsRedisNil(err) {
				return nil
			}
			if err != nil {
				return err
			}
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

// batchInvalidations returns the marks that entries depend on, by their keys.
func (c *Cache) batchInvalidations(ctx context.Context, namespace string, results []BatchFound, useNear bool) (map[string]invalidation, error) {
	known := make(map[string]invalidation)
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
		return known, nil
	}
	marks, err := c.readInvalidations(ctx, missing, useNear)
	for i, key := range missing {
		known[key] = marks[i]
	}
	return known, err
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
func (c *Cache) BatchSet(ctx context.Context, namespace string, items []BatchWrite) ([]BatchStored, error) {
	results := make([]BatchStored, len(items))
	redisKeys := make([]string, len(items))
	var steps []int
	for i := range items {
		if err := c.sealable(&items[i].Write); err != nil {
			return nil, err
		}
		redisKeys[i] = c.entryKey(namespace, items[i].Key)
		if revokes(items[i].Fresh + items[i].Stale) {
			steps = append(steps, leaseStep(i))
		}
		steps = append(steps, entryStep(i))
	}
	defer c.redis.Forget(redisKeys...)
	now, earliest := c.redis.Now(), c.redis.Earliest()
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(c.recent.after(earliest, namespace, items[i].Tags), now)
		results[i].ETag = entries[i].ETag.String()
	}
	err := c.redis.RunBatch(ctx, steps, redis.Batch{
		Name: "set", Effect: redis.Writes,
		Command: func(b rueidis.Builder, step int) rueidis.Completed {
			i := step / 2
			if step == leaseStep(i) {
				return b.Unlink().Key(c.leaseKey(namespace, items[i].Key)).Build()
			}
			return c.setCommand(b, redisKeys[i], entries[i], ttls[i])
		},
		Read: func(_ int, r rueidis.RedisResult) error { return r.Error() },
		Fail: func(step int, err error) { results[step/2] = BatchStored{Err: err} },
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// The commands of a batch that revokes leases go two for a key, the lease's first: a Fill between the two is refused, and
// what one wrote before them is overwritten or removed.
func leaseStep(i int) int { return 2 * i }
func entryStep(i int) int { return 2*i + 1 }

// BatchDeleted is what became of one key of a batch.
type BatchDeleted struct {
	// Deleted says that there was an entry.
	Deleted bool
	Err     error
}

// BatchDelete removes entries one by one and revokes their leases, in one round trip for each shard. Results are in the
// order of keys.
func (c *Cache) BatchDelete(ctx context.Context, namespace string, keys []string) ([]BatchDeleted, error) {
	results := make([]BatchDeleted, len(keys))
	redisKeys := make([]string, len(keys))
	for i, key := range keys {
		redisKeys[i] = c.entryKey(namespace, key)
	}
	defer c.redis.Forget(redisKeys...)
	err := c.redis.RunBatch(ctx, redis.Items(2*len(keys)), redis.Batch{
		Name: "unlink", Effect: redis.Writes,
		Command: func(b rueidis.Builder, step int) rueidis.Completed {
			i := step / 2
			if step == leaseStep(i) {
				return b.Unlink().Key(c.leaseKey(namespace, keys[i])).Build()
			}
			return b.Unlink().Key(redisKeys[i]).Build()
		},
		Read: func(step int, r rueidis.RedisResult) error {
			n, err := r.AsInt64()
			if step == entryStep(step/2) {
				results[step/2].Deleted = n > 0
			}
			return err
		},
		Fail: func(step int, err error) { results[step/2] = BatchDeleted{Err: err} },
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}
