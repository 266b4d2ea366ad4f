package session

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// secrets are what a record knows of the secrets that a session has had.
type secrets struct {
	// hash is that of the current one, salt what it was derived with from the one before; unseen is set until somebody
	// presents it.
	hash, salt []byte
	unseen     bool
	// previous is the hash of the one before, empty for none. It is good until usableUntil, and for as long as the current
	// one is unseen, unless usableUntil is zero; from reuseFrom on it is a sign of theft. Both are Unix milliseconds.
	previous               []byte
	usableUntil, reuseFrom int64
	// older are the first olderBytes of the hashes of those before that, which are a sign of theft from olderReuseFrom on.
	older          []byte
	olderReuseFrom int64
}

// olderBytes is how much of an older hash is kept: nobody who does not know the secret comes by it.
const olderBytes = 8

// standing is what a secret is to a session.
type standing int

const (
	strange  standing = iota // not one of its secrets, or no longer
	current                  // the one that it has
	previous                 // superseded and still good
	reused                   // superseded so long ago that only a thief still has it
)

// presented says what a secret with this hash is to the session, as session.lua does.
func (x *secrets) presented(hash []byte, now time.Time) standing {
	ms := now.UnixMilli()
	if subtle.ConstantTimeCompare(x.hash, hash) == 1 {
		return current
	}
	if subtle.ConstantTimeCompare(x.previous, hash) == 1 {
		switch {
		case x.usableUntil > 0 && (ms < x.usableUntil || x.unseen):
			return previous
		case ms >= x.reuseFrom:
			return reused
		}
		return strange
	}
	found := 0
	for i := 0; i+olderBytes <= len(x.older); i += olderBytes {
		found |= subtle.ConstantTimeCompare(x.older[i:i+olderBytes], hash[:olderBytes])
	}
	if found == 1 && ms >= x.olderReuseFrom {
		return reused
	}
	return strange
}

const saltBytes = 16

func newSalt() []byte {
	b := make([]byte, saltBytes)
	_, _ = rand.Read(b) // it never fails
	return b
}

// derive returns the secret that follows from another one and a salt, by HKDF with SHA-256 (RFC 5869). Who knows only the
// secret, or only what is in Redis, cannot tell.
func derive(secret, salt []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, "larder session secret", secretBytes)
	if err != nil {
		panic(err) // the length is fixed, and one that HKDF can give
	}
	return key
}

// withSecret returns the token and the credential of the same session with another secret.
func (c credential) withSecret(secret []byte) (token string, next credential) {
	b, _ := strict.DecodeString(c.id)
	b = append(b[:idBytes], secret...)
	return tokenPrefix + strict.EncodeToString(b), credentialOf(b)
}

// latest returns the session's current secret, of which the one that a caller presented is itself or the one before.
func (x *secrets) latest(c credential) ([]byte, error) {
	secret := c.secret
	if !bytes.Equal(c.hash[:], x.hash) {
		secret = derive(secret, x.salt)
	}
	if hash := sha256.Sum256(secret); subtle.ConstantTimeCompare(hash[:], x.hash) != 1 {
		return nil, redis.ErrInternal
	}
	return secret, nil
}
