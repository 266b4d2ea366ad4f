package cache

import (
	"context"
	"embed"
	"errors"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

//go:embed *.lua
var files embed.FS

// The text of a script is common.lua followed by the script's own file.
var (
	setScript        = script("set")
	deleteScript     = script("delete")
	touchScript      = script("touch")
	incrementScript  = script("increment")
	invalidateScript = script("invalidate")
	leaseScript      = script("lease")
	fillScript       = script("fill")
	releaseScript    = script("release")
)

func script(name string) *redis.Script {
	return redis.NewScript("cache_"+name, file("common")+file(name), map[string]error{"LARDER_TAGGED": ErrTagged})
}

func file(name string) string {
	b, err := files.ReadFile(name + ".lua")
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(b)
}

// runOnEntry runs a script that must know the validity of the entry it finds. Invalidations of tags may be in other slots,
// which the script cannot read: it answers that the validity is unknown and does nothing, and is run again once the
// invalidations of that entry's tags have been read.
func (c *Cache) runOnEntry(ctx context.Context, sc *redis.Script, eff redis.Effect, namespace string, keys []string, args ...string) ([]rueidis.RedisMessage, error) {
	cleared, err := c.namespaceInvalidation(ctx, namespace)
	if err != nil {
		return nil, err
	}
	goneUntil := bigEndian(fromMicros(uint64(cleared.deleted))) //nolint:gosec // invalidations are after 1970
	checkedETag, checkedGone := "", "0"
	for range 3 {
		m, err := c.redis.Run(ctx, sc, eff, keys, append([]string{goneUntil, checkedETag, checkedGone}, args...)...)
		if err != nil {
			return nil, err
		}
		parts, err := m.ToArray()
		if err != nil || len(parts) < 2 {
			return nil, redis.ErrInternal
		}
		if n, err := parts[0].AsInt64(); err != nil || n != validityUnknown {
			return parts, err
		}
		raw, err := parts[1].AsBytes()
		if err != nil {
			return nil, redis.ErrInternal
		}
		found, _, err := decodeHeader(raw)
		if err != nil {
			// An entry that cannot be read counts as valid, so that it can be replaced or removed.
			found = Entry{ETag: ETag(raw[offETag:])}
		}
		v, err := c.validityOf(ctx, namespace, &found, nil, false)
		if err != nil {
			return nil, err
		}
		if checkedETag, checkedGone = found.ETag.String(), "0"; v == gone {
			checkedGone = "1"
		}
	}
	// Other writers replaced the entry by another one with tags each time. This call wrote nothing.
	return nil, redis.Fail(redis.ErrUnavailable, errors.New("the entry kept changing"))
}

// validityUnknown is the outcome of a script that has found an entry whose validity it does not know.
const validityUnknown = -2

// outcomeAndETag reads the answer of a script that returns {outcome, etag}.
func outcomeAndETag(parts []rueidis.RedisMessage) (done bool, etag string, err error) {
	n, err := parts[0].AsInt64()
	if err != nil {
		return false, "", redis.ErrInternal
	}
	etag, err = parts[1].ToString()
	if err != nil {
		return false, "", redis.ErrInternal
	}
	return n == 1, etag, nil
}
