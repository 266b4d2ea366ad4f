package cache

import (
	"errors"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// ErrTagged means that an entry with tags would never expire, and so outlive the invalidations of its tags; nothing was
// written.
var ErrTagged = errors.New("an entry with tags must expire")

// unreadable classifies an error of the keyring: [keyring.ErrKeyUnknown] or [redis.ErrCorrupt].
func unreadable(err error) error {
	if errors.Is(err, keyring.ErrKeyUnknown) {
		return redis.Fail(keyring.ErrKeyUnknown, err)
	}
	return redis.Fail(redis.ErrCorrupt, err)
}
