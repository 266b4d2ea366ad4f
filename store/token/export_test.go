package token

import "github.com/berthcare/larder/store/session"

// SourceKey is the key of the budget of a source.
func SourceKey(namespace, source string) string { return sourceKey(namespace, source) }

// ClaimKeys are the keys of the partition of a claim.
func ClaimKeys(namespace, what string, c Claim) []string {
	p, _ := claimOf(namespace, what, c)
	return claimKeys(p)
}

// Keys are one key of each kind.
func Keys(p session.Partition, namespace, hash, purpose, id, source string) []string {
	return append([]string{tokenKey(p, namespace, id), stateKey(p, namespace, hash, purpose), sourceKey(namespace, source)}, claimKeys(p)...)
}

// ParseLink and NewLink are those of the package.
func ParseLink(link string) (id, digest string, ok bool) { return parseLink(link) }

// Normalize returns a code as the package compares it.
func Normalize(code string) string { return normalize(code) }

// NewCode returns a code.
func NewCode(alphabet string, n int) string { return newCode(alphabet, n) }
