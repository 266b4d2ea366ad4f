package session_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
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

// sessionOf returns what a session of a subject is created with where nothing else matters.
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

// validate returns the session of a token, without touching it.
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

// sessionKeys are where a session is in Redis, for tests that look at it or change it behind the store's back.
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

// age moves a session into the past, as if all that was recorded of it had happened so much earlier.
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

// timeToLive returns how long a key is kept.
func timeToLive(tb testing.TB, s *store.Store, key string) time.Duration {
	tb.Helper()
	ms, _ := storetest.Command(tb, s, "PTTL", key).(int64)
	return time.Duration(ms) * time.Millisecond
}

func TestCreatedSessionReadsBackAsItWasMade(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := session.Creation{
			Subject: "ann", Attributes: map[string]string{"role": "admin", "h": "x", "ep": "9", "bin": "\x00\xff", "": ""},
			Idle: time.Hour + 1, Absolute: longest, Device: session.Device{IP: "::1", UserAgent: "curl/8", Label: "Ann’s phone"},
			Assurance: session.Assurance{AAL: 2, AMR: []string{"pwd", "otp"}, AuthenticatedAt: time.UnixMilli(1700000000123)},
		}
		before := s.Redis.Now().Add(-time.Second)
		token, created := createSession(t, s, namespace, n)

		if at := created.CreatedAt; at.Before(before) || at.After(s.Redis.Now().Add(time.Second)) || !at.Equal(created.LastActiveAt) {
			t.Errorf("created at %v, last active at %v; want both now", at, created.LastActiveAt)
		}
		want := &session.Session{
			ID: created.ID, Subject: "ann", Attributes: n.Attributes, Version: 1, Device: n.Device,
			CreatedAt: created.CreatedAt, LastActiveAt: created.CreatedAt,
			Idle:              time.Hour + time.Millisecond, // what Redis cannot hold is rounded up
			AbsoluteExpiresAt: created.CreatedAt.Add(longest), Assurance: n.Assurance,
		}
		listed, _, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Count: 10})
		if err != nil || len(listed) != 1 {
			t.Fatalf("ListSubject = %d sessions, %v; want 1, no error", len(listed), err)
		}
		for how, got := range map[string]*session.Session{
			"create": created, "primary": validate(t, s, namespace, token, primary),
			"cached": validate(t, s, namespace, token, cached), "again": validate(t, s, namespace, token, cached),
			"get": getSession(t, s, namespace, created.ID), "list": listed[0],
		} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", how, diff)
			}
		}
	})
}

func TestAnonymousSessionHasNoSubject(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		partitions := map[string]bool{}
		for range 40 {
			token, sess := createSession(t, s, namespace, sessionOf(""))
			if got := validate(t, s, namespace, token, primary); got == nil || got.Subject != "" {
				t.Fatalf("Validate = %+v, want an active session without a subject", got)
			}
			partitions[sess.ID[:1]] = true
		}
		if len(partitions) < 5 {
			t.Errorf("all in %d of 64 groups of partitions, want them spread", len(partitions))
		}
		token, sess := createSession(t, s, namespace, sessionOf(""))
		if listed, _, err := s.Sessions.ListSubject(t.Context(), namespace, "", session.SubjectList{Count: 10}); err != nil || len(listed) != 0 {
			t.Errorf("ListSubject = %d anonymous sessions, %v; want 0, no error", len(listed), err)
		}
		if n := revokeSubject(t, s, namespace, "", sess.ID); n != 0 {
			t.Errorf("RevokeSubject counted %d anonymous sessions, want 0", n)
		}
		wantActive(t, s, namespace, token)
		if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"cart": "1"}}); v != 2 {
			t.Errorf("version %d, want 2", v)
		}
		if !revokeSession(t, s, namespace, byToken(token)) {
			t.Error("Revoke = false, want true")
		}
		wantInactive(t, s, namespace, token)
	})
}

func TestSessionIsVisibleInItsNamespaceAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		other := storetest.NewNamespace()
		wantInactive(t, s, other, token)
		if getSession(t, s, other, sess.ID) != nil {
			t.Error("Get in another namespace = active, want inactive")
		}
		if v := updateSession(t, s, other, byToken(token), session.Changes{Set: map[string]string{"a": "b"}}); v != 0 {
			t.Errorf("Update in another namespace = version %d, want 0", v)
		}
		if revokeSession(t, s, other, byToken(token)) || revokeSession(t, s, other, byID(sess)) {
			t.Error("Revoke in another namespace = true, want false")
		}
		if n := revokeSubject(t, s, other, "ann", ""); n != 0 {
			t.Errorf("RevokeSubject in another namespace counted %d, want 0", n)
		}
		if n := revokeSubject(t, s, other, "ann", sess.ID); n != 0 {
			t.Errorf("RevokeSubject in another namespace counted %d, want 0", n)
		}
		if listed, _, err := s.Sessions.ListSubject(t.Context(), other, "ann", session.SubjectList{Count: 10}); err != nil || len(listed) != 0 {
			t.Errorf("ListSubject in another namespace = %d sessions, %v; want 0, no error", len(listed), err)
		}
		wantActive(t, s, namespace, token)
	})
}

func TestUpdateSessionMergesAttributes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"keep": "1", "change": "1", "drop": "1"}
		token, sess := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token) // so that the near cache holds what is about to change

		v := updateSession(t, s, namespace, byToken(token), session.Changes{
			Set: map[string]string{"change": "2", "add": "\x00"}, Delete: []string{"drop", "absent"},
		})
		if v != 2 {
			t.Errorf("version %d, want 2", v)
		}
		want := map[string]string{"keep": "1", "change": "2", "add": "\x00"}
		for _, near := range []bool{cached, primary} {
			got := validate(t, s, namespace, token, near)
			if diff := cmp.Diff(want, got.Attributes); diff != "" || got.Version != 2 {
				t.Errorf("cached %t: version %d, (-want +got):\n%s", near, got.Version, diff)
			}
		}
		v = updateSession(t, s, namespace, byID(sess), session.Changes{Delete: []string{"keep", "change", "add"}})
		if got := getSession(t, s, namespace, sess.ID); v != 3 || got.Version != 3 || len(got.Attributes) != 0 {
			t.Errorf("Update = version %d, Get = %+v; want version 3 without attributes", v, got)
		}
	})
}

func TestUpdateSessionConcurrentlyKeepsEveryAttribute(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sess := createSession(t, s, namespace, sessionOf("ann"))
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				name := fmt.Sprint("a", i)
				if _, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{Set: map[string]string{name: name}}); err != nil {
					t.Errorf("Update: error %v, want none", err)
				}
			})
		}
		wg.Wait()
		if got := getSession(t, s, namespace, sess.ID); len(got.Attributes) != 32 || got.Version != 33 {
			t.Errorf("%d attributes, version %d; want 32 and 33", len(got.Attributes), got.Version)
		}
	})
}

func TestUpdateSessionOfAnotherVersionWritesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1"}
		_, sess := createSession(t, s, namespace, n)
		for _, version := range []int64{2, 1 << 40} {
			u := session.Changes{Set: map[string]string{"a": "2"}, Delete: []string{"a"}, ExpectedVersion: version}
			if _, err := s.Sessions.Update(t.Context(), namespace, byID(sess), u); !errors.Is(err, session.ErrVersionMismatch) || redis.Retryable(err) {
				t.Errorf("Update that expects version %d: error %v, want a final ErrVersionMismatch", version, err)
			}
		}
		if diff := cmp.Diff(sess, getSession(t, s, namespace, sess.ID)); diff != "" {
			t.Errorf("a refused update changed the session, want it as before (-before +after):\n%s", diff)
		}
		// Of those who expect the same version, one wins.
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				u := session.Changes{Set: map[string]string{"a": fmt.Sprint(i)}, ExpectedVersion: 1}
				_, errs[i] = s.Sessions.Update(t.Context(), namespace, byID(sess), u)
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				if got := getSession(t, s, namespace, sess.ID); got.Attributes["a"] != fmt.Sprint(i) || got.Version != 2 {
					t.Errorf("session after update %d won = %+v, want its attribute and version 2", i, got)
				}
			case !errors.Is(err, session.ErrVersionMismatch):
				t.Errorf("Update: error %v, want ErrVersionMismatch", err)
			}
		}
		if won != 1 {
			t.Errorf("%d updates of version 1 won, want 1", won)
		}
	})
}

