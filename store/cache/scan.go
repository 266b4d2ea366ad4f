package cache

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"sort"

	"github.com/berthcare/larder/store/redis"
)

// scanCount is the number of keys that Redis visits in one step of a walk. A larger step would delay other commands.
const scanCount = 1000

// listSteps is the maximum number of steps for one page. In a database full of other keys a page is short or empty rather than
// late, and the walk continues from its token.
const listSteps = 100

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
		if token == "" || len(keys) >= count || step == listSteps {
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

// position is how far a walk has come: the id of a primary and a SCAN cursor there. Primaries are walked in the order of their
// ids.
type position struct{ node, cursor uint64 }

// scan makes one step of a walk over the string keys of all primaries. It returns Redis keys and the token of the next step.
func (c *Cache) scan(ctx context.Context, namespace, pattern, token string, count int64) (keys []string, next string, err error) {
	if pattern == "" {
		pattern = "*"
	}
	walk := fnv.New32a()
	_, _ = walk.Write([]byte(namespace + "\x00" + pattern))
	at, ok := parsePosition(token, walk.Sum32())
	if !ok {
		return nil, "", redis.ErrPageToken
	}
	before, after := c.entryKeyParts(namespace)
	type step struct {
		keys []string
		next string
	}
	done, err := redis.RoundTrip(ctx, c.redis, "scan", redis.Reads, func(ctx context.Context, conns *redis.Conns) (step, error) {
		ids, nodes, err := c.redis.Primaries(ctx, conns)
		if err != nil {
			return step{}, err
		}
		n := sort.Search(len(ids), func(i int) bool { return ids[i] >= at.node })
		if n == len(ids) { // the primaries have changed, and none is left to walk
			return step{}, nil
		}
		at := at
		if ids[n] != at.node {
			at = position{ids[n], 0}
		}
		node := nodes[at.node]
		page, err := node.Do(ctx, node.B().Scan().Cursor(at.cursor).Match(before+pattern+after).Count(count).Type("string").Build()).AsScanEntry()
		if err != nil {
			return step{}, err
		}
		next := ""
		switch at.cursor = page.Cursor; {
		case at.cursor != 0:
			next = at.token(walk.Sum32())
		case n+1 < len(ids):
			next = position{ids[n+1], 0}.token(walk.Sum32())
		}
		return step{page.Elements, next}, nil
	})
	return done.keys, done.next, err
}

// token returns the position in a walk as a page token. Walk identifies the namespace and the pattern.
func (p position) token(walk uint32) string {
	b := binary.BigEndian.AppendUint32(nil, walk)
	b = binary.BigEndian.AppendUint64(b, p.node)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, p.cursor))
}

// parsePosition is the inverse of token; ok is false if the token is not one of the walk.
func parsePosition(token string, walk uint32) (p position, ok bool) {
	if token == "" {
		return p, true
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 20 {
		return p, false
	}
	p = position{binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:])}
	// The whole token is compared, because decoding ignores line breaks and the last bits.
	return p, p.token(walk) == token
}
