package token

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/berthcare/larder/store/session"
)

// tokenKey returns the key of a token's record, a hash.
func tokenKey(p session.Partition, namespace, id string) string {
	return "ld:o:" + p.Tag() + ":" + namespace + ":" + id
}

// statePrefix returns what comes before the hash of a subject in the key of a state.
func statePrefix(p session.Partition, namespace string) string {
	return "ld:b:" + p.Tag() + ":" + namespace + ":"
}

// stateKey returns the key of the state of a subject and purpose, a hash: the failure budget, the cooldown and the open tokens.
func stateKey(p session.Partition, namespace, subjectHash, purpose string) string {
	return statePrefix(p, namespace) + subjectHash + ":" + purpose
}

// sourceKey returns the key of the failure budget of a source, a hash. Sources are spread over the partitions. The word in the
// key is not the hash of a subject, so that no source has the key of a state.
func sourceKey(namespace, source string) string {
	sum := sha256.Sum256([]byte("larder token source\x00" + namespace + "\x00" + source))
	return statePrefix(session.Partition(sum[31]), namespace) + "source:" + hex.EncodeToString(sum[:16])
}

// claimKeys are the keys of the claims of a partition: a sorted set of what is claimed, by when it ends, a hash of numbers, and
// a hash of until when there are any.
func claimKeys(p session.Partition) []string {
	claims := "ld:j:" + p.Tag()
	return []string{claims, claims + ":numbers", claims + ":until"}
}

// digest returns 16 bytes that stand for a text in records, in hexadecimal; empty for an empty text. What says what the text is.
func digest(what, text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("larder token " + what + "\x00" + text))
	return hex.EncodeToString(sum[:16])
}

// claimOf returns the partition of a claim and the bytes that stand for it there. Namespaces, scopes and ids hold no zero byte.
func claimOf(namespace, what string, c Claim) (p session.Partition, member string) {
	sum := sha256.Sum256([]byte("larder " + what + "\x00" + namespace + "\x00" + c.Scope + "\x00" + c.ID))
	return session.Partition(sum[31]), string(sum[:16])
}
