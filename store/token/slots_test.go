package token_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// While a slot moves key by key, every call is answered as if it did not, or refused with nothing done: no token is accepted twice,
// none that is good is called anything else, and the sessions of a subject end if and only if its token is consumed.
func TestTokensWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}})
	const namespace, subject = "n", "ann"
	calls, refused := 0, 0
	answered := func(what string, err error) bool {
		t.Helper()
		calls++
		if err == nil {
			return true
		}
		refused++
		if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
			t.Errorf("%s = error %v: %s; want none or ErrUnavailable", what, err, cause(err))
		}
		return false
	}
	many := calm()
	many.Failures, many.Consecutive = 1000, 1000
	five := func(i *token.Issue) { i.MaxOpen, i.Limits, i.RevokeSessions, i.MaxAttempts = 5, many, true, 100 }
	under := func(p *token.Presented) { p.Limits = many }
	var open, used []token.Issued
	attempts := map[string]int{}
	recovery := issue(t, s, namespace, a(token.Recovery, subject, func(i *token.Issue) { i.Count = 20 }))
	codesUsed := 0
	refill := func() {
		for len(open) < 4 {
			i, err := s.Tokens.Issue(t.Context(), namespace, a(kinds[rand.IntN(2)], subject, five))
			if !answered("Issue", err) {
				return
			}
			open = append(open, i)
		}
	}
	step := func(when string) {
		refill()
		for _, i := range open {
			c, err := s.Tokens.Consume(t.Context(), namespace, present(i, under, wrong))
			if answered(when+": Consume of a wrong secret", err) {
				attempts[i.ID]++
				if c.Verdict != token.Incorrect {
					t.Errorf("%s: a wrong secret is %s, want incorrect", when, c.Verdict)
				}
			}
			r, err := s.Tokens.Inspect(t.Context(), namespace, token.Presented{ID: i.ID, Limits: many})
			if answered(when+": Inspect", err) && (r.Verdict != token.Accepted || r.AttemptsLeft != 100-attempts[i.ID]) {
				t.Errorf("%s: Inspect = %+v, want it open with %d attempts left", when, r, 100-attempts[i.ID])
			}
		}
		for _, i := range used {
			c, err := s.Tokens.Consume(t.Context(), namespace, present(i, under))
			if answered(when+": Consume of a used token", err) && c.Verdict != token.AlreadyUsed && c.Verdict != token.Revoked {
				t.Errorf("%s: a used or revoked token is %s", when, c.Verdict)
			}
		}
		if codesUsed < 20 {
			c, err := s.Tokens.Consume(t.Context(), namespace, token.Presented{Subject: subject, Code: recovery.RecoveryCodes[codesUsed], Purpose: purpose, Limits: many})
			if answered(when+": Consume of a recovery code", err) {
				if codesUsed++; c.Verdict != token.Accepted || c.RecoveryLeft != 20-codesUsed {
					t.Errorf("%s: a recovery code is %+v, want it accepted and %d left", when, c, 20-codesUsed)
				}
			}
		}
		if len(open) == 0 {
			return
		}
		sess, err := s.Sessions.Create(t.Context(), namespace, sessionOf(subject))
		if !answered(when+": Create", err) {
			return
		}
		i := open[0]
		if rand.IntN(3) == 0 {
			ok, err := s.Tokens.Revoke(t.Context(), namespace, i.ID)
			if answered(when+": Revoke", err) {
				if !ok {
					t.Errorf("%s: Revoke of an open token = false, want true", when)
				}
				open, used = open[1:], append(used, i)
			}
			return
		}
		c, err := s.Tokens.Consume(t.Context(), namespace, present(i, under))
		consumed := answered(when+": Consume", err)
		if consumed {
			if c.Verdict != token.Accepted {
				t.Errorf("%s: an open token is %+v, want it accepted", when, c)
			}
			used, open = append(used, open...), nil
		}
		got, err := s.Sessions.Get(t.Context(), namespace, sess.Session.ID)
		if answered(when+": Get", err) && (got == nil) != consumed {
			t.Errorf("%s: token consumed %t, session ended %t; want both or neither", when, consumed, got == nil)
		}
	}
	key := stateOf(namespace, subject)
	slot := cluster.Slot(t, key)
	to, from := cluster.Another(t, slot), cluster.Owner(t, slot)
	step("before")
	if refused > 0 {
		t.Errorf("%d calls were refused before the slot moves, want none", refused)
	}
	cluster.BeginMove(t, slot, to)
	step("begun")
	for moved := 0; ; moved++ {
		keys, _ := from.Do(t, "CLUSTER", "GETKEYSINSLOT", fmt.Sprint(slot), "100000").([]any)
		if len(keys) == 0 {
			break
		}
		next := keys[rand.IntN(len(keys))].(string)
		cluster.MoveKeys(t, slot, to, next)
		step(fmt.Sprintf("%d moved, last %s", moved+1, next))
	}
	step("all moved")
	cluster.EndMove(t, slot, to)
	storetest.Eventually(t, "the client knows the new owner", func() bool {
		_, err := s.Tokens.InspectSubject(t.Context(), namespace, subject, purpose, many)
		return err == nil
	})
	before := refused
	step("ended")
	step("ended again")
	if refused > before {
		t.Errorf("%d calls were refused after the slot has moved, want none", refused-before)
	}
	t.Logf("%d of %d calls were refused", refused, calls)
}
