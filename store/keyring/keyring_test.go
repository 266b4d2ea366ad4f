package keyring_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/berthcare/larder/store/keyring"
)

func newKey() []byte {
	key := make([]byte, keyring.KeyBytes)
	_, _ = rand.Read(key)
	return key
}

func newKeyring(t testing.TB, active string, keys map[string][]byte) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(active, keys)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNewRefusesBadKeys(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		active string
		keys   map[string][]byte
	}{
		"no active key":  {"b", map[string][]byte{"a": newKey()}},
		"no key":         {"", nil},
		"short key":      {"a", map[string][]byte{"a": newKey()[:31]}},
		"long key":       {"a", map[string][]byte{"a": append(newKey(), 0)}},
		"empty id":       {"", map[string][]byte{"": newKey()}},
		"id with spaces": {"a b", map[string][]byte{"a b": newKey()}},
		"long id":        {strings.Repeat("a", 33), map[string][]byte{strings.Repeat("a", 33): newKey()}},
	} {
		if k, err := keyring.New(c.active, c.keys); err == nil || k != nil {
			t.Errorf("New with %s = %v, %v, want nil and an error", what, k, err)
		} else if c.keys["a"] != nil && bytes.Contains([]byte(err.Error()), c.keys["a"]) {
			t.Errorf("New with %s: the error %q contains the key", what, err)
		}
	}
}

// Whatever is sealed comes back under its own record and field, and under no other; not one of its bytes can be changed.
func TestSealedBytesBelongToTheirField(t *testing.T) {
	t.Parallel()
	k := newKeyring(t, "a", map[string][]byte{"a": newKey()})
	rapid.Check(t, func(t *rapid.T) {
		record, field := rapid.String().Draw(t, "record"), rapid.String().Draw(t, "field")
		plain := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "plain")
		stored := k.Seal(record, field, plain)
		if len(plain) >= 8 && bytes.Contains(stored, plain) {
			t.Fatalf("sealed %q holds the plaintext %q", stored, plain)
		}
		got, err := k.Open(record, field, stored)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Open = %q, %v, want %q", got, err, plain)
		}
		if bytes.Equal(stored, k.Seal(record, field, plain)) {
			t.Fatal("Seal returned equal bytes twice, want another nonce each time")
		}
		for what, open := range map[string]func() ([]byte, error){
			"another record": func() ([]byte, error) { return k.Open(record+"x", field, stored) },
			"another field":  func() ([]byte, error) { return k.Open(record, field+"x", stored) },
			"cut short": func() ([]byte, error) {
				return k.Open(record, field, stored[:rapid.IntRange(0, len(stored)-1).Draw(t, "cut")])
			},
			"changed": func() ([]byte, error) {
				changed := bytes.Clone(stored)
				changed[rapid.IntRange(0, len(stored)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				return k.Open(record, field, changed)
			},
		} {
			if got, err := open(); !errors.Is(err, keyring.ErrCorrupt) && !errors.Is(err, keyring.ErrKeyUnknown) || got != nil {
				t.Fatalf("Open of bytes of %s = %q, %v, want ErrCorrupt or ErrKeyUnknown", what, got, err)
			}
		}
	})
}
