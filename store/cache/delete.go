package cache

import (
	"context"

	"github.com/berthcare/larder/store/redis"
)

// Delete removes an entry and revokes its lease. If match is not nil it does so only if the entry has that etag. It returns
// whether it removed an entry, and the etag of the entry that is left; empty means none.
func (c *Cache) Delete(ctx context.Context, namespace, key string, match *ETag) (deleted bool, etag string, err error) {
	return c.DeleteFenced(ctx, namespace, key, match, nil)
}

// DeleteFenced is Delete under a lock. It fails with [ErrFenced] if a later holder of the lock has written.
func (c *Cache) DeleteFenced(ctx context.Context, namespace, key string, match *ETag, f *Fence) (deleted bool, etag string, err error) {
	redisKey := c.entryKey(namespace, key)
	defer c.redis.Forget(redisKey)
	must, eff := "", redis.Writes
	if match != nil {
		// A repeated call would find nothing and report that the condition did not hold.
		must, eff = match.String(), redis.WritesOnce
	}
	a, err := c.runFenced(ctx, deleteScript, eff, namespace, key, f, must)
	switch {
	case err != nil:
		return false, "", err
	case a.gone:
		return false, "", nil
	case a.outcome == 1:
		return true, "", nil
	}
	return false, a.text, nil
}
