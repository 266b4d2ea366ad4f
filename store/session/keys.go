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

// epochKey is the highest epoch that was given out in a partition. It is kept for ever.
func epochKey(p partition) string { return "ld:m:" + p.tag() }

// endsKey is the sorted set of a partition's sessions, as "<namespace>:<session id>", scored by when they end.
func endsKey(p partition) string { return "ld:x:" + p.tag() }

// discardedKey is the list of the indexes of a partition whose sessions were revoked together, by name, and with a colon and
// a name after it the former index itself.
func discardedKey(p partition) string { return "ld:g:" + p.tag() }

// sweepKey is held by the replica that clears up after sessions for the time being.
const sweepKey = "ld:sweep"

// partitionOf returns the partition of a session's key of any kind.
func partitionOf(key string) (partition, bool) {
	const before = len(redis.KeyPrefix + "s:{p")
	if len(key) < before || !strings.HasPrefix(key, redis.KeyPrefix) || key[before-3:before] != ":{p" {
		return 0, false
	}
	number, _, _ := strings.Cut(key[before:], "}")
	n, err := strconv.ParseUint(number, 10, 8)
	return partition(n), err == nil
}

// What the keys of a partition's sessions begin with, before "<namespace>:" and the rest.
func sessionPrefix(p partition) string { return "ld:s:" + p.tag() + ":" }

func attributesPrefix(p partition) string { return "ld:d:" + p.tag() + ":" }

func indexPrefix(p partition) string { return "ld:i:" + p.tag() + ":" }

func subjectPrefix(p partition) string { return "ld:u:" + p.tag() + ":" }

// changing returns the keys and arguments with which every script that changes one session begins.
func changing(p partition, namespace, id string) (keys, args []string) {
	return []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id), eventsKey(p), endsKey(p)},
		[]string{namespace, id, subjectKey(p, namespace, ""), indexKey(p, namespace, "")}
}
