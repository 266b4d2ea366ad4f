package token_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// near reports whether a duration has just begun to run down. The estimate of the time of Redis may be behind a little.
func near(got, want time.Duration) bool { return got <= want+time.Second && got > want-20*time.Second }

// The failures of a subject count for all of its tokens of a purpose, and for no other purpose.
func TestSubjectBudgetSurvivesReissue(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		fail := func(n int) (last token.Consumed) {
			for range n {
				i := issue(t, s, namespace, a(token.Code, "ann"))
				last = expect(t, s, namespace, present(i, wrong), token.Incorrect)
			}
			return last
		}
		if c := fail(9); c.AttemptsLeft != 1 {
			t.Errorf("%d attempts are left after 9 failures, want 1", c.AttemptsLeft)
		}
		last := issue(t, s, namespace, a(token.Code, "ann"))
		expect(t, s, namespace, present(last, wrong), token.Incorrect)
		for _, p := range []token.Presented{present(last), present(last, wrong)} {
			if c := expect(t, s, namespace, p, token.SubjectLocked); !near(c.RetryAfter, time.Hour) {
				t.Errorf("RetryAfter = %v, want just below 1 h", c.RetryAfter)
			}
		}
		for _, kind := range kinds {
			if i, err := s.Tokens.Issue(t.Context(), namespace, a(kind, "ann")); err != nil || !i.Locked || !near(i.RetryAfter, time.Hour) || i.Code != "" || i.Link != "" || i.RecoveryCodes != nil {
				t.Errorf("Issue = %+v, %v, want locked for 1 h and no token", i, err)
			}
		}
		b := budgetOf(t, s, namespace, "ann", limits)
		if !b.Locked || b.Failures != 10 || b.Left != 0 || b.Consecutive != 10 || !near(b.RetryAfter, time.Hour) || len(b.Open) != 1 {
			t.Errorf("the budget is %+v, want it spent, with 1 open token", b)
		}
		elsewhere := issue(t, s, namespace, a(token.Code, "ann", func(i *token.Issue) { i.Purpose = "other" }))
		expect(t, s, namespace, present(elsewhere, func(p *token.Presented) { p.Purpose = "other" }), token.Accepted)
		expect(t, s, namespace, present(issue(t, s, namespace, a(token.Code, "bob"))), token.Accepted)

		storetest.Command(t, s, "HSET", stateOf(namespace, "ann"), "fu", "1000") // the window has ended
		expect(t, s, namespace, present(last, wrong), token.Incorrect)
		if b := budgetOf(t, s, namespace, "ann", limits); b.Failures != 1 || b.Consecutive != 11 || b.Locked {
			t.Errorf("the budget of the next window is %+v, want 1 failure of 11 in a row", b)
		}
		expect(t, s, namespace, present(last), token.Accepted)
		if b := budgetOf(t, s, namespace, "ann", limits); b.Failures != 0 || b.Consecutive != 0 || b.Left != 10 {
			t.Errorf("the budget after a success is %+v, want it whole", b)
		}
	})
}

// Failures in a row lock a subject until it is reset, however much time passes.
func TestConsecutiveFailuresLockUntilReset(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		few := calm()
		few.Consecutive = 3
		under := func(p *token.Presented) { p.Limits = few }
		i := issue(t, s, namespace, a(token.Code, "ann"))
		for n := range 3 {
			if c := expect(t, s, namespace, present(i, under, wrong), token.Incorrect); c.AttemptsLeft != 2-n {
				t.Errorf("%d attempts are left, want %d", c.AttemptsLeft, 2-n)
			}
			storetest.Command(t, s, "HSET", stateOf(namespace, "ann"), "fu", "1000")
		}
		if c := expect(t, s, namespace, present(i, under), token.SubjectLocked); c.RetryAfter >= 0 {
			t.Errorf("RetryAfter = %v, want a negative one: no time ends the lock", c.RetryAfter)
		}
		if b := budgetOf(t, s, namespace, "ann", few); !b.Locked || b.RetryAfter >= 0 || b.Left != 0 || b.Consecutive != 3 {
			t.Errorf("the budget is %+v, want it locked until it is reset", b)
		}
		if err := s.Tokens.ResetSubject(t.Context(), namespace, "ann", purpose); err != nil {
			t.Fatalf("ResetSubject = error %v, want none", err)
		}
		if b := budgetOf(t, s, namespace, "ann", few); b.Locked || b.Consecutive != 0 || b.Failures != 0 || len(b.Open) != 1 {
			t.Errorf("the budget after a reset is %+v, want it whole, with the open token", b)
		}
		expect(t, s, namespace, present(i, under), token.Accepted)
	})
}

