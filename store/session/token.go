package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// A session's id and token, in the URL-safe base64 of RFC 4648 section 5 without padding. The id is the public handle, the
// partition and 128 random bits; the token is the id's bytes and 256 more random bits, which are the secret. Redis holds
// only the SHA-256 of the secret: what is read there cannot be presented. Both lengths exceed the 64 bits of NIST SP
// 800-63B-4 section 5.1 and the 128 of ASVS 7.2.3.
const (
	tokenPrefix = "ls1_"
	idBytes     = 1 + 16
	secretBytes = 32
)

var (
	idChars    = base64.RawURLEncoding.EncodedLen(idBytes)
	tokenChars = len(tokenPrefix) + base64.RawURLEncoding.EncodedLen(idBytes+secretBytes)
)

// strict refuses spellings of the same bytes that differ in unused bits. It skips line breaks, so that whoever decodes must
// look at the length of what comes out.
var strict = base64.RawURLEncoding.Strict()

// credential is what a token says.
type credential struct {
	partition partition
	id        string
	// secret is what its holder alone knows, hash the SHA-256 of that.
	secret []byte
	hash   [sha256.Size]byte
}

// newCredential returns a new token in a partition and what it says.
func newCredential(p partition) (token string, c credential) {
	var b [idBytes + secretBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails: it ends the process instead
	b[0] = byte(p)
	return tokenPrefix + strict.EncodeToString(b[:]), credentialOf(b[:])
}

func credentialOf(b []byte) credential {
	return credential{partition(b[0]), strict.EncodeToString(b[:idBytes]), b[idBytes:], sha256.Sum256(b[idBytes:])}
}

// parseToken reads a token; what is not one never reaches Redis.
func parseToken(token string) (c credential, ok bool) {
	if len(token) != tokenChars || !strings.HasPrefix(token, tokenPrefix) {
		return c, false
	}
	var text [96]byte // neither is worth an allocation on each validation
	var b [idBytes + secretBytes + 8]byte
	n, err := strict.Decode(b[:], text[:copy(text[:], token[len(tokenPrefix):])])
	if err != nil || n != idBytes+secretBytes {
		return c, false
	}
	return credentialOf(b[:n]), true
}

// parseSessionID returns the partition of an id.
func parseSessionID(id string) (p partition, ok bool) {
	if len(id) != idChars {
		return 0, false
	}
	b, err := strict.DecodeString(id)
	if err != nil || len(b) != idBytes {
		return 0, false
	}
	return partition(b[0]), true
}

// randomPartition is where an anonymous session goes.
func randomPartition() partition {
	var b [1]byte
	_, _ = rand.Read(b[:])
	return partition(b[0])
}

// ValidID reports whether id has the form of a session's id.
func ValidID(id string) bool {
	_, ok := parseSessionID(id)
	return ok
}

// IDOf returns the id that a token names, without looking whether there is such a session; empty if it is malformed.
func IDOf(token string) string {
	c, _ := parseToken(token)
	return c.id
}
