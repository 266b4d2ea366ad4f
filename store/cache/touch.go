package cache

import (
	"context"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// TouchMode says which changes of an expiry a [Cache.Touch] makes.
type TouchMode string

// The modes of Touch.
const (
	// TouchOverwrite sets the new expiry.
	TouchOverwrite TouchMode = "overwrite"
	// TouchExtend sets the new expiry if it is later than the present one.
	TouchExtend TouchMode = "extend"
	// TouchShorten sets the new expiry if it is earlier than the present one.
	TouchShorten TouchMode = "shorten"
)

// Touch makes an entry fresh for a time from now, 0 meaning that it never expires, and leaves the time for which it is kept
// as stale after that unchanged. It returns whether there is an entry and whether its expiry was changed. It fails with
// [ErrTagged] if an entry with tags would never expire.
func (c *Cache) Touch(ctx context.Context, namespace, key string, fresh time.Duration, mode TouchMode) (found, changed bool, err error) {
	redisKey := c.entryKey(namespace, key)
	defer c.redis.Forget(redisKey)
	// Rounded up: to the script, 0 means never.
	us := int64((fresh + time.Microsecond - 1) / time.Microsecond)
	a, err := c.runOnEntry(ctx, touchScript, redis.Writes, namespace, []string{redisKey, c.leaseKey(namespace, key)},
		strconv.FormatInt(us, 10), string(mode))
	if err != nil || a.gone {
		return false, false, err
	}
	return a.outcome >= 0, a.outcome == 1, nil
}
