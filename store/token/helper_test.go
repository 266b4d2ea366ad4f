package token_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/token"
)

const purpose = "reset"

var limits = token.Limits{
	Failures: 10, Window: time.Hour, Consecutive: 100, SourceFailures: 100, SourceWindow: time.Hour, Cooldown: time.Minute, MaxCooldown: time.Hour,
}

// calm are limits without a cooldown, for tests that issue one token after the other.
func calm() token.Limits {
	l := limits
	l.Cooldown = 0
	return l
}

// a returns a token of a kind to be issued, with what a change makes of it.
func a(kind token.Kind, subject string, changes ...func(*token.Issue)) token.Issue {
	n := token.Issue{
		Subject: subject, Purpose: purpose, Kind: kind, TTL: 10 * time.Minute, Payload: "payload of " + subject, Alphabet: token.Digits, Length: 6,
		Count: 10, MaxAttempts: 5, MaxOpen: 1, Limits: calm(),
	}
	for _, change := range changes {
		change(&n)
	}
	return n
}

func issue(t testing.TB, s *store.Store, namespace string, n token.Issue) token.Issued {
	t.Helper()
	issued, err := s.Tokens.Issue(t.Context(), namespace, n)
	if err != nil || issued.ID == "" {
		t.Fatalf("Issue = %+v, %v, want a token: %s", issued, err, cause(err))
	}
	return issued
}

func cause(err error) string {
	if err == nil {
		return ""
	}
	return redis.Cause(err)
}

// present returns a token as its holder presents it.
func present(i token.Issued, changes ...func(*token.Presented)) token.Presented {
	p := token.Presented{Purpose: purpose, Longest: time.Hour, Limits: calm()}
	switch {
	case i.Link != "":
		p.Link = i.Link
	case i.Code != "":
		p.ID, p.Code = i.ID, i.Code
	default:
		p.ID, p.Code = i.ID, i.RecoveryCodes[0]
	}
	for _, change := range changes {
		change(&p)
	}
	return p
}

// wrong presents another secret.
func wrong(p *token.Presented) {
	if p.Link == "" {
		last := p.Code[len(p.Code)-1:]
		p.Code = p.Code[:len(p.Code)-1] + map[bool]string{true: "1", false: "0"}[last == "0"]
		return
	}
	at := len(p.Link) - 10
	p.Link = p.Link[:at] + map[bool]string{true: "B", false: "A"}[p.Link[at] == 'A'] + p.Link[at+1:]
}

func consume(t testing.TB, s *store.Store, namespace string, p token.Presented) token.Consumed {
	t.Helper()
	c, err := s.Tokens.Consume(t.Context(), namespace, p)
	if err != nil {
		t.Fatalf("Consume = error %v, want none: %s", err, cause(err))
	}
	if accepted := c.Verdict == token.Accepted; !accepted && (c.Payload != "" || c.Subject != "") {
		t.Errorf("Consume = %+v, want no payload and no subject unless it is accepted", c)
	}
	return c
}

// expect consumes a token and checks the verdict.
func expect(t testing.TB, s *store.Store, namespace string, p token.Presented, want token.Verdict) token.Consumed {
	t.Helper()
	c := consume(t, s, namespace, p)
	if c.Verdict != want {
		t.Errorf("Consume = %+v, want the verdict %s", c, want)
	}
	return c
}

func budgetOf(t testing.TB, s *store.Store, namespace, subject string, l token.Limits) token.Budget {
	t.Helper()
	b, err := s.Tokens.InspectSubject(t.Context(), namespace, subject, purpose, l)
	if err != nil {
		t.Fatalf("InspectSubject = error %v, want none: %s", err, cause(err))
	}
	return b
}

func newKeyring(t testing.TB, active string, ids ...string) *keyring.Keyring {
	t.Helper()
	keys := map[string][]byte{}
	for _, id := range append(ids, active) {
		keys[id] = bytes.Repeat([]byte(id[:1]), keyring.KeyBytes)
	}
	k, err := keyring.New(active, keys)
	if err != nil {
		t.Fatalf("keyring.New = error %v, want none", err)
	}
	return k
}

func sessionOf(subject string) session.Creation {
	return session.Creation{Subject: subject, Idle: time.Hour, Absolute: time.Hour}
}

func createSession(t testing.TB, s *store.Store, namespace, subject, class string) session.Created {
	t.Helper()
	n := sessionOf(subject)
	n.Device.Class = class
	c, err := s.Sessions.Create(t.Context(), namespace, n)
	if err != nil || c.Session == nil {
		t.Fatalf("Create = %+v, %v, want a session: %s", c, err, cause(err))
	}
	return c
}

func active(t testing.TB, s *store.Store, namespace, sessionToken string, near bool) bool {
	t.Helper()
	v, err := s.Sessions.Validate(t.Context(), namespace, session.Validation{Token: sessionToken, Near: near, Touch: session.TouchNever})
	if err != nil {
		t.Fatalf("Validate = error %v, want none: %s", err, cause(err))
	}
	return v.Session != nil
}

var kinds = []token.Kind{token.Link, token.Code, token.Recovery}

// stateOf returns the key of the state of a subject, as docs/redis.md describes it.
func stateOf(namespace, subject string) string {
	p, hash := session.SubjectHash(namespace, subject)
	return "ld:b:" + p.Tag() + ":" + namespace + ":" + hash + ":" + purpose
}

func recordOf(namespace, subject, id string) string {
	p, _ := session.SubjectHash(namespace, subject)
	return "ld:o:" + p.Tag() + ":" + namespace + ":" + id
}

func eventsOf(namespace, subject string) string {
	p, _ := session.SubjectHash(namespace, subject)
	return "ld:e:" + p.Tag()
}

// other returns a well-formed id of the same partition that no token has.
func other(id string) string {
	return id[:5] + map[bool]string{true: "B", false: "A"}[id[5] == 'A'] + id[6:]
}
