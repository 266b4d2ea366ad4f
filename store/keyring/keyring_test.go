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

// A MAC is that of its key, record and data alone, and every key of a keyring makes one.
func TestMACs(t *testing.T) {
	t.Parallel()
	one, two := newKey(), newKey()
	k := newKeyring(t, "one", map[string][]byte{"one": one, "two": two})
	after := newKeyring(t, "two", map[string][]byte{"one": one, "two": two})
	has := func(all []keyring.MAC, want keyring.MAC) (n int) {
		for _, m := range all {
			if m.Key == want.Key && bytes.Equal(m.Sum, want.Sum) {
				n++
			}
		}
		return n
	}
	signed := k.Sign("record", []byte("data"))
	if signed.Key != "one" || len(signed.Sum) != 32 || has(after.MACs("record", []byte("data")), signed) != 1 {
		t.Errorf("Sign = %q of %d bytes, want 32 bytes under the key one that another keyring with that key makes too", signed.Key, len(signed.Sum))
	}
	var none *keyring.Keyring
	unkeyed := none.Sign("record", []byte("data"))
	if unkeyed.Key != "" || has(k.MACs("record", []byte("data")), unkeyed) != 1 || has(none.MACs("record", []byte("data")), unkeyed) != 1 {
		t.Errorf("Sign without a keyring = %+v, want a MAC without a key that every keyring makes", unkeyed)
	}
	if n := len(k.MACs("record", nil)); n != 3 {
		t.Errorf("there are %d MACs, want 3: those of two keys, and one without a key", n)
	}
	for what, all := range map[string][]keyring.MAC{
		"another record": k.MACs("record2", []byte("data")), "other data": k.MACs("record", []byte("data2")), "shifted": k.MACs("recor", []byte("ddata")),
	} {
		if has(all, signed)+has(all, unkeyed) != 0 {
			t.Errorf("a MAC is that of %s too, want it to differ", what)
		}
	}
	if sealed := k.Seal("record", "field", []byte("data")); keyring.KeyOf(sealed) != "one" || keyring.KeyOf([]byte("data")) != "" {
		t.Errorf("KeyOf = %q and %q, want one and nothing", keyring.KeyOf(sealed), keyring.KeyOf([]byte("data")))
	}
}

// KeyOf never panics, whatever is stored.
func FuzzKeyOf(f *testing.F) {
	f.Add([]byte("\xc1LE\x01\xffabc"))
	f.Fuzz(func(t *testing.T, stored []byte) {
		if id := keyring.KeyOf(stored); id != "" && !keyring.Sealed(stored) {
			t.Errorf("KeyOf(%q) = %q, want nothing", stored, id)
		}
	})
}
