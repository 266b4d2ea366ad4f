package cache

import (
	"strings"

	"github.com/berthcare/larder/store/redis"
)

// entryKey is where an entry lives. The braces put it, and what later stands beside it under another letter, in one
// slot of a cluster. In the plain namespace it is the key itself, so that data of other Redis clients is served.
func (c *Cache) entryKey(namespace, key string) string {
	if namespace == c.options.PlainNamespace {
		return key
	}
	return "ld:c:{" + namespace + ":" + key + "}"
}

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

// entryKeyParts returns what stands before and after the user's key in the keys of a namespace's entries.
func (c *Cache) entryKeyParts(namespace string) (before, after string) {
	if namespace == c.options.PlainNamespace {
		return "", ""
	}
	return "ld:c:{" + namespace + ":", "}"
}

// leaseKey is where the lease of an entry lives, in the entry's slot. In the plain namespace the hash tag of the key, by
// the rule of Redis Cluster, is put in front of it.
func (c *Cache) leaseKey(namespace, key string) string {
	if namespace == c.options.PlainNamespace {
		return "ld:l:{" + hashTag(key) + "}" + key
	}
	return "ld:l:{" + namespace + ":" + key + "}"
}

// hashTag returns what decides a key's slot: what stands between its first brace and the next closing one, if anything.
func hashTag(key string) string {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			return key[open+1 : open+1+n]
		}
	}
	return key
}

// tagKey is the mark of a tag.
func tagKey(namespace, tag string) string { return "ld:t:{" + namespace + ":" + tag + "}" }

// clearKey is the mark of a namespace.
func clearKey(namespace string) string { return "ld:n:{" + namespace + "}" }

// userKey undoes entryKey.
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
