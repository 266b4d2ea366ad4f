package session_test

import (
	"context"
	"errors"
	"strings"
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
		// Without the secret the caller does not even learn the version.
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
	flushes := s.Stats().Near.Flushes
	server.Kill()
	storetest.Eventually(t, "the near cache to notice", func() bool { return s.Stats().Near.Flushes > flushes })
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

// However long a user agent is, it reads back as it was, and Redis keeps the record compact.
func TestUserAgentOfAnyLength(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, length := range []int{0, 1, 63, 64, 65, 127, 128, 129, 500} {
			n := sessionOf("ann")
			n.Device.UserAgent = strings.Repeat("Mozilla/5.0 ", length/12+1)[:length]
			token, sess := createSession(t, s, namespace, n)
			if got := validate(t, s, namespace, token, primary); got == nil || got.Device.UserAgent != n.Device.UserAgent {
				t.Errorf("user agent of %d bytes: Validate = %+v, want it as it was", length, got)
			}
			if s.Redis.Mode() != redis.Embedded {
				if got := storetest.Command(t, s, "OBJECT", "ENCODING", sessionKeysOf(t, namespace, sess).record); got != "listpack" {
					t.Errorf("user agent of %d bytes: encoding = %v, want listpack", length, got)
				}
			}
			n.Limits = session.Limits{PerSubject: 1, Policy: session.EvictOldest}
			created := createLimited(t, s, namespace, n)
			if len(created.Evicted) != 1 || created.Evicted[0].Device.UserAgent != n.Device.UserAgent {
				t.Errorf("user agent of %d bytes: evicted = %+v, want it as it was", length, created.Evicted)
			}
			revokeSubject(t, s, namespace, "ann", "")
		}
	})
}
