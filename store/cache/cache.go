// Package cache keeps entries, counters and leases in Redis, and invalidates entries by tag and by namespace.
package cache

import (
	"context"
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Options configures a [Cache].
type Options struct {
	// CompressAbove is the length in bytes above which values are compressed in Redis; 0 means never.
	CompressAbove int
	// PlainNamespace is a namespace whose keys are Redis keys as they are, so that Larder serves data written by other
	// clients; empty means none. Keys that begin with "ld:" are Larder's own and not part of it.
	PlainNamespace string
	// MaxTTL is the maximum time to live of an entry with tags when it is written, its stale part included; 0 means 720 h. It
	// decides for how long invalidations of tags are kept. Replicas may differ in it.
	MaxTTL time.Duration
	// HoldsLock reports whether the holder with a fencing token has a lock. It decides about fences that are older than what
	// entries remember of them; nil means that such fences are refused.
	HoldsLock func(ctx context.Context, namespace, name string, fence int64) (bool, error)
}

// Cache keeps entries and counters in Redis. It is safe for concurrent use.
//
// Methods with a parameter useNear answer from the near cache where it holds what they need, and keep there what they read;
// with useNear false they read from the primaries and keep nothing.
type Cache struct {
	redis   *redis.Client
	keyring *keyring.Keyring // nil if values cannot be encrypted
	options Options
	leasing leasing
	watches watches
	sizes   sizes

	tagMemory tagMemory
}

// New returns a cache over a Redis client. The keyring encrypts the values of writes with [Write.Encrypt]; with a nil keyring
// such writes fail.
func New(c *redis.Client, k *keyring.Keyring, o Options) *Cache {
	if o.MaxTTL <= 0 {
		o.MaxTTL = defaultMaxTTL
	}
	return &Cache{redis: c, keyring: k, options: o, tagMemory: newTagMemory(o.MaxTTL)}
}
