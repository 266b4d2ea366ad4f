package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// Every Redis key of Larder is made here. All begin with "ld:", can be read with redis-cli, and are injective: different
// arguments make different keys, because a namespace holds no colon and what follows it runs to the fixed end.
const keyPrefix = "ld:"

// cacheKey is where an entry lives. The braces put it, and what later stands beside it under another letter, in one
// slot of a cluster. In the plain namespace it is the key itself, so that data of other Redis clients is served.
func (s *Store) cacheKey(namespace, key string) string {
	if namespace == s.options.PlainNamespace {
		return key
	}
	return "ld:c:{" + namespace + ":" + key + "}"
}

// The functions that append return the same keys without an allocation, for look-ups in the near cache; keyRoom is room
// for most of them.
const keyRoom = 224

func (s *Store) appendCacheKey(b []byte, namespace, key string) []byte {
	if namespace == s.options.PlainNamespace {
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

func appendSessionKey(b []byte, p partition, namespace, id string) []byte {
	return appendPartitioned(append(b, "ld:s:{p"...), p, namespace, id)
}

func appendSubjectKey(b []byte, p partition, namespace, subjectHash string) []byte {
	return appendPartitioned(append(b, "ld:u:{p"...), p, namespace, subjectHash)
}

func appendPartitioned(b []byte, p partition, namespace, name string) []byte {
	b = strconv.AppendInt(b, int64(p), 10)
	b = append(append(b, "}:"...), namespace...)
	return append(append(b, ':'), name...)
}

// cacheKeyParts returns what stands before and after the user's key in the keys of a namespace's entries.
func (s *Store) cacheKeyParts(namespace string) (before, after string) {
	if namespace == s.options.PlainNamespace {
		return "", ""
	}
	return "ld:c:{" + namespace + ":", "}"
}

// leaseKey is where the lease of an entry lives, in the entry's slot. In the plain namespace the hash tag of the key, by
// the rule of Redis Cluster, is put in front of it.
func (s *Store) leaseKey(namespace, key string) string {
	if namespace == s.options.PlainNamespace {
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

// userKey undoes cacheKey.
func (s *Store) userKey(namespace, redisKey string) (string, bool) {
	before, after := s.cacheKeyParts(namespace)
	if before == "" {
		return redisKey, !strings.HasPrefix(redisKey, keyPrefix)
	}
	if len(redisKey) < len(before)+len(after) || !strings.HasPrefix(redisKey, before) || !strings.HasSuffix(redisKey, after) {
		return "", false
	}
	return redisKey[len(before) : len(redisKey)-len(after)], true
}

// partition is one of 256 fixed groups of sessions. All that belongs to one subject is in one partition, and with it in
// one slot of a cluster, so that every change of it is one script.
type partition uint8

// tag is the partition's hash tag.
func (p partition) tag() string { return "{p" + strconv.Itoa(int(p)) + "}" }

// subjectHash names a subject in keys, where the subject itself must not stand, and decides its partition. The zero byte
// keeps different pairs different, as neither part may hold one.
func subjectHash(namespace, subject string) (partition, string) {
	sum := sha256.Sum256([]byte(namespace + "\x00" + subject))
	return partition(sum[0]), hex.EncodeToString(sum[:16])
}

// sessionKey is the hash of a session's record.
func sessionKey(p partition, namespace, id string) string {
	return sessionPrefix(p) + namespace + ":" + id
}

// attributesKey is the hash of a session's attributes, apart from its record so that a touch neither writes them nor
// drops them from near caches.
func attributesKey(p partition, namespace, id string) string {
	return attributesPrefix(p) + namespace + ":" + id
}

// sumKey is where an attribute is added to, within one script.
func sumKey(p partition, namespace, id string) string {
	return attributesKey(p, namespace, id) + ":sum"
}

// indexKey is the sorted set of a subject's session ids, scored by when they end. Those with a device class are in one of
// their own, see classIndex.
func indexKey(p partition, namespace, subjectHash string) string {
	return indexPrefix(p) + namespace + ":" + subjectHash
}

// classIndex is the index of a subject's sessions of a device class, empty for none; scripts make it alike.
func classIndex(index, class string) string {
	if class == "" {
		return index
	}
	return index + ":" + class
}

// classesKey is the set of the device classes of a subject's sessions.
func classesKey(p partition, namespace, subjectHash string) string {
	return "ld:k:" + p.tag() + ":" + namespace + ":" + subjectHash
}

// subjectKey is the hash of what is known of a subject: its epoch, and those of its device classes.
func subjectKey(p partition, namespace, subjectHash string) string {
	return subjectPrefix(p) + namespace + ":" + subjectHash
}

// promotionKey is the mark of a session that was made by a promotion, so that no retry makes it again.
func promotionKey(p partition, namespace, id string) string {
	return "ld:q:" + p.tag() + ":" + namespace + ":" + id
}

// eventsKey is the stream of what happened to the sessions of a partition.
func eventsKey(p partition) string { return "ld:e:" + p.tag() }

// markKey is the highest epoch that was given out in a partition. It is kept for ever.
func markKey(p partition) string { return "ld:m:" + p.tag() }

// endsKey is the sorted set of a partition's sessions, as "<namespace>:<session id>", scored by when they end.
func endsKey(p partition) string { return "ld:x:" + p.tag() }

// discardedKey is the list of the indexes of a partition whose sessions were revoked together, by name, and with a colon and
// a name after it the former index itself.
func discardedKey(p partition) string { return "ld:g:" + p.tag() }

// sweepKey is held by the replica that clears up after sessions for the time being.
const sweepKey = "ld:sweep"

// partitionOf returns the partition of a session's key of any kind.
func partitionOf(key string) (partition, bool) {
	const before = len(keyPrefix + "s:{p")
	if len(key) < before || !strings.HasPrefix(key, keyPrefix) || key[before-3:before] != ":{p" {
		return 0, false
	}
	number, _, _ := strings.Cut(key[before:], "}")
	n, err := strconv.ParseUint(number, 10, 8)
	return partition(n), err == nil
}

// What the keys of a partition's sessions begin with, before "<namespace>:" and the rest.
func sessionPrefix(p partition) string    { return "ld:s:" + p.tag() + ":" }
func attributesPrefix(p partition) string { return "ld:d:" + p.tag() + ":" }
func indexPrefix(p partition) string      { return "ld:i:" + p.tag() + ":" }
func subjectPrefix(p partition) string    { return "ld:u:" + p.tag() + ":" }
