package token_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// together runs calls that begin at the same time.
func together(n int, call func(i int)) {
	begin := make(chan struct{})
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			<-begin
			call(i)
		})
	}
	close(begin)
	calls.Wait()
}

// Of 16 callers on two replicas, each with a request of its own, one is accepted.
func TestOneOfSixteenConsumersIsAccepted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		replicas := storetest.Replicas(t, s)
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind)))
			verdicts := make([]token.Verdict, 16)
			together(16, func(n int) {
				verdicts[n] = consume(t, replicas[n%2], namespace, present(i, func(p *token.Presented) { p.Request = fmt.Sprint("r", n) })).Verdict
			})
			count := map[token.Verdict]int{}
			for _, v := range verdicts {
				count[v]++
			}
			if count[token.Accepted] != 1 || count[token.AlreadyUsed] != 15 {
				t.Errorf("the verdicts on a %s are %v, want 1 accepted and 15 already used", kind, count)
			}
		}
	})
}

// A hundred wrong codes at once are compared as often as the token allows.
func TestConcurrentGuessesNeverExceedTheAttempts(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		replicas := storetest.Replicas(t, s)
		i := issue(t, s, namespace, a(token.Code, "ann"))
		var mu sync.Mutex
		count := map[token.Verdict]int{}
		together(100, func(n int) {
			v := consume(t, replicas[n%2], namespace, present(i, wrong)).Verdict
			mu.Lock()
			defer mu.Unlock()
			count[v]++
		})
		if count[token.Incorrect] != 5 || count[token.AttemptsExhausted] != 95 {
			t.Errorf("the verdicts are %v, want 5 incorrect and 95 without an attempt", count)
		}
		expect(t, s, namespace, present(i), token.AttemptsExhausted)
	})
}

// A correct code is accepted while wrong ones are tried.
func TestCorrectCodeDuringGuesses(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		i := issue(t, s, namespace, a(token.Code, "ann"))
		var right token.Verdict
		together(4, func(n int) {
			if n == 0 {
				right = consume(t, s, namespace, present(i)).Verdict
				return
			}
			consume(t, s, namespace, present(i, wrong))
		})
		if right != token.Accepted {
			t.Errorf("the verdict on the right code is %s, want accepted", right)
		}
	})
}

func TestLostReplyIsReplayedToTheSameRequestOnly(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind)))
			same := func(p *token.Presented) { p.Request = "one" }
			first := expect(t, s, namespace, present(i, same), token.Accepted)
			again := expect(t, s, namespace, present(i, same), token.Accepted)
			if first.Replayed || !again.Replayed || again.Payload != first.Payload || again.Subject != first.Subject || again.RecoveryLeft != first.RecoveryLeft {
				t.Errorf("the answers are %+v and %+v, want the second to be the first, replayed", first, again)
			}
			expect(t, s, namespace, present(i, func(p *token.Presented) { p.Request = "two" }), token.AlreadyUsed)
			expect(t, s, namespace, present(i), token.AlreadyUsed)
			expect(t, s, namespace, present(i, same, wrong), token.Incorrect)
			if kind != token.Recovery {
				storetest.Command(t, s, "HSET", recordOf(namespace, "ann-"+string(kind), i.ID), "us", "1000") // used long ago
				expect(t, s, namespace, present(i, same), token.AlreadyUsed)
			}
		}
	})
}

// The answer of Redis is lost on the way: the call says that it does not know, and its repetition is answered as it would have
// been.
func TestConsumeWithLostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 300 * time.Millisecond}})
	direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	for _, request := range []string{"named", ""} {
		i := issue(t, direct, "n", a(token.Link, "ann"))
		consume(t, s, "n", present(issue(t, direct, "n", a(token.Link, "bob")))) // the script is known
		proxy.DropReplies(true)
		p := present(i, func(p *token.Presented) { p.Request = request })
		_, err := s.Tokens.Consume(t.Context(), "n", p)
		proxy.DropReplies(false)
		proxy.CutAll()
		if !errors.Is(err, redis.ErrOutcomeUnknown) || redis.Retryable(err) != (request != "") {
			t.Errorf("Consume with the request %q: error %v, retryable %t; want ErrOutcomeUnknown, retryable if there is a request", request, err, redis.Retryable(err))
		}
		want := map[bool]token.Verdict{true: token.Accepted, false: token.AlreadyUsed}[request != ""]
		storetest.Eventually(t, "answered again", func() bool {
			c, err := s.Tokens.Consume(t.Context(), "n", p)
			if err == nil && c.Verdict != want {
				t.Fatalf("Consume again with the request %q = %+v, want %s", request, c, want)
			}
			return err == nil
		})
	}
}