// The failures of a source count for all subjects and purposes; a success gives back its own attempt and nothing more.
func TestSourceBudgetSurvivesReissue(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		few := calm()
		few.SourceFailures = 5
		from := func(p *token.Presented) { p.Source, p.Limits = "203.0.113.7", few }
		for n := range 5 {
			i := issue(t, s, namespace, a(token.Code, fmt.Sprint("ann", n)))
			if n == 4 {
				expect(t, s, namespace, present(i, from), token.Accepted) // is no failure
				expect(t, s, namespace, present(i, from), token.AlreadyUsed)
				i = issue(t, s, namespace, a(token.Code, fmt.Sprint("ann", n)))
			}
			expect(t, s, namespace, present(i, from, wrong), token.Incorrect)
		}
		i := issue(t, s, namespace, a(token.Code, "bob"))
		for _, p := range []token.Presented{present(i, from), present(i, from, wrong), {Link: "nonsense", Purpose: purpose, Source: "203.0.113.7", Limits: few}} {
			if c := expect(t, s, namespace, p, token.SourceLocked); !near(c.RetryAfter, time.Hour) {
				t.Errorf("RetryAfter = %v, want just below 1 h", c.RetryAfter)
			}
		}
		b, err := s.Tokens.InspectSource(t.Context(), namespace, "203.0.113.7", few)
		if err != nil || !b.Locked || b.Failures != 5 || b.Left != 0 || !near(b.RetryAfter, time.Hour) {
			t.Errorf("InspectSource = %+v, %v, want it spent", b, err)
		}
		if b := budgetOf(t, s, namespace, "bob", few); b.Failures != 0 {
			t.Errorf("the budget of the subject is %+v, want no failure: nothing was compared", b)
		}
		if err := s.Tokens.ResetSource(t.Context(), namespace, "203.0.113.7"); err != nil {
			t.Fatalf("ResetSource = error %v, want none", err)
		}
		expect(t, s, namespace, present(i, from), token.Accepted)
	})
}

// However many attempts a source makes at once, no more are compared than its budget allows.
func TestConcurrentGuessesNeverExceedTheSourceBudget(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		few := calm()
		few.SourceFailures = 7
		replicas := storetest.Replicas(t, s)
		var tokens []token.Issued
		for n := range 40 {
			tokens = append(tokens, issue(t, s, namespace, a(token.Code, fmt.Sprint("ann", n))))
		}
		var mu sync.Mutex
		count := map[token.Verdict]int{}
		together(len(tokens), func(n int) {
			v := consume(t, replicas[n%2], namespace, present(tokens[n], wrong, func(p *token.Presented) { p.Source, p.Limits = "ip", few })).Verdict
			mu.Lock()
			defer mu.Unlock()
			count[v]++
		})
		if count[token.Incorrect] != 7 || count[token.SourceLocked] != 33 {
			t.Errorf("the verdicts are %v, want 7 incorrect and 33 locked", count)
		}
	})
}

