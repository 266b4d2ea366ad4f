package cache

import (
	"context"

	"github.com/berthcare/larder/store/redis"
)

// scanCount is the number of keys that Redis visits in one step of a walk. A larger step would delay other commands.
const scanCount = 1000

// ListKeys returns about count keys of a namespace that match a glob pattern, an empty one meaning all, and the token of the
// next page, empty after the last. It fails with [redis.ErrPageToken] if the token is of another namespace or pattern.
func (c *Cache) ListKeys(ctx context.Context, namespace, pattern, token string, count int) (keys []string, next string, err error) {
	for step := 1; ; step++ {
		var found []string
		found, token, err = c.scan(ctx, namespace, pattern, token, int64(count))
		if err != nil {
			return nil, "", err
		}
		for _, k := range found {
			if key, ok := c.toldKey(namespace, k); ok {
				keys = append(keys, key)
			}
		}
		if token == "" || len(keys) >= count || step == redis.WalkSteps {
			return keys, token, nil
		}
	}
}

// DeleteMatching removes the entries of a namespace that match a glob pattern, an empty one meaning all, in steps. After each
// step it calls progress with the number of entries removed so far and the token to resume with, empty after the last step.
// An error of progress ends the walk and is returned.
func (c *Cache) DeleteMatching(ctx context.Context, namespace, pattern, token string, progress func(deleted int64, next string) error) error {
	var deleted int64
	for {
		found, next, err := c.scan(ctx, namespace, pattern, token, scanCount)
		if err != nil {
			return err
		}
		keys := make([]string, 0, len(found))
		for _, k := range found {
			if key, ok := c.userKey(namespace, k); ok {
				keys = append(keys, key)
			}
		}
		if len(keys) > 0 {
			results, err := c.BatchDelete(ctx, namespace, keys)
			if err != nil {
				return err
			}
			for _, r := range results {
				if r.Err != nil {
					return r.Err
				}
				if r.Deleted {
					deleted++
				}
			}
		}
		if err := progress(deleted, next); err != nil || next == "" {
			return err
		}
		token = next
	}
}

// scan makes one step of a walk over the string keys of all primaries. It returns Redis keys and the token of the next step.
func (c *Cache) scan(ctx context.Context, namespace, pattern, token string, count int64) (keys []string, next string, err error) {
	if pattern == "" {
		pattern = "*"
	}
	before, after := c.entryKeyParts(namespace)
	return c.redis.Scan(ctx, redis.Walk{Of: namespace + "\x00" + pattern, Match: before + pattern + after, Type: "string"}, token, count)
}
