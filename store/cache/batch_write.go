package cache

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// BatchWrite is one entry to store in a batch.
type BatchWrite struct {
	// Key is the key of the entry.
	Key string
	Write
}

// BatchStored is the result of writing one entry of a batch.
type BatchStored struct {
	// ETag is the etag of the entry; empty if Err is set.
	ETag string
	// Err is why the entry was not written; nil if it was.
	Err error
}

// BatchSet writes entries unconditionally, in one round trip for each shard. The batch is not atomic. Results are in the order
// of items.
func (c *Cache) BatchSet(ctx context.Context, namespace string, items []BatchWrite) ([]BatchStored, error) {
	results := make([]BatchStored, len(items))
	redisKeys := make([]string, len(items))
	var steps []int
	for i := range items {
		if err := c.checkKeyring(&items[i].Write); err != nil {
			return nil, err
		}
		redisKeys[i] = c.entryKey(namespace, items[i].Key)
		if revokesLease(items[i].Fresh + items[i].Stale) {
			steps = append(steps, leaseStep(i))
		}
		steps = append(steps, entryStep(i))
	}
	defer c.redis.Forget(redisKeys...)
	now, asOf := c.redis.Now(), c.redis.AsOf(ctx)
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(asOf, now)
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

// A batch that revokes leases sends two commands for a key, first that on the lease: a Fill between the two is refused, and
// an entry that a Fill wrote before them is overwritten or removed.
func leaseStep(i int) int { return 2 * i }
func entryStep(i int) int { return 2*i + 1 }

// BatchDeleted is the result of deleting one key of a batch.
type BatchDeleted struct {
	// Deleted says that the key held something.
	Deleted bool
	// Err is why the key could not be deleted; nil if it was.
	Err error
}

// BatchDelete removes entries and revokes their leases, in one round trip for each shard. The batch is not atomic. Results are
// in the order of keys.
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
