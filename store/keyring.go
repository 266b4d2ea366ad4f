package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
)

// KeyBytes is how long a key of a Keyring is.
const KeyBytes = 32

// A Keyring encrypts what is stored, with AES-256-GCM (NIST SP 800-38D). Its active key encrypts; every key decrypts what
// was encrypted with it, so that keys can be changed while data lives. It is safe for concurrent use.
//
// No two records share an encryption key: each has its own, derived with HKDF-SHA-256 (RFC 5869) from the keyring's key
// and the record's name in Redis. So a ciphertext cannot be moved from one record to another, and the 2^32 random nonces
// that SP 800-38D section 8.3 allows a key are those of one record.
type Keyring struct {
	active string
	keys   map[string]*keyringKey
}

type keyringKey struct {
	extracted []byte
	opened    atomic.Int64
}

// Sealed bytes are the magic, the length of the key's id and the id, a nonce of 12 bytes, the ciphertext and a tag of 16.
// The magic begins with a byte that UTF-8 never holds, so that no attribute is taken for sealed bytes.
const (
	sealedMagic = "\xc1LE\x01"
	// sealedOverhead is by how much sealed bytes are longer than what they hold, beside the length of the key's id.
	sealedOverhead = len(sealedMagic) + 1 + 12 + 16
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)

// NewKeyring returns a keyring. Ids are 1 to 32 letters, digits, dots, underscores and dashes, keys KeyBytes long; active is
// the id of the key to encrypt with. Errors never tell a key.
func NewKeyring(active string, keys map[string][]byte) (*Keyring, error) {
	k := &Keyring{active: active, keys: make(map[string]*keyringKey, len(keys))}
	for id, key := range keys {
		if !keyID.MatchString(id) {
			return nil, errors.New("the id of a key must be 1 to 32 letters, digits, dots, underscores and dashes")
		}
		if len(key) != KeyBytes {
			return nil, fmt.Errorf("key %s is %d bytes long instead of %d", id, len(key), KeyBytes)
		}
		extracted, err := hkdf.Extract(sha256.New, key, nil)
		if err != nil {
			return nil, err
		}
		k.keys[id] = &keyringKey{extracted: extracted}
	}
	if k.keys[active] == nil {
		return nil, errors.New("the active key is not in the keyring")
	}
	return k, nil
}

// aead returns the cipher of one record.
func (k *keyringKey) aead(record string) cipher.AEAD {
	key, err := hkdf.Expand(sha256.New, k.extracted, "larder 1 "+record, KeyBytes)
	if err != nil {
		panic(err) // the length is right
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // so is this
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // and this
	}
	return aead
}

// seal encrypts one field of a record with the active key.
func (k *Keyring) seal(record, field string, plain []byte) []byte {
	sealed := make([]byte, 0, sealedOverhead+len(k.active)+len(plain))
	sealed = append(sealed, sealedMagic...)
	sealed = append(append(sealed, byte(len(k.active))), k.active...)
	return k.keys[k.active].aead(record).Seal(sealed, nil, plain, []byte(field))
}

// sealed reports whether stored bytes are sealed ones.
func sealed(stored []byte) bool {
	return len(stored) >= len(sealedMagic) && string(stored[:len(sealedMagic)]) == sealedMagic
}

// open decrypts sealed bytes. It fails with ErrKeyUnknown without their key, a nil keyring having none, and with ErrCorrupt
// where they are not what seal made of this field of this record.
func (k *Keyring) open(record, field string, stored []byte) ([]byte, error) {
	if !sealed(stored) || len(stored) < sealedOverhead {
		return nil, &opError{kind: ErrCorrupt}
	}
	rest := stored[len(sealedMagic):]
	n := 1 + int(rest[0])
	if len(stored) < sealedOverhead+n-1 {
		return nil, &opError{kind: ErrCorrupt}
	}
	id := string(rest[1:n])
	if k == nil || k.keys[id] == nil {
		return nil, &opError{kind: ErrKeyUnknown, cause: fmt.Errorf("key %q is not in the keyring", id)}
	}
	plain, err := k.keys[id].aead(record).Open(nil, nil, rest[n:], []byte(field))
	if err != nil {
		return nil, &opError{kind: ErrCorrupt}
	}
	k.keys[id].opened.Add(1)
	return plain, nil
}

// ids returns the ids of the keys, with blanks between them.
func (k *Keyring) ids() string {
	if k == nil {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Keys(k.keys)), " ")
}

// opened returns how often each key has decrypted something.
func (k *Keyring) opened() map[string]int64 {
	if k == nil {
		return nil
	}
	counts := make(map[string]int64, len(k.keys))
	for id, key := range k.keys {
		counts[id] = key.opened.Load()
	}
	return counts
}

// sealAttributes returns attributes as they are stored.
func (s *Store) sealAttributes(record string, attributes map[string]string) map[string]string {
	if s.options.Keyring == nil || len(attributes) == 0 {
		return attributes
	}
	stored := make(map[string]string, len(attributes))
	for name, value := range attributes {
		stored[name] = string(s.options.Keyring.seal(record, name, []byte(value)))
	}
	return stored
}

// openAttributes turns stored attributes into what they hold. Those written without a keyring are left as they are.
func (s *Store) openAttributes(record string, stored map[string]string) error {
	for name, value := range stored {
		if !sealed([]byte(value)) {
			continue
		}
		plain, err := s.options.Keyring.open(record, name, []byte(value))
		if err != nil {
			return err
		}
		stored[name] = string(plain)
	}
	return nil
}