func TestIssueIsRepeatedByTheSameRequestOnly(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		cooled := func(request string) token.Issue {
			return a(token.Code, "ann", func(i *token.Issue) { i.Limits, i.Request = limits, request })
		}
		first := issue(t, s, namespace, cooled("one"))
		again := issue(t, s, namespace, cooled("one"))
		if again.RetryAfter > time.Minute {
			t.Errorf("RetryAfter = %v after a repeated call, want at most 1 min", again.RetryAfter)
		}
		expect(t, s, namespace, present(first), token.Revoked)
		if i, err := s.Tokens.Issue(t.Context(), namespace, cooled("two")); err != nil || !i.Cooldown || i.Code != "" || i.ID != "" {
			t.Errorf("Issue by another request = %+v, %v, want a cooldown and no token", i, err)
		}
		expect(t, s, namespace, present(again), token.Accepted)
	})
}

// Repeated calls do not prolong the time in which the call can be repeated: nobody is sent a message every minute.
func TestIssueIsRepeatedForTwoMinutesOnly(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := a(token.Code, "ann", func(i *token.Issue) { i.Limits, i.Request = limits, "one" })
		n.Limits.Cooldown = time.Hour
		pass := func(d time.Duration) {
			for _, field := range []string{"la", "ra"} {
				storetest.Command(t, s, "HINCRBY", stateOf(namespace, "ann"), field, fmt.Sprint(-d.Milliseconds()))
			}
		}
		issue(t, s, namespace, n)
		pass(90 * time.Second)
		issue(t, s, namespace, n)
		pass(40 * time.Second)
		if i, err := s.Tokens.Issue(t.Context(), namespace, n); err != nil || !i.Cooldown {
			t.Errorf("Issue repeated 130 s after the first call = %+v, %v, want a cooldown", i, err)
		}
	})
}

func TestInspectCountsNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		inspect := func(p token.Presented, want token.Verdict) token.Inspected {
			t.Helper()
			p.Limits = limits
			r, err := s.Tokens.Inspect(t.Context(), namespace, p)
			if err != nil || r.Verdict != want {
				t.Errorf("Inspect = %+v, %v, want the verdict %s: %s", r, err, want, cause(err))
			}
			if want == token.Incorrect && r != (token.Inspected{Verdict: token.Incorrect}) {
				t.Errorf("Inspect = %+v, want nothing but the verdict", r)
			}
			return r
		}
		link := issue(t, s, namespace, a(token.Link, "ann", func(i *token.Issue) { i.Binding = "cookie" }))
		for range 20 {
			r := inspect(token.Presented{Link: link.Link, Binding: "cookie", Purpose: purpose}, token.Accepted)
			want := token.Inspected{
				Verdict: token.Accepted, ID: link.ID, Kind: token.Link, Subject: "ann", Purpose: purpose, CreatedAt: r.CreatedAt, ExpiresAt: link.ExpiresAt, AttemptsLeft: 5,
			}
			if r != want || r.ExpiresAt.Sub(r.CreatedAt) != 10*time.Minute {
				t.Errorf("Inspect = %+v, want %+v", r, want)
			}
		}
		inspect(token.Presented{Link: link.Link}, token.Incorrect)                                  // without the binding
		inspect(token.Presented{Link: link.Link, Binding: "cookie", Purpose: "x"}, token.Incorrect) // for another purpose
		inspect(present(link, wrong, func(p *token.Presented) { p.Binding = "cookie" }), token.Incorrect)
		inspect(token.Presented{ID: link.ID}, token.Accepted)
		inspect(token.Presented{ID: other(link.ID)}, token.Incorrect)
		inspect(token.Presented{ID: "nonsense"}, token.Incorrect)
		expect(t, s, namespace, present(link, func(p *token.Presented) { p.Binding = "cookie" }), token.Accepted)
		inspect(token.Presented{ID: link.ID}, token.AlreadyUsed)

		code := issue(t, s, namespace, a(token.Code, "ann"))
		expect(t, s, namespace, present(code, wrong), token.Incorrect)
		if r := inspect(token.Presented{ID: code.ID}, token.Accepted); r.AttemptsLeft != 4 {
			t.Errorf("Inspect = %+v, want 4 attempts left", r)
		}
		next := issue(t, s, namespace, a(token.Code, "ann"))
		inspect(token.Presented{ID: code.ID}, token.Revoked)
		for range 5 {
			consume(t, s, namespace, present(next, wrong))
		}
		inspect(token.Presented{ID: next.ID}, token.AttemptsExhausted)
		last := issue(t, s, namespace, a(token.Code, "ann"))
		for range 4 {
			consume(t, s, namespace, present(last, wrong))
		}
		inspect(token.Presented{ID: last.ID}, token.SubjectLocked)

		set := issue(t, s, namespace, a(token.Recovery, "bob", func(i *token.Issue) { i.Count = 1 }))
		if r := inspect(token.Presented{ID: set.ID}, token.Accepted); r.RecoveryLeft != 1 || r.Kind != token.Recovery {
			t.Errorf("Inspect = %+v, want 1 recovery code left", r)
		}
		consume(t, s, namespace, present(set))
		inspect(token.Presented{ID: set.ID}, token.AlreadyUsed)
	})
}

