package session

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/berthcare/larder/store/redis"
)

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

// partition is one of 256 fixed groups of sessions. All keys of a subject are in one partition, and so in one slot of a
// cluster: every change is one script.
type partition uint8

// tag returns the hash tag of the partition's keys.
func (p partition) tag() string { return "{p" + strconv.Itoa(int(p)) + "}" }

// subjectHash returns the partition of a subject and the hash that stands for the subject in keys. Namespaces and subjects
// hold no zero byte, so different pairs have different inputs.
func subjectHash(namespace, subject string) (partition, string) {
	sum := sha256.Sum256([]byte(namespace + "\x00" + subject))
	return partition(sum[0]), hex.EncodeToString(sum[:16])
}

// sessionKey returns the key of a session's record, a hash.
func sessionKey(p partition, namespace, id string) string {
	return sessionPrefix(p) + namespace + ":" + id
}

// attributesKey returns the key of a session's attributes, a hash. It is not the record's, so that a touch neither writes
// the attributes nor invalidates them in near caches.
func attributesKey(p partition, namespace, id string) string {
	return attributesPrefix(p) + namespace + ":" + id
}

// sumKey returns the key in which the update script computes a sum; it is gone when the script ends.
func sumKey(p partition, namespace, id string) string {
	return attributesKey(p, namespace, id) + ":sum"
}

// indexKey returns the key of a subject's index: a sorted set of the ids of the sessions without a device class, scored by
// their expiry in Unix milliseconds. [classIndex] returns that of a device class.
func indexKey(p partition, namespace, subjectHash string) string {
	return indexPrefix(p) + namespace + ":" + subjectHash
}

// classIndex returns the key of the index of a device class, from the subject's; an empty class means the sessions without
// one. It mirrors index_of in common.lua.
func classIndex(index, class string) string {
	if class == "" {
		return index
	}
	return index + ":" + class
}

// classesKey returns the key of the set of the device classes that a subject's sessions have.
func classesKey(p partition, namespace, subjectHash string) string {
	return "ld:k:" + p.tag() + ":" + namespace + ":" + subjectHash
}

// subjectKey returns the key of a subject's epochs, a hash: its own and one for each revoked device class.
func subjectKey(p partition, namespace, subjectHash string) string {
	return subjectPrefix(p) + namespace + ":" + subjectHash
}

// promotionKey returns the key that says that a promotion has created this session, so that a late retry does not create it
// again after it has ended.
func promotionKey(p partition, namespace, id string) string {
	return "ld:q:" + p.tag() + ":" + namespace + ":" + id
}

// eventsKey returns the key of the stream of a partition's events.
func eventsKey(p partition) string { return "ld:e:" + p.tag() }

// epochKey returns the key of the highest epoch that was given out in a partition. It never expires.
func epochKey(p partition) string { return "ld:m:" + p.tag() }

// endsKey returns the key of a sorted set of all sessions of a partition, as "<namespace>:<session id>", scored by their
// expiry in Unix milliseconds.
func endsKey(p partition) string { return "ld:x:" + p.tag() }

// discardedKey returns the key of a list: the names of the indexes whose sessions were revoked together. The former index
// itself is at this key, a colon and the name.
func discardedKey(p partition) string { return "ld:g:" + p.tag() }

// sweepKey holds the lease of the replica that sweeps.
const sweepKey = "ld:sweep"

// partitionOf returns the partition of any key of a session.
func partitionOf(key string) (partition, bool) {
	const before = len(redis.KeyPrefix + "s:{p")
	if len(key) < before || !strings.HasPrefix(key, redis.KeyPrefix) || key[before-3:before] != ":{p" {
		return 0, false
	}
	number, _, _ := strings.Cut(key[before:], "}")
	n, err := strconv.ParseUint(number, 10, 8)
	return partition(n), err == nil
}

// The prefix functions return what comes before "<namespace>:" in the keys of a partition.
func sessionPrefix(p partition) string { return "ld:s:" + p.tag() + ":" }

func attributesPrefix(p partition) string { return "ld:d:" + p.tag() + ":" }

func indexPrefix(p partition) string { return "ld:i:" + p.tag() + ":" }

func subjectPrefix(p partition) string { return "ld:u:" + p.tag() + ":" }

// changing returns the keys and arguments that every script that changes one session begins with; common.lua lists them.
func changing(p partition, namespace, id string) (keys, args []string) {
	return []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id), eventsKey(p), endsKey(p)},
		[]string{namespace, id, subjectKey(p, namespace, ""), indexKey(p, namespace, "")}
}
