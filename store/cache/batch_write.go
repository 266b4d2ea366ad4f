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
	tagged := false
	for i := range items {
		if err := c.checkKeyring(&items[i].Write); err != nil {
			return nil, err
		}
		redisKeys[i] = c.entryKey(namespace, items[i].Key)
		tagged = tagged || len(items[i].Tags) > 0
	}
	if tagged {
		if err := c.raiseTagMemory(ctx); err != nil {
			return nil, err
		}
	}
	defer c.redis.Forget(redisKeys...)
	now, asOf := c.redis.Now(), c.redis.AsOf(ctx)
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(asOf, now)
		results[i].ETag = entries[i].ETag.String()
	}
	err := c.redis.RunBatch(ctx, redis.Items(len(items)), redis.Batch{
		Name: "set", Effect: redis.Writes,
		Command: func(b rueidis.Builder, i int) rueidis.Completed {
			if !revokesLease(ttls[i]) {
				return c.setCommand(b, redisKeys[i], entries[i], ttls[i])
			}
			bytes := rueidis.BinaryString(c.encode(redisKeys[i], entries[i]))
			return byText(b, overwriteScript, redisKeys[i], c.leaseKey(namespace, items[i].Key), bytes, redis.Millis(ttls[i]))
		},
		Read: func(_ int, r rueidis.RedisResult) error { return r.Error() },
		Fail: func(i int, err error) { results[i] = BatchStored{Err: err} },
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// byText returns the command that runs a short script on an entry and its lease. In a batch, in which a key may be twice, a script
// must not be run again because the server does not know it: that would be after what follows it.
func byText(b rueidis.Builder, s *redis.Script, redisKey, leaseKey string, args ...string) rueidis.Completed {
	return b.Eval().Script(s.Text()).Numkeys(2).Key(redisKey, leaseKey).Arg(args...).Build()
}

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
	err := c.redis.RunBatch(ctx, redis.Items(len(keys)), redis.Batch{
		Name: "unlink", Effect: redis.Writes,
		Command: func(b rueidis.Builder, i int) rueidis.Completed {
			return byText(b, removeScript, redisKeys[i], c.leaseKey(namespace, keys[i]))
		},
		Read: func(i int, r rueidis.RedisResult) error {
			n, err := r.AsInt64()
			results[i].Deleted = n > 0
			return err
		},
		Fail: func(i int, err error) { results[i] = BatchDeleted{Err: err} },
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}
