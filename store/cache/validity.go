package cache

import (
	"context"

	"github.com/berthcare/larder/store/redis"
)

// validity is what the invalidations of an entry's tags and of its namespace say of the entry.
type validity int

const (
	// valid means that the entry is not invalidated.
	valid validity = iota
	// stale means that the entry was invalidated with InvalidateStale.
	stale
	// gone means that the entry was invalidated with InvalidateDelete.
	gone
)

// validityOf returns the validity of an entry. Cleared is the invalidation of the namespace if the caller has just read it,
// else nil. Invalidations that the near cache does not hold are read from Redis, in one round trip for each shard. A plain
// value has no as-of time and is always valid.
func (c *Cache) validityOf(ctx context.Context, namespace string, e *Entry, cleared *invalidation, useNear bool) (validity, error) {
	if e.AsOf.IsZero() {
		return valid, nil
	}
	var latest invalidation
	var missing []string
	look := func(key []byte) {
		if useNear {
			if v, ok := c.redis.Near.GetBytes(key); ok {
				latest = latest.or(v.(invalidation))
				return
			}
		}
		missing = append(missing, string(key))
	}
	var room [redis.KeyRoom]byte
	if cleared != nil {
		latest = *cleared
	} else {
		look(appendClearKey(room[:0], namespace))
	}
	for _, t := range e.Tags {
		look(appendTagKey(room[:0], namespace, t))
	}
	if len(missing) > 0 {
		found, err := c.readInvalidations(ctx, missing, useNear)
		if err != nil {
			return valid, err
		}
		for _, inv := range found {
			latest = latest.or(inv)
		}
	}
	return compare(e, latest), nil
}

// compare returns the validity of an entry under an invalidation.
func compare(e *Entry, inv invalidation) validity {
	asOf := e.AsOf.UnixMicro()
	switch {
	case asOf <= inv.deleted:
		return gone
	case asOf <= inv.stale:
		return stale
	}
	return valid
}
