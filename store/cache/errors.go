package cache

import (
	"errors"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// ErrTagged means that an entry with tags would never expire, and so outlive the invalidations of its tags; nothing was
// written.
var ErrTagged = errors.New("an entry with tags must expire")

// ErrFenced means that the fence of a write is lower than one that has come with an earlier write of the same entry: its lock has had
// another holder since. Nothing was written.
var ErrFenced = errors.New("a later holder of the lock has written")

// ErrTooManyFences means that an entry would have to keep the fences of too many locks; nothing was written.
var ErrTooManyFences = errors.New("the entry has fences of too many locks")

// unreadable classifies an error of the keyring: [keyring.ErrKeyUnknown] or [redis.ErrCorrupt].
func unreadable(err error) error {
	if errors.Is(err, keyring.ErrKeyUnknown) {
		return redis.Fail(keyring.ErrKeyUnknown, err)
	}
	return redis.Fail(redis.ErrCorrupt, err)
}
