package token_test

import (
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

func exchange(t testing.TB, s *store.Store, namespace string, p token.Presented, g token.Grant, want token.Verdict) token.Consumed {
	t.Helper()
	g.TTL, g.MaxAttempts = time.Minute, 5
	c, err := s.Tokens.Exchange(t.Context(), namespace, p, g)
	if err != nil || c.Verdict != want {
		t.Errorf("Exchange = %+v, %v, want %s: %s", c, err, want, cause(err))
	}
	if (c.Grant != "") != (want == token.Accepted) || (c.GrantID != "") != (want == token.Accepted) {
		t.Errorf("Exchange = %+v, want a grant if and only if it is accepted", c)
	}
	return c
}

func ofGrant(p *token.Presented) { p.Purpose = purpose + token.GrantSuffix }

// A code becomes a grant of the browser that has entered it, and the grant ends the sessions: not the code.
func TestExchangedTokenBecomesAGrant(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			subject := "ann-" + string(kind)
			revokes := kind != token.Recovery
			i := issue(t, s, namespace, a(kind, subject, func(i *token.Issue) { i.RevokeSessions = revokes }))
			sess := createSession(t, s, namespace, subject, "")
			exchange(t, s, namespace, present(i, wrong), token.Grant{}, token.Incorrect)
			g := exchange(t, s, namespace, present(i), token.Grant{Binding: "browser"}, token.Accepted)
			if left := time.Until(g.GrantExpires); g.Subject != subject || left > time.Minute+5*time.Second || left < 30*time.Second {
				t.Errorf("Exchange = %+v, want a grant of %s for a minute", g, subject)
			}
			exchange(t, s, namespace, present(i), token.Grant{}, token.AlreadyUsed)
			expect(t, s, namespace, present(i), token.AlreadyUsed)
			if !active(t, s, namespace, sess.Token, false) {
				t.Error("the session has ended by the exchange, want it active")
			}
			held := token.Issued{Link: g.Grant}
			bound := func(p *token.Presented) { p.Binding = "browser" }
			expect(t, s, namespace, present(held, bound), token.Incorrect) // without the suffix
			expect(t, s, namespace, present(held, ofGrant), token.Incorrect)
			c := expect(t, s, namespace, present(held, ofGrant, bound), token.Accepted)
			if c.Payload != "payload of "+subject || c.Subject != subject || c.ID != g.GrantID {
				t.Errorf("Consume of the grant = %+v, want the payload and the subject of the token", c)
			}
			if active(t, s, namespace, sess.Token, false) == revokes {
				t.Errorf("the session is active: %t, want %t", !revokes, !revokes)
			}
			expect(t, s, namespace, present(held, ofGrant, bound), token.AlreadyUsed)
		}
	})
}

// A repeated exchange returns another grant instead of the first one, unless that was used.
func TestExchangeIsRepeatedByTheSameRequestOnly(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind)))
			same := func(p *token.Presented) { p.Request = "one" }
			first := exchange(t, s, namespace, present(i, same), token.Grant{}, token.Accepted)
			second := exchange(t, s, namespace, present(i, same), token.Grant{}, token.Accepted)
			if !second.Replayed || second.Grant == first.Grant {
				t.Errorf("the second exchange is %+v, want another grant", second)
			}
			exchange(t, s, namespace, present(i, func(p *token.Presented) { p.Request = "two" }), token.Grant{}, token.AlreadyUsed)
			expect(t, s, namespace, present(i, same), token.AlreadyUsed) // a consumption is another request
			expect(t, s, namespace, present(token.Issued{Link: first.Grant}, ofGrant), token.Revoked)
			third := exchange(t, s, namespace, present(i, same), token.Grant{}, token.Accepted)
			expect(t, s, namespace, present(token.Issued{Link: third.Grant}, ofGrant), token.Accepted)
			exchange(t, s, namespace, present(i, same), token.Grant{}, token.AlreadyUsed)
		}
	})
}

// Whatever ends the tokens of a subject and purpose ends its grants.
func TestGrantEndsWithItsPurpose(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		grant := func() token.Presented {
			g := exchange(t, s, namespace, present(issue(t, s, namespace, a(token.Code, "ann"))), token.Grant{}, token.Accepted)
			return present(token.Issued{Link: g.Grant}, ofGrant)
		}
		p := grant()
		issue(t, s, namespace, a(token.Code, "ann"))
		expect(t, s, namespace, p, token.Revoked)
		p = grant()
		if n, err := s.Tokens.RevokeAll(t.Context(), namespace, "ann", purpose); err != nil || n != 1 {
			t.Errorf("RevokeAll = %d, %v, want 1", n, err)
		}
		expect(t, s, namespace, p, token.Revoked)
		p = grant()
		for range 10 {
			consume(t, s, namespace, present(token.Issued{Link: p.Link}, ofGrant, wrong))
			storetest.Command(t, s, "HSET", grantRecord(t, namespace, p.Link), "att", "0")
		}
		expect(t, s, namespace, p, token.SubjectLocked) // of the purpose, not of the grant alone
		if b := budgetOf(t, s, namespace, "ann", limits); !b.Locked {
			t.Errorf("the budget of the purpose is %+v, want it spent", b)
		}
	})
}

func grantRecord(t testing.TB, namespace, link string) string {
	t.Helper()
	id, _, ok := token.ParseLink(link)
	if !ok {
		t.Fatalf("ParseLink(%q) = malformed, want it well-formed", link)
	}
	return recordOf(namespace, "ann", id)
}
