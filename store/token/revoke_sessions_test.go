package token_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

func revoking(i *token.Issue) { i.RevokeSessions = true }

// A password reset ends all sessions of the subject, at once through the same replica, and no other's.
func TestConsumeEndsTheSessionsOfTheSubject(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range []token.Kind{token.Link, token.Code} {
			subject := "ann-" + string(kind)
			var tokens []string
			for _, class := range []string{"", "mobile", "mobile", "desk"} {
				tokens = append(tokens, createSession(t, s, namespace, subject, class).Token)
			}
			others := createSession(t, s, namespace, "bob", "").Token
			for _, tk := range append(tokens, others) {
				if !active(t, s, namespace, tk, true) {
					t.Fatal("a session is not active, want it active")
				}
			}
			i := issue(t, s, namespace, a(kind, subject, revoking))
			expect(t, s, namespace, present(i, wrong), token.Incorrect)
			if !active(t, s, namespace, tokens[0], true) {
				t.Error("a session has ended after a wrong secret, want it active")
			}
			if c := expect(t, s, namespace, present(i, func(p *token.Presented) { p.Request = "r" }), token.Accepted); c.RevokedSessions != 4 {
				t.Errorf("Consume = %+v, want 4 sessions revoked", c)
			}
			for n, tk := range tokens {
				if active(t, s, namespace, tk, true) || active(t, s, namespace, tk, false) {
					t.Errorf("session %d is active, want it ended", n)
				}
			}
			if !active(t, s, namespace, others, true) {
				t.Error("the session of another subject has ended, want it active")
			}
			later := createSession(t, s, namespace, subject, "").Token
			if c := expect(t, s, namespace, present(i, func(p *token.Presented) { p.Request = "r" }), token.Accepted); !c.Replayed || c.RevokedSessions != 4 {
				t.Errorf("Consume again = %+v, want the first answer", c)
			}
			if !active(t, s, namespace, later, false) {
				t.Error("a session that was created since has ended, want it active")
			}
		}
	})
}

func TestConsumeKeepsTheExceptedSession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		own, another := createSession(t, s, namespace, "ann", "desk"), createSession(t, s, namespace, "ann", "desk")
		stranger := createSession(t, s, namespace, "bob", "")
		i := issue(t, s, namespace, a(token.Code, "ann", revoking))
		if c := expect(t, s, namespace, present(i, func(p *token.Presented) { p.Except = own.Session.ID }), token.Accepted); c.RevokedSessions != 1 {
			t.Errorf("Consume = %+v, want 1 session revoked", c)
		}
		if !active(t, s, namespace, own.Token, true) || active(t, s, namespace, another.Token, true) {
			t.Error("want the caller's own session active and the other one ended")
		}
		i = issue(t, s, namespace, a(token.Code, "ann", revoking))
		expect(t, s, namespace, present(i, func(p *token.Presented) { p.Except = stranger.Session.ID }), token.Accepted)
		if active(t, s, namespace, own.Token, true) || !active(t, s, namespace, stranger.Token, true) {
			t.Error("want all sessions of the subject ended, and none of another subject")
		}
	})
}

// A login that read the subject's epoch before the password was reset does not slip through.
func TestConsumeVersusLoginHoldingAnOldEpoch(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		epoch, err := s.Sessions.SubjectEpoch(t.Context(), namespace, "ann")
		if err != nil {
			t.Fatalf("SubjectEpoch = error %v, want none", err)
		}
		i := issue(t, s, namespace, a(token.Link, "ann", revoking)) // a subject without sessions
		expect(t, s, namespace, present(i), token.Accepted)
		n := session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour, IfSubjectEpoch: &epoch}
		if _, err := s.Sessions.Create(t.Context(), namespace, n); !errors.Is(err, session.ErrSubjectEpochChanged) {
			t.Errorf("Create = error %v, want ErrSubjectEpochChanged", err)
		}
	})
}

// Wherever the caller dies, the token is consumed if and only if the sessions have ended.
func TestResetAndLogoutAreOneStep(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 300 * time.Millisecond}})
	warm := issue(t, direct, "n", a(token.Link, "warm", revoking))
	expect(t, s, "n", present(warm), token.Accepted)
	counts := map[bool]int{}
	for _, how := range []string{"reply lost", "cut", "never sent", "cancelled", "died before"} {
		for range 5 {
			i := issue(t, direct, "n", a(token.Link, "ann", revoking))
			// Of a subject with sessions of every kind, Redis has all keys, and the script runs once.
			createSession(t, direct, "n", "ann", "mobile")
			sess := createSession(t, direct, "n", "ann", "")
			ctx, cancel := context.WithCancel(t.Context())
			switch how {
			case "reply lost":
				proxy.DropReplies(true)
			case "cut":
				proxy.DropReplies(true)
				time.AfterFunc(time.Millisecond, proxy.CutAll)
			case "never sent":
				proxy.Blackhole(true)
			case "cancelled":
				time.AfterFunc(200*time.Microsecond, cancel)
			case "died before":
				cancel()
			}
			_, err := s.Tokens.Consume(ctx, "n", present(i))
			cancel()
			proxy.DropReplies(false)
			proxy.Blackhole(false)
			proxy.CutAll()
			storetest.Eventually(t, "connected", func() bool { return s.Redis.Ping(t.Context()) == nil })
			v, inspectErr := direct.Tokens.Inspect(t.Context(), "n", token.Presented{ID: i.ID, Limits: limits})
			if inspectErr != nil {
				t.Fatalf("Inspect = error %v, want none", inspectErr)
			}
			used, ended := v.Verdict == token.AlreadyUsed, !active(t, direct, "n", sess.Token, false)
			if used != ended || err == nil && !used {
				t.Errorf("%s (error %v): token used %t, session ended %t; want both or neither", how, err, used, ended)
			}
			counts[used]++
		}
	}
	if counts[true] == 0 || counts[false] == 0 {
		t.Errorf("%d tokens were used and %d were not, want some of both", counts[true], counts[false])
	}
}
