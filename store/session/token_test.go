package session_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

const base64Chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// canonical reports whether s is the canonical base64 of some bytes: the spare bits of its last character are zero.
func canonical(s string, chars int, spare uint) bool {
	if len(s) != chars {
		return false
	}
	for i := range len(s) {
		if strings.IndexByte(base64Chars, s[i]) < 0 {
			return false
		}
	}
	return strings.IndexByte(base64Chars, s[chars-1])%(1<<spare) == 0
}

func isToken(s string) bool {
	rest, ok := strings.CutPrefix(s, "ls1_")
	return ok && canonical(rest, 66, 4)
}

func isSessionID(s string) bool { return canonical(s, 23, 2) }

// unconnected returns a store whose round trips fail with ErrUnavailable.
func unconnected(tb testing.TB) *store.Store {
	tb.Helper()
	s, err := store.New(store.Options{Redis: redis.Options{Addrs: []string{"127.0.0.1:1"}, NearCacheBytes: 1 << 20}})
	if err != nil {
		tb.Fatalf("store.New: error %v, want none", err)
	}
	tb.Cleanup(s.Close)
	return s
}

func TestSessionTokenForm(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		secrets := map[string]bool{}
		for _, subject := range []string{"", "ann", "ann", "bob"} {
			token, sess := createSession(t, s, namespace, sessionOf(subject))
			if !isToken(token) || len(token) != len("ls1_")+66 {
				t.Errorf("token = %q, want ls1_ and 66 characters of base64", token)
			}
			if !isSessionID(sess.ID) || !session.ValidID(sess.ID) {
				t.Errorf("session id = %q, want a valid one", sess.ID)
			}
			b := tokenBytes(t, token)
			if id := base64.RawURLEncoding.EncodeToString(b[:17]); id != sess.ID {
				t.Errorf("the token names session %s, want %s", id, sess.ID)
			}
			if p, _ := subjectPartition(namespace, subject); subject != "" && b[0] != p {
				t.Errorf("partition = %d, want the subject's %d", b[0], p)
			}
			secrets[string(b[17:])] = true
		}
		if len(secrets) != 4 {
			t.Errorf("%d different secrets of 4 sessions, want 4", len(secrets))
		}
	})
}

