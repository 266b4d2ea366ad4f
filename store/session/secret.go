package session

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// secrets are what a record says of the secrets that a session has and had. All times are Unix milliseconds.
type secrets struct {
	// hash is that of the current secret and salt the one that the current secret was derived with. unseen is true until a
	// caller presents the current secret.
	hash, salt []byte
	unseen     bool
	// previous is the hash of the secret before; empty for none. It is good until usableUntil and as long as the current
	// secret is unseen, unless usableUntil is zero; presenting it from reuseFrom on is theft.
	previous               []byte
	usableUntil, reuseFrom int64
	// superseded are secrets before that which do not count as stolen yet.
	superseded []superseded
	// lineage and generation are those of the current secret. Any other secret of the lineage and an earlier generation is
	// stolen, however long ago it was superseded.
	lineage    []byte
	generation uint32
	// older are the first olderBytes bytes of the hashes of secrets that versions of Larder without lineages have superseded;
	// presenting one from olderReuseFrom on is theft.
	older          []byte
	olderReuseFrom int64
}

// superseded is a secret that was superseded a short while ago: it is good until usableUntil, and stolen if it is presented
// from reuseFrom on.
type superseded struct {
	hash                   string // the first supersededBytes bytes
	usableUntil, reuseFrom int64
	salt                   []byte // leads to the successor
}

const (
	// supersededField begins the names of the fields that describe superseded secrets; the rest is the hash.
	supersededField = "o:"
	supersededBytes = 16
	// maxSuperseded bounds them. It mirrors MAX_SUPERSEDED in common.lua.
	maxSuperseded = 128
	// olderBytes is the length of an older hash: too long for anybody to find another secret that matches it.
	olderBytes = 8
)

// parseSuperseded reads a field of a record that describes a superseded secret.
func parseSuperseded(name, value string) (s superseded, ok bool) {
	parts := strings.SplitN(value, " ", 3)
	if len(parts) != 3 || len(name) != len(supersededField)+supersededBytes {
		return s, false
	}
	var err1, err2 error
	s.hash, s.salt = name[len(supersededField):], []byte(parts[2])
	s.usableUntil, err1 = strconv.ParseInt(parts[0], 10, 64)
	s.reuseFrom, err2 = strconv.ParseInt(parts[1], 10, 64)
	return s, err1 == nil && err2 == nil
}

// standing says what a secret is to a session.
type standing int

const (
	strange  standing = iota // not a secret of the session, or no longer good
	current                  // the current secret
	previous                 // superseded and still good
	reused                   // superseded and no longer in honest use: stolen
)

// presented returns the standing of a credential. It mirrors presented in common.lua.
func (x *secrets) presented(c credential, now time.Time) standing {
	hash := c.hash[:]
	if subtle.ConstantTimeCompare(x.hash, hash) == 1 {
		return current
	}
	ms := now.UnixMilli()
	if subtle.ConstantTimeCompare(x.previous, hash) == 1 {
		switch {
		case x.usableUntil > 0 && (ms < x.usableUntil || x.unseen):
			return previous
		case ms >= x.reuseFrom:
			return reused
		}
		return strange
	}
	if s := x.find(hash); s != nil {
		switch {
		case ms < s.usableUntil:
			return previous
		case ms >= s.reuseFrom:
			return reused
		}
		return strange
	}
	if subtle.ConstantTimeCompare(x.lineage, c.lineage()) == 1 {
		// A later generation than the current one is that of a secret which a failover has lost, which is no theft.
		if int32(x.generation-c.generation()) > 0 { //nolint:gosec // generations wrap around
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

// find returns what is known of a superseded secret; nil for nothing.
func (x *secrets) find(hash []byte) (found *superseded) {
	for i := range x.superseded {
		if subtle.ConstantTimeCompare([]byte(x.superseded[i].hash), hash[:supersededBytes]) == 1 {
			found = &x.superseded[i]
		}
	}
	return found
}

const saltBytes = 16

func newSalt() []byte {
	b := make([]byte, saltBytes)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return b
}

// derive returns 32 bytes that follow from a secret and a salt: HKDF with SHA-256 (RFC 5869). Neither the secret alone nor the
// contents of Redis alone yield them.
func derive(secret, salt []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, "larder session secret", secretBytes)
	if err != nil {
		panic(err) // HKDF supports this fixed length
	}
	return key
}

// A secret begins with its lineage, which all secrets of a session share, and its generation, which is one more than that of
// its predecessor. The other 128 bits are all that its predecessor does not tell.
const (
	lineageBytes    = 12
	generationBytes = 4
)

// following returns the secret of the next generation after another one, with the given bytes as what is new in it.
func following(secret, fresh []byte) []byte {
	next := bytes.Clone(secret)
	generation := next[lineageBytes : lineageBytes+generationBytes]
	binary.BigEndian.PutUint32(generation, binary.BigEndian.Uint32(generation)+1)
	copy(next[lineageBytes+generationBytes:], fresh)
	return next
}

// succeed returns the successor of a secret under a salt.
func succeed(secret, salt []byte) []byte { return following(secret, derive(secret, salt)) }

// withSecret returns the token and the credential of the same session with another secret.
func (c credential) withSecret(secret []byte) (token string, next credential) {
	b, _ := strict.DecodeString(c.id)
	b = append(b[:idBytes], secret...)
	return tokenPrefix + strict.EncodeToString(b), credentialOf(b)
}

// latest returns the current secret of a session from the credential that the caller presented, which is the current one or a
// superseded one that is still good.
func (x *secrets) latest(c credential) ([]byte, error) {
	secret := c.secret
	for range maxSuperseded + 2 {
		hash := sha256.Sum256(secret)
		if subtle.ConstantTimeCompare(hash[:], x.hash) == 1 {
			return secret, nil
		}
		salt := x.salt
		if subtle.ConstantTimeCompare(hash[:], x.previous) != 1 {
			s := x.find(hash[:])
			if s == nil {
				break
			}
			salt = s.salt
		} else if next := derive(secret, salt); sha256.Sum256(next) == [sha256.Size]byte(x.hash) {
			return next, nil // of a version of Larder without lineages
		}
		secret = succeed(secret, salt)
	}
	return nil, redis.ErrInternal
}
