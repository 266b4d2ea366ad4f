package token_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// modelToken is what is expected of a token.
type modelToken struct {
	issued   token.Issued
	kind     token.Kind
	decoy    bool
	grant    bool
	attempts int
	listed   bool
	used     bool
	codes    []bool // of recovery codes, which were used
}

// tokenModel runs the tokens of one subject and purpose in Redis beside their model. Time stands still in the model: nothing
// expires during a run, and no window ends.
type tokenModel struct {
	t         *rapid.T
	s         *store.Store
	namespace string
	limits    token.Limits
	tokens    []*modelToken
	failures  int
	streak    int
}

func (m *tokenModel) locked() bool {
	return m.failures >= m.limits.Failures || m.streak >= m.limits.Consecutive
}

// open returns the listed tokens, the oldest first; recovery codes apart.
func (m *tokenModel) open(recovery bool) (open []*modelToken) {
	for _, k := range m.tokens {
		if k.listed && (k.kind == token.Recovery) == recovery {
			open = append(open, k)
		}
	}
	return open
}

func (m *tokenModel) issue() {
	kind := rapid.SampledFrom(kinds).Draw(m.t, "kind")
	n := a(kind, "ann", func(i *token.Issue) {
		i.Count, i.MaxAttempts, i.Limits = 2, 3, m.limits
		i.MaxOpen, i.Decoy = rapid.IntRange(1, 3).Draw(m.t, "open"), rapid.IntRange(0, 4).Draw(m.t, "decoy") == 0
	})
	i, err := m.s.Tokens.Issue(m.t.Context(), m.namespace, n)
	if err != nil || i.Locked != m.locked() || (i.ID == "") != m.locked() || i.Cooldown {
		m.t.Fatalf("Issue = %+v, %v, want locked: %t", i, err, m.locked())
	}
	if i.Locked {
		return
	}
	next := &modelToken{issued: i, kind: kind, decoy: n.Decoy, listed: true, codes: make([]bool, len(i.RecoveryCodes))}
	if kind == token.Recovery {
		// There is one set, under one id: of the earlier one nothing is left.
		m.tokens = slices.DeleteFunc(m.tokens, func(k *modelToken) bool { return k.kind == token.Recovery })
	} else if open := m.open(false); len(open) >= n.MaxOpen {
		for _, k := range open[:len(open)-n.MaxOpen+1] {
			k.listed = false
		}
	}
	m.tokens = append(m.tokens, next)
}

// choose returns a token, nil if there is none.
func (m *tokenModel) choose() *modelToken {
	if len(m.tokens) == 0 {
		return nil
	}
	return m.tokens[rapid.IntRange(0, len(m.tokens)-1).Draw(m.t, "token")]
}

func (m *tokenModel) consume(exchanges bool) {
	k := m.choose()
	if k == nil || exchanges && k.grant {
		return
	}
	p := present(k.issued, func(p *token.Presented) { p.Limits = m.limits })
	code := 0
	if k.kind == token.Recovery {
		code = rapid.IntRange(0, 1).Draw(m.t, "code")
		p.Code = k.issued.RecoveryCodes[code]
	}
	if k.grant {
		p.Purpose += token.GrantSuffix
	}
	right := !k.decoy
	if rapid.IntRange(0, 2).Draw(m.t, "right") == 0 {
		right = false
		wrong(&p)
	}
	limited := k.kind != token.Recovery
	want := token.Accepted
	used := k.used || !limited && k.codes[code]
	switch {
	case m.locked():
		want = token.SubjectLocked
	case limited && k.attempts >= 3:
		want = token.AttemptsExhausted
	case !right:
		want = token.Incorrect
	case used:
		want = token.AlreadyUsed
	case !k.listed:
		want = token.Revoked
	}
	var c token.Consumed
	var err error
	if exchanges {
		c, err = m.s.Tokens.Exchange(m.t.Context(), m.namespace, p, token.Grant{TTL: limits.Window, MaxAttempts: 3})
	} else {
		c, err = m.s.Tokens.Consume(m.t.Context(), m.namespace, p)
	}
	if err != nil || c.Verdict != want || (c.Payload != "") != (want == token.Accepted) {
		m.t.Fatalf("Consume of %+v = %+v, %v, want %s", *k, c, err, want)
	}
	switch want {
	case token.Incorrect:
		k.attempts++
		m.failures++
		m.streak++
		left := min(m.limits.Failures-m.failures, m.limits.Consecutive-m.streak)
		if limited {
			left = min(left, 3-k.attempts)
		}
		if c.AttemptsLeft != max(left, 0) {
			m.t.Fatalf("%d attempts are left, want %d", c.AttemptsLeft, left)
		}
	case token.Accepted:
		m.failures, m.streak = 0, 0
		if limited {
			k.used, k.attempts = true, k.attempts+1 // the accepted attempt counts as well
			for _, other := range m.open(false) {
				other.listed = false
			}
		} else {
			k.codes[code] = true
			k.listed = !k.codes[0] || !k.codes[1]
		}
		if exchanges {
			m.tokens = append(m.tokens, &modelToken{issued: token.Issued{ID: c.GrantID, Link: c.Grant}, kind: token.Link, grant: true, listed: true})
		}
	}
}

