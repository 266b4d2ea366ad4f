package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strings"

	"github.com/berthcare/larder/store/keyring"
)

// readKeyring reads a file of keys: each line has the id of a key and the key in base64; the first key is the active one.
// Empty lines and lines that begin with # are skipped. It returns nil if file is empty. Its errors name lines and do not
// repeat them.
func readKeyring(file string) (*keyring.Keyring, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is a keyring that encrypts nothing
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	active, keys := "", make(map[string][]byte)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return nil, fmt.Errorf("%s: line %d: expected the id of a key and the key in base64", file, n)
		}
		if err := keyring.CheckID(fields[0]); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", file, n, err)
		}
		key, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil || len(key) != keyring.KeyBytes {
			return nil, fmt.Errorf("%s: line %d: expected %d bytes in base64 after the id", file, n, keyring.KeyBytes)
		}
		if keys[fields[0]] != nil {
			return nil, fmt.Errorf("%s: line %d: an earlier line has the same id", file, n)
		}
		if active == "" {
			active = fields[0]
		}
		keys[fields[0]] = key
	}
	if err := lines.Err(); err != nil || active == "" {
		return nil, fmt.Errorf("%s contains no key", file)
	}
	k, err := keyring.New(active, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}
