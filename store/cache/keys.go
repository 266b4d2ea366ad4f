package cache

import (
	"strings"
	"unicode/utf8"

	"github.com/berthcare/larder/store/redis"
)

// entryKey returns the Redis key of an entry. The braces put the entry and its lease in one slot of a cluster. In the plain
// namespace it is the key itself, so that data of other Redis clients is served.
func (c *Cache) entryKey(namespace, key string) string {
	if namespace == c.options.PlainNamespace {
		return key
	}
	return "ld:c:{" + namespace + ":" + key + "}"
}

// appendEntryKey, appendTagKey and appendClearKey append the keys of entryKey, tagKey and clearKey to b, so that a look-up in
// the near cache allocates nothing.
func (c *Cache) appendEntryKey(b []byte, namespace, key string) []byte {
	if namespace == c.options.PlainNamespace {
		return append(b, key...)
	}
	b = append(append(b, "ld:c:{"...), namespace...)
	return append(append(append(b, ':'), key...), '}')
}

func appendTagKey(b []byte, namespace, tag string) []byte {
	b = append(append(b, "ld:t:{"...), namespace...)
	return append(append(append(b, ':'), tag...), '}')
}

func appendClearKey(b []byte, namespace string) []byte {
	return append(append(append(b, "ld:n:{"...), namespace...), '}')
}

// entryKeyParts returns the parts of an entryKey before and after the caller's key.
func (c *Cache) entryKeyParts(namespace string) (before, after string) {
	if namespace == c.options.PlainNamespace {
		return "", ""
	}
	return "ld:c:{" + namespace + ":", "}"
}

// leaseKey returns the Redis key of the lease of an entry.
func (c *Cache) leaseKey(namespace, key string) string { return c.sidecarKey("ld:l:", namespace, key) }

// fencesKey returns the Redis key of the fences of an entry.
func (c *Cache) fencesKey(namespace, key string) string { return c.sidecarKey("ld:z:", namespace, key) }

// sidecarKey returns the Redis key of what belongs to an entry, which is in the entry's slot. In the plain namespace the hash tag
// of the key is put before the key. A key without a hash tag is its own one; if it holds a closing brace, which would end the tag
// early, a number of the same slot takes its place.
func (c *Cache) sidecarKey(prefix, namespace, key string) string {
	if namespace == c.options.PlainNamespace {
		tag := hashTag(key)
		if strings.IndexByte(tag, '}') >= 0 {
			tag = numberOf(slot(tag))
		}
		return prefix + "{" + tag + "}" + key
	}
	return prefix + "{" + namespace + ":" + key + "}"
}

// hashTag returns the part of a key that decides its slot, by the rule of Redis Cluster: the text between the first { and the
// next }, or the whole key if there is no such text.
func hashTag(key string) string {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			return key[open+1 : open+1+n]
		}
	}
	return key
}

// tagMemoryKey is the Redis key of the time for which invalidations of tags are kept.
const tagMemoryKey = redis.KeyPrefix + "tagmemory"

// tagKey returns the Redis key of the invalidation of a tag.
func tagKey(namespace, tag string) string { return "ld:t:{" + namespace + ":" + tag + "}" }

// clearKey returns the Redis key of the invalidation of a namespace.
func clearKey(namespace string) string { return "ld:n:{" + namespace + "}" }

// toldKey is userKey for what callers are told of. Other clients may write keys that are not UTF-8, which no caller can name and
// no answer can hold.
func (c *Cache) toldKey(namespace, redisKey string) (string, bool) {
	key, ok := c.userKey(namespace, redisKey)
	return key, ok && utf8.ValidString(key)
}

// userKey returns the caller's key of an entryKey, and whether redisKey is one of the namespace.
func (c *Cache) userKey(namespace, redisKey string) (string, bool) {
	before, after := c.entryKeyParts(namespace)
	if before == "" {
		return redisKey, !strings.HasPrefix(redisKey, redis.KeyPrefix)
	}
	if len(redisKey) < len(before)+len(after) || !strings.HasPrefix(redisKey, before) || !strings.HasSuffix(redisKey, after) {
		return "", false
	}
	return redisKey[len(before) : len(redisKey)-len(after)], true
}
