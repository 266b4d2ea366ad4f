package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// The id and the token of a session, in URL-safe base64 without padding (RFC 4648 section 5). The id is the partition and
// 128 random bits: the public handle. The token is the bytes of the id and 256 random bits, the secret, of which Redis holds
// the SHA-256 alone: nothing in Redis can be presented. Both exceed the 64 bits of NIST SP 800-63B-4 section 5.1 and the 128
// bits of ASVS 7.2.3.
const (
	tokenPrefix = "ls1_"
	idBytes     = 1 + 16
	secretBytes = 32
)

var (
	idChars    = base64.RawURLEncoding.EncodedLen(idBytes)
	tokenChars = len(tokenPrefix) + base64.RawURLEncoding.EncodedLen(idBytes+secretBytes)
)

// strict refuses encodings whose unused bits are not zero. It skips line breaks, so callers must check the length of the
// result.
var strict = base64.RawURLEncoding.Strict()

// credential is the content of a token.
type credential struct {
	partition partition
	id        string
	// secret is known to the holder alone; hash is its SHA-256.
	secret []byte
	hash   [sha256.Size]byte
}

// newCredential returns a new random token of a partition and its content.
func newCredential(p partition) (token string, c credential) {
	var b [idBytes + secretBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails: it ends the process instead
	b[0] = byte(p)
	return tokenPrefix + strict.EncodeToString(b[:]), credentialOf(b[:])
}

func credentialOf(b []byte) credential {
	return credential{partition(b[0]), strict.EncodeToString(b[:idBytes]), b[idBytes:], sha256.Sum256(b[idBytes:])}
}

// lineage returns 16 bytes that are the same for every token that the session has ever had, and from which no token follows.
func (c credential) lineage() []byte {
	sum := sha256.Sum256(append([]byte("larder session lineage "), c.secret[:lineageBytes]...))
	return sum[:16]
}

// generation returns the number of the token among those of the session. The first one has any number.
func (c credential) generation() uint32 { return binary.BigEndian.Uint32(c.secret[lineageBytes:]) }

// proof returns what scripts need to know of a presented token; common.lua says what that is.
func (c credential) proof() string {
	if c.secret == nil {
		return "" // the caller named the session by id
	}
	b := append(append(make([]byte, 0, 52), c.hash[:]...), c.lineage()...)
	return string(append(b, c.secret[lineageBytes:lineageBytes+generationBytes]...))
}

// parseToken returns the content of a token; ok is false if it is malformed.
func parseToken(token string) (c credential, ok bool) {
	if len(token) != tokenChars || !strings.HasPrefix(token, tokenPrefix) {
		return c, false
	}
	var text [96]byte // on the stack, as every validation needs them
	var b [idBytes + secretBytes + 8]byte
	n, err := strict.Decode(b[:], text[:copy(text[:], token[len(tokenPrefix):])])
	if err != nil || n != idBytes+secretBytes {
		return c, false
	}
	return credentialOf(b[:n]), true
}

// parseSessionID returns the partition of an id; ok is false if it is malformed.
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

// randomPartition returns the partition of a new anonymous session.
func randomPartition() partition {
	var b [1]byte
	_, _ = rand.Read(b[:])
	return partition(b[0])
}

// ValidID reports whether id is well-formed.
func ValidID(id string) bool {
	_, ok := parseSessionID(id)
	return ok
}

// IDOf returns the id that a token names, whether or not the session exists; empty if the token is malformed.
func IDOf(token string) string {
	c, _ := parseToken(token)
	return c.id
}