func TestRevokedTokensAreNotAccepted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			subject := "ann-" + string(kind)
			i := issue(t, s, namespace, a(kind, subject))
			for n, want := range []bool{true, false} {
				if revoked, err := s.Tokens.Revoke(t.Context(), namespace, i.ID); err != nil || revoked != want {
					t.Errorf("Revoke %d = %t, %v, want %t", n, revoked, err, want)
				}
			}
			expect(t, s, namespace, present(i), token.Revoked)
		}
		two := func(i *token.Issue) { i.MaxOpen = 2 }
		link, code, set := issue(t, s, namespace, a(token.Link, "bob")), issue(t, s, namespace, a(token.Code, "bob", two)), issue(t, s, namespace, a(token.Recovery, "bob"))
		other := issue(t, s, namespace, a(token.Link, "carl"))
		for n, want := range []int64{3, 0} {
			if count, err := s.Tokens.RevokeAll(t.Context(), namespace, "bob", purpose); err != nil || count != want {
				t.Errorf("RevokeAll %d = %d, %v, want %d", n, count, err, want)
			}
		}
		for _, i := range []token.Issued{link, code, set} {
			expect(t, s, namespace, present(i), token.Revoked)
		}
		expect(t, s, namespace, present(other), token.Accepted)
		if revoked, err := s.Tokens.Revoke(t.Context(), namespace, "nonsense"); err != nil || revoked {
			t.Errorf("Revoke of a malformed id = %t, %v, want false", revoked, err)
		}
	})
}

// A revocation that is repeated by the same request says what the first attempt did, and ends nothing that was issued since.
func TestRepeatedRevocationIsTheSame(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		request := session.WithRequest(t.Context(), "")
		first := issue(t, s, namespace, a(token.Link, "ann"))
		for range 2 {
			if ok, err := s.Tokens.Revoke(request, namespace, first.ID); err != nil || !ok {
				t.Errorf("Revoke = %t, %v, want true", ok, err)
			}
		}
		issue(t, s, namespace, a(token.Link, "ann"))
		if n, err := s.Tokens.RevokeAll(request, namespace, "ann", purpose); err != nil || n != 1 {
			t.Errorf("RevokeAll = %d, %v, want 1", n, err)
		}
		last := issue(t, s, namespace, a(token.Link, "ann"))
		if n, err := s.Tokens.RevokeAll(request, namespace, "ann", purpose); err != nil || n != 1 {
			t.Errorf("RevokeAll again = %d, %v, want 1 as before", n, err)
		}
		expect(t, s, namespace, present(last), token.Accepted)
	})
}
