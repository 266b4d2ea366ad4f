package cache

// RedisKey is where an entry lives.
func (c *Cache) RedisKey(namespace, key string) string { return c.entryKey(namespace, key) }

// LeaseKey is where the lease of an entry lives.
func (c *Cache) LeaseKey(namespace, key string) string { return c.leaseKey(namespace, key) }

// TagKey is where the invalidation of a tag lives.
func TagKey(namespace, tag string) string { return tagKey(namespace, tag) }

// ClearKey is where the invalidation of a namespace lives.
func ClearKey(namespace string) string { return clearKey(namespace) }

// Waits reports whether a GetOrLease waits for somebody else's load of an entry.
func (c *Cache) Waits(namespace, key string) bool { return c.redis.Waits(c.entryKey(namespace, key)) }