// Each mutation is presented while there is a session: one of the id names another session, one of the secret has another
// hash, and one of the unused bits is not canonical.
func TestSessionTokenWithOneOtherCharacterIsInactive(t *testing.T) {
	t.Parallel()
	s, namespace := storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	token, _ := createSession(t, s, namespace, sessionOf("ann"))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for at := worker; at < len(token); at += 8 {
				for _, c := range []byte(base64Chars + "=+/ \n\x00\xff") {
					if mutated := token[:at] + string([]byte{c}) + token[at+1:]; mutated != token {
						near := int(c)%2 == 0
						if got, err := s.Sessions.ValidateSession(t.Context(), namespace, mutated, near, session.TouchNever); got != nil || err != nil {
							t.Errorf("Validate with character %d as %q = %v, %v; want inactive, no error", at, c, got, err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	wantActive(t, s, namespace, token)
}

func TestMalformedSessionTokenNeverReachesRedis(t *testing.T) {
	t.Parallel()
	s := unconnected(t)
	b := bytes.Repeat([]byte{0xff}, 49)
	good := "ls1_" + base64.RawURLEncoding.EncodeToString(b)
	reaches := func(token string) bool {
		_, err := s.Sessions.ValidateSession(t.Context(), "n", token, primary, session.TouchNever)
		return errors.Is(err, redis.ErrUnavailable)
	}
	if !reaches(good) {
		t.Fatalf("token %q did not reach Redis, want it accepted", good)
	}
	last := strings.IndexByte(base64Chars, good[69])
	for bits := 1; bits < 16; bits++ {
		if other := good[:69] + base64Chars[last+bits:last+bits+1]; reaches(other) {
			t.Errorf("token %q, which is not canonical, reached Redis; want it refused", other)
		}
	}
	for _, bad := range []string{
		"", "ls1_", good[:69], good + "A", good + "=", " " + good, "LS1_" + good[4:], "ls2_" + good[4:], good[4:],
		"ls1_" + base64.StdEncoding.EncodeToString(b)[:66], good[:69] + "\n", good[:40] + "\r\n" + good[42:],
	} {
		if reaches(bad) {
			t.Errorf("token %q reached Redis, want it refused", bad)
		}
	}
}

// FuzzSessionToken compares the tokens that reach Redis with the documented form.
func FuzzSessionToken(f *testing.F) {
	good := "ls1_" + strings.Repeat("A", 66)
	for _, seed := range []string{
		"", "ls1_", good, good[:69] + "B", good[:69] + "Q", "ls1_" + strings.Repeat("\n", 66), good[:68] + "\r\n",
		good[:69] + "=", "ls1_" + strings.Repeat("é", 33), good + "A",
	} {
		f.Add(seed)
	}
	s := unconnected(f)
	f.Fuzz(func(t *testing.T, token string) {
		for _, near := range []bool{cached, primary} {
			got, err := s.Sessions.ValidateSession(t.Context(), "n", token, near, session.TouchForce)
			if taken := errors.Is(err, redis.ErrUnavailable); got != nil || taken != isToken(token) || !taken && err != nil {
				t.Errorf("Validate %q = %v, %v; want ErrUnavailable if well-formed, else inactive", token, got, err)
			}
		}
		if _, err := s.Sessions.Revoke(t.Context(), "n", byToken(token)); token != "" && (err != nil) != isToken(token) {
			t.Errorf("Revoke %q: error %v, want one if and only if well-formed", token, err)
		}
		if next, sess, err := s.Sessions.Rotate(t.Context(), "n", token, grace); next != "" || sess != nil || (err != nil) != isToken(token) {
			t.Errorf("Rotate %q: error %v, want one if and only if well-formed", token, err)
		}
		if got, err := s.Sessions.Promote(t.Context(), "n", token, session.Promotion{Subject: "ann"}); !nothing(got) || (err != nil) != isToken(token) {
			t.Errorf("Promote %q: error %v, want one if and only if well-formed", token, err)
		}
		if _, sess, err := s.Sessions.Reauthenticate(t.Context(), "n", token, session.Reauthentication{}); sess != nil || (err != nil) != isToken(token) {
			t.Errorf("Reauthenticate %q: error %v, want one if and only if well-formed", token, err)
		}
	})
}

// FuzzSessionID compares the ids that reach Redis with the documented form.
func FuzzSessionID(f *testing.F) {
	good := strings.Repeat("A", 23)
	for _, seed := range []string{"", good, good[:22] + "B", good[:22] + "E", strings.Repeat("\n", 23), good[:22] + "\n", good + "A"} {
		f.Add(seed)
	}
	s := unconnected(f)
	f.Fuzz(func(t *testing.T, id string) {
		if session.ValidID(id) != isSessionID(id) {
			t.Errorf("ValidID(%q) = %t, want %t", id, session.ValidID(id), isSessionID(id))
		}
		if got, err := s.Sessions.Get(t.Context(), "n", id); got != nil || (err != nil) != isSessionID(id) {
			t.Errorf("Get %q = %v, %v; want an error if and only if well-formed", id, got, err)
		}
	})
}

// FuzzSessionPageToken compares the page tokens that reach Redis with those that a list returned.
func FuzzSessionPageToken(f *testing.F) {
	_, hash := subjectPartition("n", "ann")
	_, other := subjectPartition("n", "bob")
	id := strings.Repeat("A", 23)
	for _, place := range []string{
		hash + ":1:" + id, other + ":1:" + id, hash + ":x:" + id, hash + ":-1:" + id, hash + ":1:", hash + ":1", "",
		hash + ":99999999999999999999:" + id, hash + ":1:" + strings.Repeat("\n", 23), hash + ":1:" + id + ":",
	} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(place)))
	}
	f.Add("!")
	s := unconnected(f)
	f.Fuzz(func(t *testing.T, token string) {
		want := token == ""
		if b, err := base64.RawURLEncoding.DecodeString(token); err == nil {
			if parts := strings.Split(string(b), ":"); len(parts) == 3 && parts[0] == hash && isSessionID(parts[2]) {
				_, err := strconv.ParseInt(parts[1], 10, 64)
				want = err == nil
			}
		}
		_, _, err := s.Sessions.ListSubject(t.Context(), "n", "ann", session.SubjectList{Token: token, Count: 10})
		if taken := errors.Is(err, redis.ErrUnavailable); taken != want && (token != "" || !taken) || !taken && !errors.Is(err, redis.ErrPageToken) {
			t.Errorf("ListSubject with token %q: error %v, want ErrUnavailable if it was given out, else ErrPageToken", token, err)
		}
	})
}

// Neither the commands sent to Redis nor its memory, slow log and files hold a token or a secret. The slow log shows
// arguments of scripts: the hash of a secret, the subject, the attributes and the device.
func TestRedisHoldsNoSessionSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := redistest.Start(t, redistest.Options{Dir: dir, Args: []string{
		"slowlog-log-slower-than", "0", "slowlog-max-len", "100000", "appendonly", "yes", "appendfsync", "always",
	}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	token, sess := createSession(t, s, "n", sessionOf("ann"))
	other, _ := createSession(t, s, "n", sessionOf("ann"))
	wantActive(t, s, "n", token)
	wantInactive(t, s, "n", wrongSecret(t, token, other))
	updateSession(t, s, "n", byToken(token), session.Changes{Set: map[string]string{"a": "b"}})
	if _, err := s.Sessions.ValidateSession(t.Context(), "n", token, cached, session.TouchForce); err != nil {
		t.Fatalf("Validate: error %v, want none", err)
	}
	revokeSession(t, s, "n", byToken(other))
	rotating, _ := createSession(t, s, "n", sessionOf("ann"))
	rotated, _ := rotate(t, s, "n", rotating)
	elevated, _ := reauthenticate(t, s, "n", rotated, session.Reauthentication{AAL: 2, AMR: []string{"otp"}})
	anonymous, _ := createSession(t, s, "n", sessionOf(""))
	promoted := promote(t, s, "n", anonymous, "ann")

	seen := map[string][]byte{"slow log": fmt.Append(nil, server.Do(t, "SLOWLOG", "GET", "-1"))}
	for _, key := range server.Do(t, "KEYS", "*").([]any) {
		kind := server.Do(t, "TYPE", key.(string)).(string)
		read := map[string][]string{"hash": {"HGETALL", key.(string)}, "zset": {"ZRANGE", key.(string), "0", "-1"}, "set": {"SMEMBERS", key.(string)}, "string": {"GET", key.(string)}, "stream": {"XRANGE", key.(string), "-", "+"}}[kind]
		seen[key.(string)] = fmt.Append([]byte(key.(string)), server.Do(t, read...))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			seen[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("WalkDir: error %v, want none", err)
	}
	secret := tokenBytes(t, token)[17:]
	hash := sha256.Sum256(secret)
	hashes := 0
	for where, text := range seen {
		for _, token := range []string{rotating, rotated, elevated, anonymous, promoted.Token} {
			secret := tokenBytes(t, token)[17:]
			if bytes.Contains(text, []byte(token[36:])) || bytes.Contains(text, secret) || bytes.Contains(text, []byte(hex.EncodeToString(secret))) {
				t.Errorf("%s holds a secret, want none", where)
			}
		}
		for what, needle := range map[string]string{
			"token": token, "its second half": token[36:], "secret": string(secret), "secret in base64": base64.RawStdEncoding.EncodeToString(secret),
			"secret in base64url": base64.RawURLEncoding.EncodeToString(secret), "secret in hex": hex.EncodeToString(secret),
		} {
			if bytes.Contains(text, []byte(needle)) {
				t.Errorf("%s holds the %s, want it absent", where, what)
			}
		}
		if bytes.Contains(text, hash[:]) {
			hashes++
		}
	}
	// The record, the slow log and the append-only file must hold the hash, or this test looks in the wrong places.
	if hashes < 3 || !bytes.Contains(seen[sessionKeysOf(t, "n", sess).record], hash[:]) {
		t.Errorf("the hash of the secret is in %d of %d places, want the record and at least 2 more", hashes, len(seen))
	}
}
