// Package keyring encrypts what Larder stores in Redis, under keys that can be replaced while data lives.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync/atomic"
)

// KeyBytes is the length of a key.
const KeyBytes = 32

var (
	// ErrKeyUnknown means that stored bytes were encrypted with a key that the keyring does not hold.
	ErrKeyUnknown = errors.New("the stored data was encrypted with a key that is not in the keyring")
	// ErrCorrupt means that stored bytes are not what [Keyring.Seal] returned for this field of this record.
	ErrCorrupt = errors.New("the stored data cannot be decrypted")
)

// A Keyring encrypts fields of records with AES-256-GCM (NIST SP 800-38D). The active key encrypts; every key decrypts, so
// that the active key can be replaced while data lives. Make one with [New]. It is safe for concurrent use. A nil Keyring holds no key.
//
// Each record has an encryption key of its own, derived with HKDF-SHA-256 (RFC 5869) from the keyring's key and the record's
// key in Redis. A ciphertext therefore cannot be moved from one record to another, and the limit of 2^32 random nonces for
// one key (SP 800-38D section 8.3) applies to a single record.
type Keyring struct {
	set atomic.Pointer[set]
}

// A set is the keys of a keyring at one time.
type set struct {
	active string
	keys   map[string]*secret
}

type secret struct {
	extracted []byte
	opened    atomic.Int64
}

// Sealed bytes are the magic, the length of the key's id and the id, a nonce of 12 bytes, the ciphertext and a tag of 16.
// The magic begins with a byte that UTF-8 never holds, so that no attribute is taken for sealed bytes.
const (
	magic = "\xc1LE\x01"
	// overhead is the length of sealed bytes less those of the plaintext and the key's id.
	overhead = len(magic) + 1 + 12 + 16
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)

// CheckID returns an error unless id can name a key: 1 to 32 letters, digits, dots, underscores and dashes. The error does
// not repeat the id.
func CheckID(id string) error {
	if !keyID.MatchString(id) {
		return errors.New("the id of a key must be 1 to 32 letters, digits, dots, underscores and dashes")
	}
	return nil
}

// New returns a keyring of keys by id, which encrypts with the key named active. An id is 1 to 32 letters, digits, dots,
// underscores and dashes, as [CheckID] checks; a key is [KeyBytes] long. Errors never contain a key.
func New(active string, keys map[string][]byte) (*Keyring, error) {
	k := new(Keyring)
	if err := k.Replace(active, keys); err != nil {
		return nil, err
	}
	return k, nil
}

// Replace replaces the keys, as those of [New], for calls that begin from now on. It fails, and changes nothing, where [New]
// fails, and if a key that the keyring holds would become another under the same id: what it has encrypted would be lost.
func (k *Keyring) Replace(active string, keys map[string][]byte) error {
	next, err := newSet(active, keys)
	if err != nil {
		return err
	}
	if before := k.set.Load(); before != nil {
		for id, key := range next.keys {
			held := before.keys[id]
			switch {
			case held == nil:
			case subtle.ConstantTimeCompare(held.extracted, key.extracted) == 0:
				return fmt.Errorf("key %s is another one than before: a new key needs a new id", id)
			default:
				next.keys[id] = held // which counts its uses
			}
		}
	}
	k.set.Store(next)
	return nil
}

// newSet returns a set of keys.
func newSet(active string, keys map[string][]byte) (*set, error) {
	k := &set{active: active, keys: make(map[string]*secret, len(keys))}
	for id, key := range keys {
		if err := CheckID(id); err != nil {
			return nil, err
		}
		if len(key) != KeyBytes {
			return nil, fmt.Errorf("key %s is %d bytes long instead of %d", id, len(key), KeyBytes)
		}
		extracted, err := hkdf.Extract(sha256.New, key, nil)
		if err != nil {
			return nil, err
		}
		k.keys[id] = &secret{extracted: extracted}
	}
	if k.keys[active] == nil {
		return nil, errors.New("the active key is not in the keyring")
	}
	return k, nil
}

// aead returns the cipher of one record.
func (k *secret) aead(record string) cipher.AEAD {
	key, err := hkdf.Expand(sha256.New, k.extracted, "larder 1 "+record, KeyBytes)
	if err != nil {
		panic(err) // HKDF fails only for a length above 255 hashes
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // AES fails only for a length that is not 16, 24 or 32
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // GCM fails only for a cipher of another block size
	}
	return aead
}

// Seal encrypts one field of a record with the active key. It panics on a nil Keyring.
func (k *Keyring) Seal(record, field string, plain []byte) []byte {
	s := k.set.Load()
	sealed := make([]byte, 0, overhead+len(s.active)+len(plain))
	sealed = append(sealed, magic...)
	sealed = append(append(sealed, byte(len(s.active))), s.active...)
	return s.keys[s.active].aead(record).Seal(sealed, nil, plain, []byte(field))
}

// Sealed reports whether stored bytes were returned by [Keyring.Seal].
func Sealed(stored []byte) bool {
	return len(stored) >= len(magic) && string(stored[:len(magic)]) == magic
}

// Open decrypts sealed bytes. It returns [ErrKeyUnknown] if the keyring lacks their key, and [ErrCorrupt] if they are not
// what [Keyring.Seal] returned for this field of this record.
func (k *Keyring) Open(record, field string, stored []byte) ([]byte, error) {
	if !Sealed(stored) || len(stored) < overhead {
		return nil, ErrCorrupt
	}
	rest := stored[len(magic):]
	n := 1 + int(rest[0])
	if len(stored) < overhead+n-1 {
		return nil, ErrCorrupt
	}
	id := string(rest[1:n])
	var key *secret
	if k != nil {
		key = k.set.Load().keys[id]
	}
	if key == nil {
		return nil, fmt.Errorf("%w: key %q", ErrKeyUnknown, id)
	}
	plain, err := key.aead(record).Open(nil, nil, rest[n:], []byte(field))
	if err != nil {
		return nil, ErrCorrupt
	}
	key.opened.Add(1)
	return plain, nil
}

// KeyOf returns the id of the key that sealed bytes are encrypted with; empty if they are not sealed.
func KeyOf(stored []byte) string {
	if !Sealed(stored) || len(stored) < overhead {
		return ""
	}
	rest := stored[len(magic):]
	return string(rest[1:min(1+int(rest[0]), len(rest))])
}

// Active returns the id of the key that encrypts; empty for a nil Keyring.
func (k *Keyring) Active() string {
	if k == nil {
		return ""
	}
	return k.set.Load().active
}

// IDs returns the ids of the keys, sorted.
func (k *Keyring) IDs() []string {
	if k == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(k.set.Load().keys))
}

// Uses returns how often each key has decrypted something since the start, by id.
func (k *Keyring) Uses() map[string]int64 {
	if k == nil {
		return nil
	}
	keys := k.set.Load().keys
	counts := make(map[string]int64, len(keys))
	for id, key := range keys {
		counts[id] = key.opened.Load()
	}
	return counts
}
