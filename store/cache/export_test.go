package cache

import "github.com/berthcare/larder/store/near"

// RedisKey is the Redis key of an entry.
func (c *Cache) RedisKey(namespace, key string) string { return c.entryKey(namespace, key) }

// LeaseKey is the Redis key of the lease of an entry.
func (c *Cache) LeaseKey(namespace, key string) string { return c.leaseKey(namespace, key) }

// TagKey is the Redis key of the invalidation of a tag.
func TagKey(namespace, tag string) string { return tagKey(namespace, tag) }

// ClearKey is the Redis key of the invalidation of a namespace.
func ClearKey(namespace string) string { return clearKey(namespace) }

// Unhear makes the near cache hold that nothing was invalidated, as if the pushes of invalidations were still under way.
func (c *Cache) Unhear(namespace string, tags ...string) {
	keys := []string{clearKey(namespace)}
	for _, tag := range tags {
		keys = append(keys, tagKey(namespace, tag))
	}
	for _, key := range keys {
		c.redis.Near.Put(key, c.redis.Near.Begin(key), invalidation{}, invalidationSize, near.Longest)
	}
}

// Waits reports whether a GetOrLease waits for another caller's load of an entry.
func (c *Cache) Waits(namespace, key string) bool { return c.redis.Waits(c.entryKey(namespace, key)) }
