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

// secrets are the hashes of the secrets that a session has and had.
type secrets struct {
	// hash is that of the current secret and salt the one that the current secret was derived with. unseen is true until a
	// caller presents the current secret.
	hash, salt []byte
	unseen     bool
	// previous is the hash of the secret before; empty for none. It is good until usableUntil and as long as the current
	// secret is unseen, unless usableUntil is zero; presenting it from reuseFrom on is theft. Both are Unix milliseconds.
	previous               []byte
	usableUntil, reuseFrom int64
	// older are the first olderBytes bytes of the hashes of the secrets before that; presenting one from olderReuseFrom on
	// is theft.
	older          []byte
	olderReuseFrom int64
}

// olderBytes is the length of an older hash: too long for anybody to find another secret that matches it.
const olderBytes = 8

// standing says what a secret is to a session.
type standing int

const (
	strange  standing = iota // not a secret of the session, or no longer good
	current                  // the current secret
	previous                 // superseded and still good
	reused                   // superseded and no longer in honest use: stolen
)

// presented returns the standing of the secret with this hash. It mirrors presented in common.lua.
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
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return b
}

// derive returns the successor of a secret under a salt: HKDF with SHA-256 (RFC 5869). Neither the secret alone nor the
// contents of Redis alone yield the successor.
func derive(secret, salt []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, "larder session secret", secretBytes)
	if err != nil {
		panic(err) // HKDF supports this fixed length
	}
	return key
}

// withSecret returns the token and the credential of the same session with another secret.
func (c credential) withSecret(secret []byte) (token string, next credential) {
	b, _ := strict.DecodeString(c.id)
	b = append(b[:idBytes], secret...)
	return tokenPrefix + strict.EncodeToString(b), credentialOf(b)
}

// latest returns the current secret of a session from the credential that the caller presented, which is the current one or
// the one before.
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
