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
	revokes := false
	for i := range items {
		if err := c.checkKeyring(&items[i].Write); err != nil {
			return nil, err
		}
		redisKeys[i] = c.entryKey(namespace, items[i].Key)
		revokes = revokes || revokesLease(items[i].Fresh+items[i].Stale)
	}
	defer c.redis.Forget(redisKeys...)
	now, asOf := c.redis.Now(), c.redis.AsOf(ctx)
	entries, ttls := make([]*Entry, len(items)), make([]time.Duration, len(items))
	for i := range items {
		entries[i], ttls[i] = items[i].entry(asOf, now)
		results[i].ETag = entries[i].ETag.String()
	}
	set := func(b rueidis.Builder, i int) rueidis.Completed {
		return c.setCommand(b, redisKeys[i], entries[i], ttls[i])
	}
	read := func(_ int, r rueidis.RedisResult) error { return r.Error() }
	fail := func(i int, err error) { results[i] = BatchStored{Err: err} }
	var err error
	if !revokes {
		err = c.redis.RunBatch(ctx, redis.Items(len(items)), redis.Batch{
			Name: "set", Effect: redis.Writes, Command: set, Read: read, Fail: fail,
		})
	} else {
		err = c.redis.RunScripts(ctx, redis.Items(len(items)), redis.ScriptBatch{
			Script: overwriteScript, Effect: redis.Writes, Read: read, Fail: fail,
			Call: func(i int) (keys, args []string) {
				bytes := rueidis.BinaryString(c.encode(redisKeys[i], entries[i]))
				return []string{redisKeys[i], c.leaseKey(namespace, items[i].Key)}, []string{bytes, redis.Millis(ttls[i])}
			},
			Command: func(b rueidis.Builder, i int) (rueidis.Completed, bool) {
				if revokesLease(ttls[i]) {
					return rueidis.Completed{}, false
				}
				return set(b, i), true
			},
		})
	}
	if err != nil {
		return nil, err
	}
	return results, nil
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
	err := c.redis.RunScripts(ctx, redis.Items(len(keys)), redis.ScriptBatch{
		Script: removeScript, Effect: redis.Writes,
		Call: func(i int) (scriptKeys, args []string) {
			return []string{redisKeys[i], c.leaseKey(namespace, keys[i])}, nil
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
