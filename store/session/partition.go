package session

import (
	"context"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Partition is one of the 256 groups of what belongs to subjects. Package token keeps the tokens of a subject in the partition
// of its sessions, and so in one slot with them, so that one script can accept a token and end the sessions.
type Partition = partition

// SubjectHash returns the partition of a subject and the hash that stands for the subject in keys: 32 hexadecimal digits.
func SubjectHash(namespace, subject string) (Partition, string) {
	return subjectHash(namespace, subject)
}

// PartitionKeys are the keys of a partition that scripts outside this package declare.
type PartitionKeys struct {
	// Events is the stream of events.
	Events string
	// Epoch is the highest epoch given out, Ends the expiries of sessions, and Discarded the list of discarded indexes.
	Epoch, Ends, Discarded string
	// SubjectPrefix, IndexPrefix and ClassesPrefix precede the hash of a subject in the keys of its epochs, its index and its
	// device classes.
	SubjectPrefix, IndexPrefix, ClassesPrefix string
}

// KeysOf returns the keys of a partition, with the prefixes of a namespace.
func KeysOf(p Partition, namespace string) PartitionKeys {
	return PartitionKeys{
		Events: eventsKey(p), Epoch: epochKey(p), Ends: endsKey(p), Discarded: discardedKey(p),
		SubjectPrefix: subjectKey(p, namespace, ""), IndexPrefix: indexKey(p, namespace, ""), ClassesPrefix: classesKey(p, namespace, ""),
	}
}

// KeysOfSession returns the keys of the record and the attributes of a session; ok is false if the id is malformed or the session
// is in another partition.
func KeysOfSession(p Partition, namespace, id string) (record, attributes string, ok bool) {
	if q, ok := parseSessionID(id); !ok || q != p {
		return "", "", false
	}
	return sessionKey(p, namespace, id), attributesKey(p, namespace, id), true
}

// EpochMemory is how much longer than the longest session a script that revokes a subject's sessions must keep the epoch.
const EpochMemory = epochMemory

// Functions returns the Lua functions of files of this package for scripts outside it: common, requests and revocation.
func Functions(files ...string) (text string) {
	for _, name := range files {
		text += file(name)
	}
	return text
}

// Ask runs a script through run, and again with further keys if it has asked for them: see elsewhere in common.lua.
func Ask(keys []string, run func(keys []string) (rueidis.RedisMessage, error)) (rueidis.RedisMessage, error) {
	return ask(keys, run)
}

// RequestKey returns the key of the answer to the request that [WithRequest] has named; ok is false if there is none.
func RequestKey(ctx context.Context, p Partition, namespace string, operation ...string) (key string, ok bool) {
	return requestKey(ctx, p, namespace, operation...)
}

// Tag returns the hash tag of the partition's keys.
func (p partition) Tag() string { return p.tag() }

// ForgetSubject drops what this process holds of a subject's epochs, and of a session that was kept, after a script outside this
// package has revoked the subject's sessions. An empty id means that none was kept.
func ForgetSubject(c *redis.Client, p Partition, namespace, hash, kept string) {
	keys := []string{subjectKey(p, namespace, hash)}
	if kept != "" {
		keys = append(keys, sessionKey(p, namespace, kept))
	}
	c.Forget(keys...)
}
