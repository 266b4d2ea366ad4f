package token_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// watch begins a watch of a subject and returns what it tells, one line for each event.
func watch(t *testing.T, s *store.Store, namespace, subject string, types ...string) (lines func() []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all []string
	began, done := make(chan struct{}), make(chan error, 1)
	go func() {
		begin := sync.OnceFunc(func() { close(began) })
		done <- s.Sessions.Watch(ctx, namespace, session.EventFilter{Subject: subject, Types: types}, "", time.Hour, func(e *session.Event, _ string) error {
			begin()
			if e != nil {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, fmt.Sprint(e.Type, " ", e.SessionID, e.Details["token"], " ", e.Details["purpose"], e.Reason))
			}
			return nil
		})
	}()
	<-began
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v, want context.Canceled", err)
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), all...)
	}
}

// Every change of a token has its event, for watches that ask for it; others are told of sessions alone, as before.
func TestTokenEventsGoToThoseWhoAskForThem(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		types := []string{"token_issued", "token_consumed", "token_failed", "token_locked", "token_revoked", "token_subject_reset"}
		tokens, sessions := watch(t, s, namespace, "ann", types...), watch(t, s, namespace, "ann")
		few := calm()
		few.Failures = 2
		under := func(p *token.Presented) { p.Limits = few }
		sess := createSession(t, s, namespace, "ann", "")
		first := issue(t, s, namespace, a(token.Code, "ann", revoking))
		consume(t, s, namespace, present(first, under, wrong))
		consume(t, s, namespace, present(first, under, wrong))
		consume(t, s, namespace, present(first, under)) // locked
		if err := s.Tokens.ResetSubject(t.Context(), namespace, "ann", purpose); err != nil {
			t.Fatalf("ResetSubject = error %v, want none", err)
		}
		consume(t, s, namespace, present(first, under))
		second := issue(t, s, namespace, a(token.Link, "ann", decoy))
		if _, err := s.Tokens.Revoke(t.Context(), namespace, second.ID); err != nil {
			t.Fatalf("Revoke = error %v, want none", err)
		}
		third := issue(t, s, namespace, a(token.Link, "ann"))
		if _, err := s.Tokens.RevokeAll(t.Context(), namespace, "ann", purpose); err != nil {
			t.Fatalf("RevokeAll = error %v, want none", err)
		}
		issue(t, s, namespace, a(token.Link, "bob"))
		last := createSession(t, s, namespace, "ann", "")
		want := []string{
			"token_issued " + first.ID + " reset", "token_failed " + first.ID + " reset", "token_failed " + first.ID + " reset", "token_locked  reset",
			"token_subject_reset  reset", "token_consumed " + first.ID + " reset", "token_issued " + second.ID + " resetdecoy", "token_revoked " + second.ID + " reset",
			"token_issued " + third.ID + " reset", "token_revoked  reset",
		}
		storetest.Eventually(t, "all events told", func() bool { return len(tokens()) >= len(want) && len(sessions()) >= 3 })
		if diff := cmp.Diff(want, tokens()); diff != "" {
			t.Errorf("events of tokens (-want +got):\n%s", diff)
		}
		want = []string{"created " + sess.Session.ID + " ", "revoked  subject", "created " + last.Session.ID + " "}
		if diff := cmp.Diff(want, sessions()); diff != "" {
			t.Errorf("events of a watch that asks for no types (-want +got):\n%s", diff)
		}
	})
}