func (m *tokenModel) revoke() {
	k := m.choose()
	if k == nil {
		return
	}
	if ok, err := m.s.Tokens.Revoke(m.t.Context(), m.namespace, k.issued.ID); err != nil || ok != k.listed {
		m.t.Fatalf("Revoke of %+v = %t, %v, want %t", *k, ok, err, k.listed)
	}
	k.listed = false
}

func (m *tokenModel) revokeAll() {
	want := len(m.open(false)) + len(m.open(true))
	if n, err := m.s.Tokens.RevokeAll(m.t.Context(), m.namespace, "ann", purpose); err != nil || int(n) != want {
		m.t.Fatalf("RevokeAll = %d, %v, want %d", n, err, want)
	}
	for _, k := range m.tokens {
		k.listed = false
	}
}

func (m *tokenModel) reset() {
	if err := m.s.Tokens.ResetSubject(m.t.Context(), m.namespace, "ann", purpose); err != nil {
		m.t.Fatalf("ResetSubject = error %v, want none", err)
	}
	m.failures, m.streak = 0, 0
}

// look compares what can be read with the model.
func (m *tokenModel) look() {
	b, err := m.s.Tokens.InspectSubject(m.t.Context(), m.namespace, "ann", purpose, m.limits)
	if err != nil || b.Failures != m.failures || b.Consecutive != m.streak || b.Locked != m.locked() {
		m.t.Fatalf("InspectSubject = %+v, %v, want %d failures, %d in a row, locked %t", b, err, m.failures, m.streak, m.locked())
	}
	var got, want []string
	for _, o := range b.Open {
		got = append(got, o.ID)
	}
	for _, k := range slices.Concat(m.open(false), m.open(true)) {
		want = append(want, k.issued.ID)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		m.t.Fatalf("the open tokens are %q, want %q", got, want)
	}
}

// Any sequence of calls has the outcomes that the model says.
func TestTokensFollowTheModel(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		runs := 0
		rapid.Check(t, func(r *rapid.T) {
			runs++
			few := calm()
			few.Failures, few.Consecutive = 4, 7
			m := &tokenModel{t: r, s: s, namespace: fmt.Sprint(namespace, "-", runs), limits: few}
			r.Repeat(map[string]func(*rapid.T){
				"issue":      func(*rapid.T) { m.issue() },
				"consume":    func(*rapid.T) { m.consume(false) },
				"consume2":   func(*rapid.T) { m.consume(false) },
				"exchange":   func(*rapid.T) { m.consume(true) },
				"revoke":     func(*rapid.T) { m.revoke() },
				"revoke all": func(*rapid.T) { m.revokeAll() },
				"reset":      func(*rapid.T) { m.reset() },
				"":           func(*rapid.T) { m.look() },
			})
		})
	})
}
