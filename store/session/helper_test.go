package session_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// The consistencies of a validation.
const (
	cached  = true
	primary = false
)

// longest is the longest absolute timeout that these tests use.
const longest = 12 * time.Hour

// sessionOf returns a creation with long timeouts and nothing else but a subject.
func sessionOf(subject string) session.Creation {
	return session.Creation{Subject: subject, Idle: time.Hour, Absolute: longest}
}

func createSession(tb testing.TB, s *store.Store, namespace string, n session.Creation) (token string, sess *session.Session) {
	tb.Helper()
	created, err := s.Sessions.Create(tb.Context(), namespace, n)
	if err != nil {
		tb.Fatalf("Create: error %v: %s; want none", err, redis.Cause(err))
	}
	if created.Session == nil {
		tb.Fatal("Create = no session, want one")
	}
	return created.Token, created.Session
}

// validate returns the session of a token without touching it; nil means inactive.
func validate(tb testing.TB, s *store.Store, namespace, token string, near bool) *session.Session {
	tb.Helper()
	sess, err := s.Sessions.ValidateSession(tb.Context(), namespace, token, near, session.TouchNever)
	if err != nil {
		tb.Fatalf("Validate: error %v: %s; want none", err, redis.Cause(err))
	}
	return sess
}

// wantActive checks a token at both consistencies, often enough that the last answer is from the near cache alone.
func wantActive(tb testing.TB, s *store.Store, namespace, token string) {
	tb.Helper()
	for _, near := range []bool{cached, cached, cached, primary} {
		if validate(tb, s, namespace, token, near) == nil {
			tb.Errorf("inactive, want active (cached %t)", near)
		}
	}
}

func wantInactive(tb testing.TB, s *store.Store, namespace, token string) {
	tb.Helper()
	for _, near := range []bool{cached, primary, cached} {
		if validate(tb, s, namespace, token, near) != nil {
			tb.Errorf("active, want inactive (cached %t)", near)
		}
	}
}

func getSession(tb testing.TB, s *store.Store, namespace, id string) *session.Session {
	tb.Helper()
	sess, err := s.Sessions.Get(tb.Context(), namespace, id)
	if err != nil {
		tb.Fatalf("Get: error %v: %s; want none", err, redis.Cause(err))
	}
	return sess
}

func updateSession(tb testing.TB, s *store.Store, namespace string, target session.Target, u session.Changes) int64 {
	tb.Helper()
	updated, err := s.Sessions.Update(tb.Context(), namespace, target, u)
	if err != nil {
		tb.Fatalf("Update: error %v: %s; want none", err, redis.Cause(err))
	}
	return updated.Version
}

func revokeSession(tb testing.TB, s *store.Store, namespace string, target session.Target) bool {
	tb.Helper()
	revoked, err := s.Sessions.Revoke(tb.Context(), namespace, target)
	if err != nil {
		tb.Fatalf("Revoke: error %v: %s; want none", err, redis.Cause(err))
	}
	return revoked
}

func revokeSubject(tb testing.TB, s *store.Store, namespace, subject, except string) int64 {
	tb.Helper()
	revoked, err := s.Sessions.RevokeSubject(tb.Context(), namespace, subject, session.SubjectRevocation{Except: except, Longest: longest})
	if err != nil {
		tb.Fatalf("RevokeSubject: error %v: %s; want none", err, redis.Cause(err))
	}
	return revoked.Count
}

func byID(sess *session.Session) session.Target { return session.Target{ID: sess.ID} }

func byToken(token string) session.Target { return session.Target{Token: token} }

// wrongSecret returns a token with the id of one and the secret of another.
func wrongSecret(tb testing.TB, token, other string) string {
	tb.Helper()
	a, b := tokenBytes(tb, token), tokenBytes(tb, other)
	return "ls1_" + base64.RawURLEncoding.EncodeToString(append(a[:17:17], b[17:]...))
}

func tokenBytes(tb testing.TB, token string) []byte {
	tb.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "ls1_"))
	if err != nil {
		tb.Fatalf("token %q: error %v, want base64", token, err)
	}
	return b
}

// sessionKeys are the Redis keys of a session, for tests that read or change them directly.
type sessionKeys struct{ record, attributes, subject, index string }

func sessionKeysOf(tb testing.TB, namespace string, sess *session.Session) sessionKeys {
	tb.Helper()
	b, err := base64.RawURLEncoding.DecodeString(sess.ID)
	if err != nil {
		tb.Fatalf("id %q: error %v, want base64", sess.ID, err)
	}
	at := fmt.Sprintf(":{p%d}:%s:", b[0], namespace)
	_, hash := subjectPartition(namespace, sess.Subject)
	index := "ld:i" + at + hash
	if class := sess.Device.Class; class != "" {
		index += ":" + class
	}
	return sessionKeys{"ld:s" + at + sess.ID, "ld:d" + at + sess.ID, "ld:u" + at + hash, index}
}

// subjectPartition returns the partition of a subject and its name in keys.
func subjectPartition(namespace, subject string) (partition byte, hash string) {
	sum := sha256.Sum256([]byte(namespace + "\x00" + subject))
	return sum[0], hex.EncodeToString(sum[:16])
}

// age moves the times of a session into the past.
func age(tb testing.TB, s *store.Store, namespace string, sess *session.Session, by time.Duration) {
	tb.Helper()
	keys, ms := sessionKeysOf(tb, namespace, sess), fmt.Sprint(-by.Milliseconds())
	if storetest.Command(tb, s, "EXISTS", keys.record) == int64(0) {
		return
	}
	fields := []string{"ct", "la", "abs"}
	if storetest.Command(tb, s, "HEXISTS", keys.record, "ab") == int64(1) {
		fields = append(fields, "ab")
	}
	for _, field := range fields {
		storetest.Command(tb, s, "HINCRBY", keys.record, field, ms)
	}
	if sess.Subject != "" {
		storetest.Command(tb, s, "ZADD", keys.index, "XX", "INCR", ms, sess.ID)
	}
}

// timeToLive returns the remaining time to live of a key.
func timeToLive(tb testing.TB, s *store.Store, key string) time.Duration {
	tb.Helper()
	ms, _ := storetest.Command(tb, s, "PTTL", key).(int64)
	return time.Duration(ms) * time.Millisecond
}
