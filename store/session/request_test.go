package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// If the answer to a revocation is lost, its repetition returns what the first attempt did and ends nothing more.
func TestRevocationWithLostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	direct := beside(t, server)
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 300 * time.Millisecond}})
	_, warm := createSession(t, direct, "n", sessionOf("warm")) // so that Redis knows the scripts
	revokeSession(t, direct, "n", byID(warm))
	revokeSubject(t, direct, "n", "warm", "")
	lose := func(call func()) {
		proxy.DropReplies(true)
		call()
		proxy.DropReplies(false)
		proxy.CutAll()
	}
	again := func(what string, call func() error) {
		storetest.Eventually(t, what, func() bool { return call() == nil })
	}

	for how, by := range map[string]func(token string, sess *session.Session) session.Target{
		"id":    func(_ string, sess *session.Session) session.Target { return byID(sess) },
		"token": func(token string, _ *session.Session) session.Target { return byToken(token) },
	} {
		token, sess := createSession(t, direct, "n", sessionOf("bob"))
		target := by(token, sess)
		ctx := session.WithRequest(t.Context(), "")
		lose(func() {
			if _, err := s.Sessions.Revoke(ctx, "n", target); !redis.Retryable(err) {
				t.Errorf("by %s: Revoke without a reply: error %v, want a retryable one", how, err)
			}
		})
		wantInactive(t, direct, "n", token)
		var revoked bool
		again("the repeated revocation", func() (err error) { revoked, err = s.Sessions.Revoke(ctx, "n", target); return err })
		if !revoked {
			t.Errorf("by %s: repeated Revoke = false, want true", how)
		}
		if revoked, err := s.Sessions.Revoke(session.WithRequest(t.Context(), "another"), "n", target); revoked || err != nil {
			t.Errorf("by %s: another Revoke = %t, %v; want false, no error", how, revoked, err)
		}
		wantEvents(t, direct, "n", sess, "created", "revoked revoked")
	}

	for _, class := range []string{"", "mobile"} {
		n := sessionOf("ann")
		n.Device.Class = class
		old, _ := createSession(t, direct, "n", n)
		kept, except := createSession(t, direct, "n", n)
		ctx := session.WithRequest(t.Context(), "")
		r := session.SubjectRevocation{Class: class, Except: except.ID, Longest: longest}
		lose(func() {
			if _, err := s.Sessions.RevokeSubject(ctx, "n", "ann", r); !redis.Retryable(err) {
				t.Errorf("class %q: RevokeSubject without a reply: error %v, want a retryable one", class, err)
			}
		})
		epoch := subjectEpoch(t, direct, "n", "ann")
		between, _ := createSession(t, direct, "n", n)
		var got session.RevokedSubject
		again("the repeated revocation", func() (err error) { got, err = s.Sessions.RevokeSubject(ctx, "n", "ann", r); return err })
		if got.Count != 1 || got.Epoch != epoch {
			t.Errorf("class %q: repeated RevokeSubject = %+v, want count 1 and epoch %d", class, got, epoch)
		}
		wantInactive(t, direct, "n", old)
		wantActive(t, direct, "n", kept)
		wantActive(t, direct, "n", between)
		if got := emitted(t, direct, "n", "ann", "type=revoked", "class="+class); class != "" && len(got) != 1 {
			t.Errorf("class %q: %d revoked events, want 1", class, len(got))
		}
		if got, err := s.Sessions.RevokeSubject(t.Context(), "n", "ann", session.SubjectRevocation{Class: class, Longest: longest}); err != nil || got.Count != 2 {
			t.Errorf("class %q: another RevokeSubject = %+v, %v; want count 2", class, got, err)
		}
	}
}

// A request id stands for one operation on one target.
func TestRequestIsOfOneOperation(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		ctx := session.WithRequest(t.Context(), "the same")
		_, one := createSession(t, s, namespace, sessionOf("ann"))
		_, two := createSession(t, s, namespace, sessionOf("ann"))
		for i, sess := range []*session.Session{one, two, one, two} {
			if revoked, err := s.Sessions.Revoke(ctx, namespace, byID(sess)); !revoked || err != nil {
				t.Errorf("Revoke %d = %t, %v; want true, no error", i, revoked, err)
			}
		}
		createSession(t, s, namespace, ofClass("ann", "mobile"))
		createSession(t, s, namespace, ofClass("ann", "web"))
		for range 2 {
			for class, want := range map[string]int64{"mobile": 1, "web": 1} {
				if got, err := s.Sessions.RevokeSubject(ctx, namespace, "ann", session.SubjectRevocation{Class: class, Longest: longest}); err != nil || got.Count != want {
					t.Errorf("RevokeSubject of class %s = %+v, %v; want count %d", class, got, err, want)
				}
			}
		}
		// The answer is not kept for ever.
		keys, _ := storetest.Command(t, s, "KEYS", "ld:r:{p*}:"+namespace+":*").([]any)
		for _, key := range keys {
			if left := timeToLive(t, s, key.(string)); left <= 0 || left > 2*time.Minute {
				t.Errorf("the answer is kept for %v, want at most 2 m", left)
			}
		}
	})
}

// Without a grace, too, a rotation that is repeated as one request returns the token of the first attempt, and another request
// with the superseded token returns none.
func TestRotationRepeatedWithoutAGrace(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		ctx := session.WithRequest(t.Context(), "")
		rotate := func(ctx context.Context) string {
			t.Helper()
			next, _, err := s.Sessions.Rotate(ctx, namespace, token, 0)
			if err != nil {
				t.Fatalf("Rotate: error %v, want none", err)
			}
			return next
		}
		next := rotate(ctx)
		for range 2 {
			if again := rotate(ctx); again != next || next == "" {
				t.Errorf("repeated Rotate = %q, want %q", again, next)
			}
		}
		for what, ctx := range map[string]context.Context{"another request": session.WithRequest(t.Context(), ""), "no request": t.Context()} {
			if other := rotate(ctx); other != "" {
				t.Errorf("Rotate by the superseded token, %s = %q, want none", what, other)
			}
		}
		wantInactive(t, s, namespace, token)
		wantActive(t, s, namespace, next)
		wantEvents(t, s, namespace, sess, "created", "rotated")
		// Presented late it is stolen, whatever request presents it.
		rotatedLongAgo(t, s, namespace, sess)
		if again := rotate(ctx); again != "" {
			t.Errorf("late Rotate = %q, want none", again)
		}
		wantInactive(t, s, namespace, next)
	})
}
