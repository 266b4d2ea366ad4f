package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/store/keyring"
)

// maxKeyringBytes is the maximum size of the keyring file, far more than a keyring needs.
const maxKeyringBytes = 1 << 20

// readKeyring reads a file of keys. It returns nil if file is empty.
func readKeyring(file string) (*keyring.Keyring, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is a keyring that encrypts nothing
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	active, keys, err := parseKeyring(file, text)
	if err != nil {
		return nil, err
	}
	k, err := keyring.New(active, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// A keyringFile replaces the keys of a keyring whenever their file changes.
type keyringFile struct {
	path    string
	keyring *keyring.Keyring
	metrics *service.Metrics
	log     *slog.Logger

	tried string // the text that was last tried, or why it could not be read
}

// watch reloads the file whenever it changes, until ctx ends.
func (k *keyringFile) watch(ctx context.Context) { watchFile(ctx, k.path, "keyring", k.log, k.reload) }

// reload reads the file if it has changed. A faulty one leaves the keys as they are.
func (k *keyringFile) reload() {
	text, err := os.ReadFile(k.path)
	tried := string(text)
	if err != nil {
		tried = err.Error()
	}
	if tried == k.tried {
		return
	}
	k.tried = tried
	active, before := k.keyring.Active(), k.keyring.IDs()
	if err == nil {
		err = k.apply(text)
	}
	if err == nil && active == k.keyring.Active() && slices.Equal(before, k.keyring.IDs()) {
		return // a comment has changed, or it is the file as it was at the start
	}
	k.metrics.KeyringReloaded(err)
	if err != nil {
		k.log.Error("the keyring file is rejected and the old keys stay in use", "error", err.Error())
		return
	}
	var removed []string
	for _, id := range before {
		if !slices.Contains(k.keyring.IDs(), id) {
			removed = append(removed, id)
		}
	}
	k.log.Info("the keyring has changed", "file", k.path, "active", k.keyring.Active(), "keys", k.keyring.IDs(), "removed", removed)
}

func (k *keyringFile) apply(text []byte) error {
	active, keys, err := parseKeyring(k.path, text)
	if err != nil {
		return err
	}
	if err := k.keyring.Replace(active, keys); err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	return nil
}

// parseKeyring parses a file of keys: each line has the id of a key and the key in base64; the first key is the active one.
// Empty lines and lines that begin with # are skipped. Its errors name lines and do not repeat them.
func parseKeyring(file string, text []byte) (active string, keys map[string][]byte, err error) {
	if len(text) > maxKeyringBytes {
		return "", nil, fmt.Errorf("%s: is longer than %d bytes", file, maxKeyringBytes)
	}
	keys = make(map[string][]byte)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return "", nil, fmt.Errorf("%s: line %d: expected the id of a key and the key in base64", file, n)
		}
		if err := keyring.CheckID(fields[0]); err != nil {
			return "", nil, fmt.Errorf("%s: line %d: %w", file, n, err)
		}
		key, err := base64.StdEncoding.DecodeString(fields[1])
		if err != nil || len(key) != keyring.KeyBytes {
			return "", nil, fmt.Errorf("%s: line %d: expected %d bytes in base64 after the id", file, n, keyring.KeyBytes)
		}
		if keys[fields[0]] != nil {
			return "", nil, fmt.Errorf("%s: line %d: an earlier line has the same id", file, n)
		}
		if active == "" {
			active = fields[0]
		}
		keys[fields[0]] = key
	}
	if err := lines.Err(); err != nil || active == "" {
		return "", nil, fmt.Errorf("%s contains no key", file)
	}
	return active, keys, nil
}
