package session

import (
	"strings"

	"github.com/berthcare/larder/store/keyring"
)

// keyIDs returns the ids of the keys that this process can decrypt with, separated by spaces.
func (s *Sessions) keyIDs() string { return strings.Join(s.keyring.IDs(), " ") }

// sealAttributes returns attributes as they are stored: encrypted if there is a keyring.
func (s *Sessions) sealAttributes(record string, attributes map[string]string) map[string]string {
	if s.keyring == nil || len(attributes) == 0 {
		return attributes
	}
	stored := make(map[string]string, len(attributes))
	for name, value := range attributes {
		stored[name] = string(s.keyring.Seal(record, name, []byte(value)))
	}
	return stored
}

// openAttributes decrypts stored attributes in place. Attributes that were written without a keyring stay as they are.
func (s *Sessions) openAttributes(record string, stored map[string]string) error {
	for name, value := range stored {
		if !keyring.Sealed([]byte(value)) {
			continue
		}
		plain, err := s.keyring.Open(record, name, []byte(value))
		if err != nil {
			return unreadable(err)
		}
		stored[name] = string(plain)
	}
	return nil
}
