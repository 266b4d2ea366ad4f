package token_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

func TestTokenIsAcceptedOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind)))
			if left := time.Until(i.ExpiresAt); left < 9*time.Minute || left > 11*time.Minute {
				t.Errorf("%s expires in %v, want 10 min", kind, left)
			}
			c := expect(t, s, namespace, present(i), token.Accepted)
			want := token.Consumed{Verdict: token.Accepted, ID: i.ID, Payload: "payload of ann-" + string(kind), Subject: "ann-" + string(kind)}
			if kind == token.Recovery {
				want.RecoveryLeft = 9
			}
			if c != want {
				t.Errorf("Consume of a %s = %+v, want %+v", kind, c, want)
			}
			expect(t, s, namespace, present(i), token.AlreadyUsed)
			expect(t, s, namespace, present(i, wrong), token.Incorrect)
			expect(t, s, storetest.NewNamespace(), present(i), token.Incorrect)
		}
	})
}

func TestTokenForms(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		link := issue(t, s, namespace, a(token.Link, "ann"))
		if !regexp.MustCompile(`^lt1_[A-Za-z0-9_-]{66}$`).MatchString(link.Link) || len(link.ID) != 23 || link.Code != "" || link.RecoveryCodes != nil {
			t.Errorf("a link is %+v, want lt1_ and 66 characters alone, with an id of 23", link)
		}
		seen := map[string]bool{}
		for n := 6; n <= 10; n++ {
			code := issue(t, s, namespace, a(token.Code, "ann", func(i *token.Issue) { i.Length = n }))
			if !regexp.MustCompile(`^[0-9]+$`).MatchString(code.Code) || len(code.Code) != n || code.Link != "" {
				t.Errorf("a code is %+v, want %d digits alone", code, n)
			}
		}
		code := issue(t, s, namespace, a(token.Code, "ann", func(i *token.Issue) { i.Alphabet, i.Length = token.Crockford, 16 }))
		if !regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{16}$`).MatchString(code.Code) {
			t.Errorf("a code is %q, want 16 characters of Crockford's base 32", code.Code)
		}
		expect(t, s, namespace, present(code, func(p *token.Presented) {
			p.Code = strings.NewReplacer("1", "l", "0", "o").Replace(strings.ToLower(p.Code[:4]) + "-" + p.Code[4:] + " ")
		}), token.Accepted)
		set := issue(t, s, namespace, a(token.Recovery, "ann"))
		for _, c := range set.RecoveryCodes {
			if !regexp.MustCompile(`^([0-9A-HJKMNP-TV-Z]{5}-){4}[0-9A-HJKMNP-TV-Z]{6}$`).MatchString(c) || seen[c] {
				t.Errorf("a recovery code is %q, want one of 26 characters that no other is", c)
			}
			seen[c] = true
		}
		if len(set.RecoveryCodes) != 10 {
			t.Errorf("there are %d recovery codes, want 10", len(set.RecoveryCodes))
		}
	})
}

func TestSecretPurposeAndBindingMustBeRight(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range []token.Kind{token.Link, token.Code} {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind), func(i *token.Issue) { i.Binding = "cookie" }))
			bound := func(p *token.Presented) { p.Binding = "cookie" }
			expect(t, s, namespace, present(i), token.Incorrect)
			expect(t, s, namespace, present(i, func(p *token.Presented) { p.Binding = "Cookie" }), token.Incorrect)
			expect(t, s, namespace, present(i, bound, wrong), token.Incorrect)
			c := expect(t, s, namespace, present(i, bound, func(p *token.Presented) { p.Purpose = "other" }), token.Incorrect)
			if c.AttemptsLeft != 1 {
				t.Errorf("%d attempts are left of 5 after 4 failures, want 1", c.AttemptsLeft)
			}
			expect(t, s, namespace, present(i, bound), token.Accepted)
		}
	})
}

func TestTokenExpires(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "ann-"+string(kind), func(i *token.Issue) { i.TTL = time.Millisecond }))
			storetest.Eventually(t, "expired", func() bool { return s.Redis.Now().After(i.ExpiresAt.Add(20 * time.Millisecond)) })
			expect(t, s, namespace, present(i), token.Expired)
			expect(t, s, namespace, present(i, wrong), token.Incorrect)
			if b := budgetOf(t, s, namespace, "ann-"+string(kind), limits); b.Failures != 1 || len(b.Open) != 0 {
				t.Errorf("the budget is %+v, want 1 failure and no open token: the right secret is none", b)
			}
		}
	})
}

func TestLaterTokenReplacesEarlierOnes(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		recovery := issue(t, s, namespace, a(token.Recovery, "ann"))
		first := issue(t, s, namespace, a(token.Code, "ann"))
		second := issue(t, s, namespace, a(token.Link, "ann"))
		expect(t, s, namespace, present(first), token.Revoked)
		two := func(i *token.Issue) { i.MaxOpen = 2 }
		third := issue(t, s, namespace, a(token.Code, "ann", two))
		fourth := issue(t, s, namespace, a(token.Code, "ann", two))
		expect(t, s, namespace, present(second), token.Revoked)
		expect(t, s, namespace, present(fourth), token.Accepted)
		expect(t, s, namespace, present(third), token.Revoked) // one success ends its siblings
		expect(t, s, namespace, present(recovery), token.Accepted)
		again := issue(t, s, namespace, a(token.Recovery, "ann"))
		expect(t, s, namespace, present(recovery, func(p *token.Presented) { p.Code = recovery.RecoveryCodes[1] }), token.Incorrect)
		expect(t, s, namespace, present(again), token.Accepted)
	})
}

func TestRecoveryCodesAreUsedOneByOne(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set := issue(t, s, namespace, a(token.Recovery, "ann", func(i *token.Issue) { i.Count = 3 }))
		for n, code := range set.RecoveryCodes {
			by := token.Presented{Subject: "ann", Code: strings.ToLower(strings.ReplaceAll(code, "-", " ")), Purpose: purpose, Limits: calm()}
			if c := expect(t, s, namespace, by, token.Accepted); c.RecoveryLeft != 2-n || c.Subject != "ann" {
				t.Errorf("Consume = %+v, want %d codes left", c, 2-n)
			}
			expect(t, s, namespace, by, token.AlreadyUsed)
		}
		if b := budgetOf(t, s, namespace, "ann", limits); len(b.Open) != 0 || b.Failures != 0 {
			t.Errorf("the budget is %+v, want no failures and no open token", b)
		}
		expect(t, s, namespace, token.Presented{Subject: "bob", Code: set.RecoveryCodes[0], Purpose: purpose, Limits: calm()}, token.Incorrect)
	})
}

func TestMalformedTokenNeverReachesRedis(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	i := issue(t, s, "n", a(token.Link, "ann"))
	calls := storetest.Costs(t, server, func() {
		for _, p := range []token.Presented{
			{Link: "lt1_"},
			{Link: i.Link + "A"},
			{Link: i.Link[:len(i.Link)-1]},
			{Link: "ls1_" + i.Link[4:]},
			{Link: i.Link[:len(i.Link)-1] + "\n"},
			{ID: "x", Code: "123456"},
			{ID: i.ID + "A", Code: "123456"},
			{ID: i.ID[:22] + "\n", Code: "123456"},
			{ID: "", Code: "1"},
		} {
			p.Purpose, p.Limits = purpose, limits
			expect(t, s, "n", p, token.Incorrect)
		}
	})
	if len(calls) != 0 {
		t.Errorf("Redis ran %v, want nothing", calls)
	}
}