// The source pays for an attempt before it is made: wherever the process dies, none is given away. What is known not to have been
// compared is given back.
func TestSourcePaysBeforeTheAttempt(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), CommandTimeout: 500 * time.Millisecond}})
	ofSubject := cluster.Owner(t, cluster.Slot(t, stateOf("n", "ann")))
	source := "ip"
	for cluster.Owner(t, cluster.Slot(t, token.SourceKey("n", source))) == ofSubject {
		source += "."
	}
	failures := func() int {
		t.Helper()
		b, err := s.Tokens.InspectSource(t.Context(), "n", source, limits)
		if err != nil {
			t.Fatalf("InspectSource = error %v, want none", err)
		}
		return b.Failures
	}
	from := func(p *token.Presented) { p.Source = source }
	i := issue(t, s, "n", a(token.Code, "ann"))
	expect(t, s, "n", present(i, wrong, from), token.Incorrect)
	if n := failures(); n != 1 {
		t.Errorf("%d failures after one, want 1", n)
	}
	ofSubject.Pause(t)
	c, err := s.Tokens.Consume(t.Context(), "n", present(i, from))
	ofSubject.Resume(t)
	if !errors.Is(err, redis.ErrOutcomeUnknown) {
		t.Errorf("Consume = %+v, %v, want ErrOutcomeUnknown", c, err)
	}
	if n := failures(); n != 2 {
		t.Errorf("%d failures after an attempt whose outcome is unknown, want 2", n)
	}
	storetest.Eventually(t, "connected", func() bool { return s.Redis.Ping(t.Context()) == nil })
	other := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}, Keyring: newKeyring(t, "a")})
	secret := issue(t, other, "n", a(token.Code, "ann"))
	if c, err := s.Tokens.Consume(t.Context(), "n", present(secret, from)); !errors.Is(err, keyring.ErrKeyUnknown) {
		t.Errorf("Consume without the key = %+v, %v, want ErrKeyUnknown", c, err)
	}
	if n := failures(); n != 2 {
		t.Errorf("%d failures after an attempt that was not compared, want 2", n)
	}
}

func TestCooldownDoubles(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		cooled := func(i *token.Issue) { i.Limits = limits }
		pass := func() { storetest.Command(t, s, "HSET", stateOf(namespace, "ann"), "ca", "1000") }
		for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			want *= time.Minute
			i := issue(t, s, namespace, a(token.Code, "ann", cooled))
			if !near(i.RetryAfter, want) {
				t.Errorf("token %d: RetryAfter = %v, want %v", n, i.RetryAfter, want)
			}
			again, err := s.Tokens.Issue(t.Context(), namespace, a(token.Link, "ann", cooled))
			if err != nil || !again.Cooldown || !near(again.RetryAfter, want) || again.Link != "" {
				t.Errorf("Issue at once = %+v, %v, want a cooldown of %v", again, err, want)
			}
			if b := budgetOf(t, s, namespace, "ann", limits); !near(b.IssueAfter, want) {
				t.Errorf("IssueAfter = %v, want %v", b.IssueAfter, want)
			}
			if n == 7 {
				issue(t, s, namespace, a(token.Recovery, "ann", cooled)) // nobody is sent a message with them
				expect(t, s, namespace, present(i), token.Accepted)
				break
			}
			pass()
		}
		if i := issue(t, s, namespace, a(token.Code, "ann", cooled)); !near(i.RetryAfter, time.Minute) {
			t.Errorf("RetryAfter = %v after a success, want 1 min", i.RetryAfter)
		}
		pass()
		issue(t, s, namespace, a(token.Code, "ann", cooled))
		storetest.Command(t, s, "HSET", stateOf(namespace, "ann"), "ca", "1000", "la", "1000")
		if i := issue(t, s, namespace, a(token.Code, "ann", cooled)); !near(i.RetryAfter, time.Minute) {
			t.Errorf("RetryAfter = %v after a day without a token, want 1 min", i.RetryAfter)
		}
		if err := s.Tokens.ResetSubject(t.Context(), namespace, "ann", purpose); err != nil {
			t.Fatalf("ResetSubject = error %v, want none", err)
		}
		if i := issue(t, s, namespace, a(token.Code, "ann", cooled)); !near(i.RetryAfter, time.Minute) {
			t.Errorf("RetryAfter = %v after a reset, want 1 min", i.RetryAfter)
		}
	})
}