func TestUpdateSessionKeepsToTheLimits(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		update := func(sess *session.Session, u session.Changes) error {
			_, err := s.Sessions.Update(t.Context(), namespace, byID(sess), u)
			return err
		}
		refused := func(sess *session.Session, u session.Changes) {
			t.Helper()
			before := getSession(t, s, namespace, sess.ID)
			if err := update(sess, u); !errors.Is(err, session.ErrTooManyAttributes) || redis.Retryable(err) {
				t.Errorf("Update over the limit: error %v, want a final ErrTooManyAttributes", err)
			}
			if diff := cmp.Diff(before, getSession(t, s, namespace, sess.ID)); diff != "" {
				t.Errorf("a refused update changed the session, want it as before (-before +after):\n%s", diff)
			}
		}
		accepted := func(sess *session.Session, u session.Changes) {
			t.Helper()
			if err := update(sess, u); err != nil {
				t.Errorf("Update within the limit: error %v, want none", err)
			}
		}
		set := func(name, value string) session.Changes {
			return session.Changes{Set: map[string]string{name: value}}
		}

		n := sessionOf("ann")
		n.Attributes = map[string]string{}
		for i := range session.MaxAttributes - 1 {
			n.Attributes[fmt.Sprint("n", i)] = ""
		}
		_, many := createSession(t, s, namespace, n)
		accepted(many, set("last", ""))
		refused(many, set("one more", ""))
		accepted(many, set("last", "again"))
		accepted(many, session.Changes{Set: map[string]string{"other": ""}, Delete: []string{"last"}})

		_, large := createSession(t, s, namespace, sessionOf("ann"))
		accepted(large, set("name", strings.Repeat("x", session.MaxAttributeBytes-len("name")-1)))
		accepted(large, set("1", "")) // to the byte
		refused(large, set("2", ""))
		refused(large, set("1", "2"))
		refused(large, set("name", strings.Repeat("x", session.MaxAttributeBytes-len("name"))))
		accepted(large, session.Changes{Set: map[string]string{"2": ""}, Delete: []string{"1"}})
	})
}

func TestWrongSecretChangesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		other, _ := createSession(t, s, namespace, sessionOf("ann"))
		forged := wrongSecret(t, token, other)
		wantActive(t, s, namespace, token) // so that the near cache has the session that the forged token names
		wantInactive(t, s, namespace, forged)
		for _, touch := range []session.Touch{session.TouchAuto, session.TouchForce} {
			if got, err := s.Sessions.ValidateSession(t.Context(), namespace, forged, cached, touch); got != nil || err != nil {
				t.Errorf("Validate by a forged token = %+v, %v; want inactive, no error", got, err)
			}
		}
		if v := updateSession(t, s, namespace, byToken(forged), session.Changes{Set: map[string]string{"a": "b"}}); v != 0 {
			t.Errorf("Update by a forged token = version %d, want 0", v)
		}
		// Without the secret one does not even learn the version.
		u := session.Changes{Set: map[string]string{"a": "b"}, ExpectedVersion: 7}
		if v, err := s.Sessions.Update(t.Context(), namespace, byToken(forged), u); v.Version != 0 || err != nil {
			t.Errorf("Update by a forged token = version %d, %v; want 0, no error", v.Version, err)
		}
		if revokeSession(t, s, namespace, byToken(forged)) {
			t.Error("Revoke by a forged token = true, want false")
		}
		if diff := cmp.Diff(sess, validate(t, s, namespace, token, primary), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("a forged token changed the session, want it as before (-before +after):\n%s", diff)
		}
	})
}

func TestRevokeSessionEndsItOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		bystander, _ := createSession(t, s, namespace, sessionOf("ann"))
		for _, how := range []string{"token", "id"} {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			target := byToken(token)
			if how == "id" {
				target = byID(sess)
			}
			wantActive(t, s, namespace, token)
			if !revokeSession(t, s, namespace, target) {
				t.Errorf("by %s: Revoke = false, want true", how)
			}
			wantInactive(t, s, namespace, token)
			if revokeSession(t, s, namespace, target) {
				t.Errorf("by %s: second Revoke = true, want false", how)
			}
			if getSession(t, s, namespace, sess.ID) != nil {
				t.Errorf("by %s: Get = active, want inactive", how)
			}
			u := session.Changes{Set: map[string]string{"a": "b"}, ExpectedVersion: 1}
			if v := updateSession(t, s, namespace, target, u); v != 0 {
				t.Errorf("by %s: Update after the revocation = version %d, want 0", how, v)
			}
			for _, touch := range []session.Touch{session.TouchAuto, session.TouchForce} {
				if got, err := s.Sessions.ValidateSession(t.Context(), namespace, token, cached, touch); got != nil || err != nil {
					t.Errorf("by %s: Validate with a touch after the revocation = %+v, %v; want inactive, no error", how, got, err)
				}
			}
			wantInactive(t, s, namespace, token)
		}
		wantActive(t, s, namespace, bystander)
		if listed, _, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Count: 10}); err != nil || len(listed) != 1 {
			t.Errorf("listed %d, %v; want the bystander", len(listed), err)
		}
	})
}

func TestRevokedSessionLeavesNothingBehind(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		_, sess := createSession(t, s, namespace, n)
		keys := sessionKeysOf(t, namespace, sess)
		for _, key := range []string{keys.record, keys.attributes, keys.index} {
			if storetest.Command(t, s, "EXISTS", key) != int64(1) {
				t.Fatalf("%s does not exist, want it where this test looks", key)
			}
		}
		revokeSession(t, s, namespace, byID(sess))
		for _, key := range []string{keys.record, keys.attributes, keys.index} {
			if storetest.Command(t, s, "EXISTS", key) != int64(0) {
				t.Errorf("%s exists after the revocation, want it removed", key)
			}
		}
	})
}

func TestEndedSessionTakesNoUpdate(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1"}
		token, sess := createSession(t, s, namespace, n)
		age(t, s, namespace, sess, 61*time.Minute)
		keys := sessionKeysOf(t, namespace, sess)
		for _, target := range []session.Target{byID(sess), byToken(token)} {
			if v := updateSession(t, s, namespace, target, session.Changes{Set: map[string]string{"a": "2"}}); v != 0 {
				t.Errorf("Update of an expired session = version %d, want 0", v)
			}
		}
		if a, v := storetest.Command(t, s, "HGET", keys.attributes, "a"), storetest.Command(t, s, "HGET", keys.record, "v"); a != "1" || v != "1" {
			t.Errorf("attribute %v, version %v; want nothing written", a, v)
		}
		if revokeSession(t, s, namespace, byToken(token)) {
			t.Error("Revoke of an expired session = true, want false")
		}
	})
}

func TestMalformedTargetsAreInactive(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		for _, bad := range []string{"x", "ls1_", sess.ID + "A", token[:69], token + "A", strings.Repeat("\n", 23), "ls1_" + strings.Repeat("\n", 66)} {
			wantInactive(t, s, namespace, bad)
			if getSession(t, s, namespace, bad) != nil {
				t.Errorf("Get %q = active, want inactive", bad)
			}
			for _, target := range []session.Target{{ID: bad}, {Token: bad}} {
				if v := updateSession(t, s, namespace, target, session.Changes{Set: map[string]string{"a": "b"}}); v != 0 {
					t.Errorf("Update %q = version %d, want 0", bad, v)
				}
				if revokeSession(t, s, namespace, target) {
					t.Errorf("Revoke %q = true, want false", bad)
				}
			}
			revokeSubject(t, s, namespace, "bob", bad)
		}
		wantActive(t, s, namespace, token)
	})
}

func TestSessionsFailClosedWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	token, sess := createSession(t, s, "n", sessionOf("ann"))
	wantActive(t, s, "n", token)
	server.Kill()
	storetest.Eventually(t, "the near cache to notice", func() bool { return s.Stats().Near.Flushes > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, near := range []bool{cached, primary} {
		if got, err := s.Sessions.ValidateSession(ctx, "n", token, near, session.TouchAuto); got != nil || !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("Validate without Redis (cached %t) = %+v, %v; want nil, ErrUnavailable", near, got, err)
		}
	}
	if got, err := s.Sessions.Get(ctx, "n", sess.ID); got != nil || !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Get without Redis = %+v, %v; want nil, ErrUnavailable", got, err)
	}
	if _, err := s.Sessions.Revoke(ctx, "n", byID(sess)); !redis.Retryable(err) {
		t.Errorf("Revoke without Redis: error %v, want a retryable one", err)
	}
}
