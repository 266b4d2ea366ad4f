package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
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

// A key is replaced without a restart: the new one is added, then made the active one, then the old one removed. What is wrong
// with the file leaves the keys as they are.
func TestKeyringIsReadAnew(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	key := func(id string, b byte) string {
		return id + " " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, keyring.KeyBytes)) + "\n"
	}
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace(key("old", 1))
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_KEYRING_FILE": file})
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	sessions := sessionv1.NewSessionServiceClient(p.dial(t))
	create := func() string {
		t.Helper()
		made, err := sessions.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "b"}})
		if err != nil {
			t.Fatalf("CreateSession = %v, want nil", err)
		}
		return made.GetSession().GetSessionId()
	}
	get := func(id string) string {
		got, err := sessions.GetSession(t.Context(), &sessionv1.GetSessionRequest{SessionId: id})
		return got.GetSession().GetAttributes()["a"] + status.Code(err).String()
	}
	first := create()
	for n, step := range []string{key("old", 1) + key("new", 2), key("new", 2) + key("old", 1)} {
		replace(step)
		p.log.AwaitLines(t, `"msg":"the keyring has changed"`, n+1)
	}
	second := create()
	for n, bad := range []string{"", "new nonsense\n", key("new", 3) + key("old", 1)} {
		replace(bad)
		line := p.log.AwaitLines(t, "the keyring file is rejected", n+1)
		if strings.Contains(line, base64.StdEncoding.EncodeToString([]byte{3, 3, 3})) {
			t.Errorf("the log has a key: %s", line)
		}
	}
	if got := get(first) + " " + get(second); got != "bOK bOK" {
		t.Errorf("sessions of the old and of the new key = %q, want both", got)
	}
	replace(key("new", 2))
	p.log.AwaitLines(t, `"msg":"the keyring has changed"`, 3)
	if got := get(first) + " " + get(second); got != "DataLoss bOK" {
		t.Errorf("sessions after the old key was removed = %q, want the second one alone", got)
	}
	_, page := p.get(t, "/metrics")
	for _, want := range []string{`larder_keyring_reloads_total{result="applied"} 3`, `larder_keyring_reloads_total{result="rejected"} 3`, `larder_keyring_opened_total{key="new"} `} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics has no %s, want it", want)
		}
	}
	if strings.Contains(page, `larder_keyring_opened_total{key="old"}`) {
		t.Error("/metrics has a series of the key that was removed, want none")
	}
}
