package token

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"

	"github.com/berthcare/larder/store/session"
)

// The id and the secrets of a token. The id is the partition and 128 random bits, as that of a session. A LINK is the bytes of
// the id and 256 random bits, of which Redis holds the SHA-256 alone. A RECOVERY code has 128 random bits and a SHA-256 too:
// NIST SP 800-63B-4 section 3.1.2.2 and ASVS 6.5.2 ask for a password hash below 112 bits only. A CODE is short, and Redis holds
// an HMAC under a key that is not in Redis.
const (
	linkPrefix  = "lt1_"
	idBytes     = 1 + 16
	secretBytes = 32
)

var (
	idChars   = base64.RawURLEncoding.EncodedLen(idBytes)
	linkChars = len(linkPrefix) + base64.RawURLEncoding.EncodedLen(idBytes+secretBytes)
)

// strict refuses encodings whose unused bits are not zero. It skips line breaks, so callers must check the length of the
// result.
var strict = base64.RawURLEncoding.Strict()

// newID returns the id of a new token of a partition.
func newID(p session.Partition) string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails: it ends the process instead
	b[0] = byte(p)
	return strict.EncodeToString(b[:])
}

// recoveryID returns the id of the recovery codes of a subject and purpose, of which there is one set at a time.
func recoveryID(p session.Partition, namespace, subject, purpose string) string {
	sum := sha256.Sum256([]byte("larder recovery codes\x00" + namespace + "\x00" + subject + "\x00" + purpose))
	return strict.EncodeToString(append([]byte{byte(p)}, sum[:idBytes-1]...))
}

// parseID returns the partition of an id; ok is false if it is malformed.
func parseID(id string) (p session.Partition, ok bool) {
	if len(id) != idChars {
		return 0, false
	}
	b, err := strict.DecodeString(id)
	if err != nil || len(b) != idBytes {
		return 0, false
	}
	return session.Partition(b[0]), true
}

// newLink returns the secret of a LINK with an id, and its digest.
func newLink(id string) (link, digest string) {
	b, _ := strict.DecodeString(id)
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret)
	sum := sha256.Sum256(secret)
	return linkPrefix + strict.EncodeToString(append(b, secret...)), string(sum[:])
}

// parseLink returns the id and the digest of a LINK; ok is false if it is malformed.
func parseLink(link string) (id, digest string, ok bool) {
	if len(link) != linkChars || !strings.HasPrefix(link, linkPrefix) {
		return "", "", false
	}
	b, err := strict.DecodeString(link[len(linkPrefix):])
	if err != nil || len(b) != idBytes+secretBytes {
		return "", "", false
	}
	sum := sha256.Sum256(b[idBytes:])
	return strict.EncodeToString(b[:idBytes]), string(sum[:]), true
}

// The alphabets of codes. Crockford's base 32 leaves out I, L, O and U.
const (
	Digits    = "0123456789"
	Crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// newCode returns n characters of an alphabet, each with the same probability.
func newCode(alphabet string, n int) string {
	code := make([]byte, n)
	most := big.NewInt(int64(len(alphabet)))
	for i := range code {
		at, _ := rand.Int(rand.Reader, most) // draws again what would favour some characters; never fails
		code[i] = alphabet[at.Int64()]
	}
	return string(code)
}

const (
	recoveryChars = 26 // 130 bits
	recoveryGroup = 5
)

// newRecoveryCode returns a code of 130 random bits, in groups of five characters and a last one of six.
func newRecoveryCode() string {
	code := newCode(Crockford, recoveryChars)
	var groups []string
	for len(code) > recoveryGroup+1 {
		groups, code = append(groups, code[:recoveryGroup]), code[recoveryGroup:]
	}
	return strings.Join(append(groups, code), "-")
}

// normal returns a code as it was made from what a person has typed: Crockford's decoding reads small letters as capital ones, I
// and L as 1 and O as 0, and skips dashes; spaces are skipped as well. It changes no digit.
var normal = strings.NewReplacer("I", "1", "L", "1", "O", "0", "-", "", " ", "")

func normalize(code string) string { return normal.Replace(strings.ToUpper(code)) }

// recoveryDigest returns the digest of a recovery code, which is the name of its field too.
func recoveryDigest(code string) string {
	sum := sha256.Sum256([]byte("larder recovery code\x00" + normalize(code)))
	return string(sum[:16])
}
