package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"maps"
	"slices"
)

// A MAC authenticates data under one key of a keyring.
type MAC struct {
	// Key is the id of the key; empty means that there is none and Sum is a plain SHA-256, which whoever has the data can make.
	Key string
	// Sum is an HMAC-SHA-256 (RFC 2104), 32 bytes.
	Sum []byte
}

// Sign returns the MAC of data under the active key. Each record has a key of its own, derived as for [Keyring.Seal] with other
// info. A nil Keyring returns one without a key.
func (k *Keyring) Sign(record string, data []byte) MAC {
	if k == nil {
		return unkeyed(record, data)
	}
	s := k.set.Load()
	return MAC{s.active, s.keys[s.active].mac(record, data)}
}

// MACs returns the MACs of data under every key and that without a key, for a comparison with what [Keyring.Sign] has returned
// under any of them.
func (k *Keyring) MACs(record string, data []byte) []MAC {
	all := []MAC{unkeyed(record, data)}
	if k == nil {
		return all
	}
	keys := k.set.Load().keys
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		all = append(all, MAC{id, keys[id].mac(record, data)})
	}
	return all
}

func unkeyed(record string, data []byte) MAC {
	sum := sha256.Sum256(append([]byte("larder mac 0 "+record+"\x00"), data...))
	return MAC{Sum: sum[:]}
}

func (k *secret) mac(record string, data []byte) []byte {
	key, err := hkdf.Expand(sha256.New, k.extracted, "larder mac 1 "+record, KeyBytes)
	if err != nil {
		panic(err) // HKDF fails only for a length above 255 hashes
	}
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
