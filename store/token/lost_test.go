package token_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// Whichever key Redis evicts, no token becomes good again, and an open code dies with the budget that its failures count against.
func TestEvictionMakesNoTokenGood(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	for _, kind := range kinds {
		for _, evicted := range []string{"record", "state", "events", "source"} {
			for _, how := range []string{"open", "used", "revoked", "replaced", "exhausted", "locked"} {
				what := fmt.Sprintf("%s %s, %s evicted", how, kind, evicted)
				namespace := storetest.NewNamespace()
				i := issue(t, s, namespace, a(kind, "ann"))
				good := how == "open" && (evicted == "events" || evicted == "source")
				switch how {
				case "used":
					expect(t, s, namespace, present(i), token.Accepted)
				case "revoked":
					if _, err := s.Tokens.Revoke(t.Context(), namespace, i.ID); err != nil {
						t.Fatalf("Revoke = error %v, want none", err)
					}
				case "replaced":
					issue(t, s, namespace, a(kind, "ann"))
				case "exhausted":
					for range 5 {
						consume(t, s, namespace, present(i, wrong))
					}
					good = kind == token.Recovery && (evicted == "events" || evicted == "source") // has no attempts of its own
				case "locked":
					for range 10 {
						consume(t, s, namespace, present(i, wrong))
						if kind != token.Recovery {
							server.Do(t, "HSET", recordOf(namespace, "ann", i.ID), "att", "0")
						}
					}
				}
				server.Do(t, "DEL", map[string]string{
					"record": recordOf(namespace, "ann", i.ID), "state": stateOf(namespace, "ann"), "source": token.SourceKey(namespace, "ip"),
					"events": eventsOf(namespace, "ann"),
				}[evicted])
				c := consume(t, s, namespace, present(i, func(p *token.Presented) { p.Source = "ip" }))
				if accepted := c.Verdict == token.Accepted; accepted != good {
					t.Errorf("%s: %+v, want accepted: %t", what, c, good)
				}
				next := issue(t, s, namespace, a(kind, "bob"))
				expect(t, s, namespace, present(next), token.Accepted)
			}
		}
	}
}

// An evicted budget gives its attempts for codes that are issued from then on, and for no earlier one.
func TestEvictedBudgetEndsOpenCodes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		two := func(i *token.Issue) { i.MaxOpen = 2 }
		first, second := issue(t, s, namespace, a(token.Code, "ann", two)), issue(t, s, namespace, a(token.Code, "ann", two))
		storetest.Command(t, s, "DEL", stateOf(namespace, "ann"))
		third := issue(t, s, namespace, a(token.Code, "ann", two))
		for _, i := range []token.Issued{first, second} {
			expect(t, s, namespace, present(i), token.Revoked)
		}
		expect(t, s, namespace, present(third), token.Accepted)
	})
}

// With no memory left, rights are taken away and attempts are counted; nothing is issued.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	sess := createSession(t, s, "n", "ann", "mobile")
	link := issue(t, s, "n", a(token.Link, "ann", revoking))
	code, set := issue(t, s, "n", a(token.Code, "bob")), issue(t, s, "n", a(token.Recovery, "carl"))
	byID, bySubject, exchanged := issue(t, s, "n", a(token.Link, "dora")), issue(t, s, "n", a(token.Link, "emil")), issue(t, s, "n", a(token.Link, "fay"))
	// None of the scripts may be known: they are loaded at full memory, too.
	server.Do(t, "SCRIPT", "FLUSH")
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")

	for what, call := range map[string]func() error{
		"Issue": func() error { _, err := s.Tokens.Issue(t.Context(), "n", a(token.Link, "gil")); return err },
		"Exchange": func() error {
			_, err := s.Tokens.Exchange(t.Context(), "n", present(exchanged), token.Grant{TTL: limits.Window, MaxAttempts: 5})
			return err
		},
		"ClaimOnce": func() error {
			_, err := s.Tokens.ClaimOnce(t.Context(), "n", token.Claim{Scope: "s", ID: "id", TTL: limits.Window})
			return err
		},
	} {
		if err := call(); !errors.Is(err, redis.ErrOverloaded) {
			t.Errorf("%s = error %v, want ErrOverloaded", what, err)
		}
	}
	from := func(p *token.Presented) { p.Source = "203.0.113.7" }
	expect(t, s, "n", present(code, wrong, from), token.Incorrect)
	expect(t, s, "n", present(code, from), token.Accepted)
	expect(t, s, "n", present(set, from), token.Accepted)
	expect(t, s, "n", present(link, from), token.Accepted)
	if active(t, s, "n", sess.Token, false) {
		t.Error("the session is active, want it ended")
	}
	if ok, err := s.Tokens.Revoke(t.Context(), "n", byID.ID); err != nil || !ok {
		t.Errorf("Revoke = %t, %v, want true", ok, err)
	}
	if n, err := s.Tokens.RevokeAll(t.Context(), "n", "emil", purpose); err != nil || n != 1 {
		t.Errorf("RevokeAll = %d, %v, want 1", n, err)
	}
	for _, i := range []token.Issued{byID, bySubject} {
		expect(t, s, "n", present(i), token.Revoked)
	}
	if err := s.Tokens.ResetSubject(t.Context(), "n", "bob", purpose); err != nil {
		t.Errorf("ResetSubject = error %v, want none", err)
	}
	if b, err := s.Tokens.InspectSource(t.Context(), "n", "203.0.113.7", limits); err != nil || b.Failures != 1 {
		t.Errorf("InspectSource = %+v, %v, want 1 failure", b, err)
	}
}
