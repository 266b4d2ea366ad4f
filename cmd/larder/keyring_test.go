package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthcare/larder/store/keyring"
)

func TestKeyringFile(t *testing.T) {
	t.Parallel()
	canary := []byte("a key of 32 bytes, shown nowhere")
	key, other := base64.StdEncoding.EncodeToString(canary), base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, keyring.KeyBytes))
	for _, test := range []struct{ name, text, fault string }{
		{"One", "2026-11 " + key, ""},
		{"Several", "# the active one first\r\n2026-11\t" + key + "\r\n\r\n  2026-05   " + other + "  \n", ""},
		{"Empty", "", "contains no key"},
		{"CommentsAlone", "# none\n", "contains no key"},
		{"KeyAlone", "a " + other + "\n" + key, "line 2: expected the id"},
		{"ThreeFields", "a " + key + " active", "line 1: expected the id"},
		{"NotBase64", "a " + key[:len(key)-2] + "!!", "line 1: expected 32 bytes"},
		{"ShortKey", "a " + base64.StdEncoding.EncodeToString(canary[:16]), "line 1: expected 32 bytes"},
		{"IDTwice", "a " + key + "\na " + other, "line 2: an earlier line has the same id"},
		{"BadID", "# keys\na " + other + "\na/b " + key, "line 3: the id of a key must be 1 to 32 letters"},
		{"LongLine", "a " + strings.Repeat(key, 10000), "contains no key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			server, _, err := settings(t, environ{"LARDER_KEYRING_FILE": file}).Options()
			if test.fault == "" {
				if err != nil || server.Keyring == nil {
					t.Errorf("Options = keyring %v, %v; want a keyring", server.Keyring, err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "LARDER_KEYRING_FILE: "+file) || !strings.Contains(err.Error(), test.fault) {
				t.Fatalf("Options = %v, want a fault that names the variable and the file and contains %q", err, test.fault)
			}
			if strings.Contains(err.Error(), key[:8]) || strings.Contains(err.Error(), string(canary[:8])) {
				t.Errorf("the error repeats the key: %v", err)
			}
		})
	}
	if server, _, err := settings(t, nil).Options(); server.Keyring != nil || err != nil {
		t.Errorf("Options without a file = keyring %v, %v; want none", server.Keyring, err)
	}
}
