package lock

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// tokenPrefix begins every lock token, so that leaked ones can be found.
const tokenPrefix = "ll1_"

const (
	idBytes     = 16
	secretBytes = 16
	saltBytes   = 16
)

// A credential proves that its bearer is a holder.
type credential struct {
	// id is the holder id in hexadecimal digits, which names the holder in Redis.
	id string
	// proof is the hash of the secret, which Redis holds.
	proof string
}

// parseToken returns what a lock token proves; ok is false if it has not the form of one.
func parseToken(token string) (c credential, ok bool) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return c, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != idBytes+secretBytes || len(text) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return c, false
	}
	return credential{hex.EncodeToString(b[:idBytes]), proofOf(b[idBytes:])}, true
}

// ValidToken reports whether a token has the form of a lock token.
func ValidToken(token string) bool {
	_, ok := parseToken(token)
	return ok
}

// proofOf returns the hash of a secret that Redis holds. The secret is 128 random bits, so that it needs no salt.
func proofOf(secret []byte) string {
	sum := sha256.Sum256(secret)
	return string(sum[:secretBytes])
}

// holderID returns the id of the holder that a request makes, from which the request cannot be learned.
func holderID(k lockKey, request string) string {
	sum := sha256.Sum256([]byte("larder lock 1\x00" + k.namespace + "\x00" + k.name + "\x00" + request))
	return hex.EncodeToString(sum[:idBytes])
}

// secretOf derives a holder's secret from its request and the salt that Redis holds, so that a repeated request is given the
// same token although Redis holds none.
func secretOf(k lockKey, request string, salt string) []byte {
	mac := hmac.New(sha256.New, []byte(request))
	_, _ = mac.Write([]byte("larder lock 1\x00" + k.namespace + "\x00" + k.name + "\x00" + salt))
	return mac.Sum(nil)[:secretBytes]
}

// tokenOf returns the lock token of a holder.
func tokenOf(id string, secret []byte) string {
	b, err := hex.DecodeString(id)
	if err != nil {
		panic(err) // ids are made by holderID
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, secret...))
}

func newSalt() string {
	var b [saltBytes]byte
	_, _ = rand.Read(b[:])
	return string(b[:])
}
