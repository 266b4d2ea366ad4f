package cache

// RedisKey is the Redis key of an entry.
func (c *Cache) RedisKey(namespace, key string) string { return c.entryKey(namespace, key) }

// LeaseKey is the Redis key of the lease of an entry.
func (c *Cache) LeaseKey(namespace, key string) string { return c.leaseKey(namespace, key) }

// TagKey is the Redis key of the invalidation of a tag.
func TagKey(namespace, tag string) string { return tagKey(namespace, tag) }

// ClearKey is the Redis key of the invalidation of a namespace.
func ClearKey(namespace string) string { return clearKey(namespace) }

// Waits reports whether a GetOrLease waits for another caller's load of an entry.
func (c *Cache) Waits(namespace, key string) bool { return c.redis.Waits(c.entryKey(namespace, key)) }
