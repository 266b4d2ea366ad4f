package session_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store/session"
)

// modelTokens are the tokens that a session had. The grace passes with every step of time, and each successor has been
// presented.
type modelTokens struct {
	// before is the token that was superseded last; older are those before it, the latest first.
	before modelToken
	older  []modelToken
}

// modelToken is a superseded token: it is usable, or counts as stolen, or neither for a while.
type modelToken struct {
	token         string
	usable, theft bool
}

// supersede notes that a token was superseded. If it is not usable, none before it is either.
func (m *modelTokens) supersede(token string, usable bool) {
	if m.before.token != "" {
		m.older = append([]modelToken{m.before}, m.older...)
	}
	for i := range m.older {
		m.older[i].usable = m.older[i].usable && usable
	}
	m.before = modelToken{token: token, usable: usable}
}

func (m *modelTokens) pass() {
	m.before.usable, m.before.theft = false, true
	for i := range m.older {
		m.older[i].usable, m.older[i].theft = false, true
	}
}

// token draws one of the tokens of a session, with what the model expects of it; the current token is usable.
func (m *sessionModel) token(t *rapid.T, s *modelSession) modelToken {
	tokens := []modelToken{{token: s.token, usable: true}}
	if s.before.token != "" {
		tokens = append(append(tokens, s.before), s.older...)
	}
	return rapid.SampledFrom(tokens).Draw(t, "token")
}

func (m *sessionModel) rotate(t *rapid.T) {
	s := m.pick(t)
	presented := m.token(t, s)
	next, got := rotate(m.t, m.store(t), m.namespace, presented.token)
	switch {
	case !s.active() || !presented.usable:
		if got != nil {
			t.Fatalf("Rotate by an unusable token = %v, want no session", got)
		}
		s.revoked = s.revoked || presented.theft
	case presented.token != s.token:
		if next != s.token {
			t.Fatalf("Rotate of a superseded token = %q, want its first successor %q", next, s.token)
		}
	default:
		if got == nil || next == s.token {
			t.Fatalf("Rotate = %v, token %q; want the session and a new token", got, next)
		}
		s.supersede(s.token, true)
		s.token = next
		seen(m.t, m.store(t), m.namespace, next, s.sess)
	}
}

func (m *sessionModel) present(t *rapid.T) {
	s := m.pick(t)
	presented := m.token(t, s)
	m.heard()
	near := rapid.Bool().Draw(t, "near")
	if got := validate(m.t, m.store(t), m.namespace, presented.token, near); (got != nil) != (s.active() && presented.usable) {
		t.Fatalf("Validate: active = %t; want %t, as the session's active is %t and the token is %+v", got != nil, s.active() && presented.usable, s.active(), presented)
	}
	s.revoked = s.revoked || presented.theft
}

func (m *sessionModel) reauthenticate(t *rapid.T) {
	s := m.pick(t)
	presented := m.token(t, s)
	reset := rapid.Bool().Draw(t, "reset")
	m.later()
	next, got := reauthenticate(m.t, m.store(t), m.namespace, presented.token, session.Reauthentication{AAL: 2, AMR: []string{"otp"}, ResetTimeouts: reset})
	switch {
	case !s.active() || !presented.usable:
		if got != nil {
			t.Fatalf("Reauthenticate by an unusable token = %v, want no session", got)
		}
		s.revoked = s.revoked || presented.theft
	case s.subject == "":
		if got == nil || next != "" {
			t.Fatalf("Reauthenticate of an anonymous session = %q, %v; want no token and the session", next, got)
		}
	default:
		if got == nil || got.Assurance.AAL != 2 {
			t.Fatalf("Reauthenticate = %+v, want a session with AAL 2", got)
		}
		s.supersede(s.token, false)
		s.token = next
		if reset {
			s.idleLeft, s.absoluteLeft = s.idle, s.absolute
			m.clock++
			s.used = m.clock
		}
		seen(m.t, m.store(t), m.namespace, next, s.sess)
	}
}

func (m *sessionModel) promote(t *rapid.T) {
	s := m.pick(t)
	subject := rapid.SampledFrom(modelSubjects[1:]).Draw(t, "subject")
	presented := m.token(t, s)
	m.later()
	got := promote(m.t, m.store(t), m.namespace, presented.token, subject)
	switch {
	case s.promoted != nil:
		p := s.promoted
		good := p.first == p.token || p.first == p.before.token && p.before.usable
		again := presented.usable && subject == p.subject && p.active() && good
		if (got.Session != nil) != again || again && got.Token != p.first {
			t.Fatalf("promoted again: %+v, want it %t", got, again)
		}
	case !s.active() || !presented.usable:
		if diff := cmp.Diff(session.Promoted{}, got); diff != "" {
			t.Fatalf("Promote by an unusable token = %+v, want nothing", got)
		}
		s.revoked = s.revoked || presented.theft
	case s.subject != "":
		if diff := cmp.Diff(session.Promoted{NotAnonymous: true}, got); diff != "" {
			t.Fatalf("Promote of a subject's session = %+v, want NotAnonymous alone", got)
		}
	default:
		if got.Session == nil {
			t.Fatalf("Promote = %+v, want a session", got)
		}
		s.revoked = true
		m.clock++
		s.promoted = &modelSession{
			subject: subject, class: s.class, created: m.clock, used: m.clock, token: got.Token, first: got.Token, sess: got.Session, attributes: maps.Clone(s.attributes), version: 1,
			idle: s.idle, idleLeft: s.idle, absolute: s.absolute, absoluteLeft: s.absolute,
		}
		m.sessions = append(m.sessions, s.promoted)
	}
}

// The model of tokens behaves as its comments say.
func TestModelOfTokens(t *testing.T) {
	t.Parallel()
	var m modelTokens
	m.supersede("a", true)
	m.supersede("b", true)
	if m.before != (modelToken{"b", true, false}) || m.older[0] != (modelToken{"a", true, false}) {
		t.Errorf("model after two rotations = %+v, want b before and a older, both usable", m)
	}
	m.pass()
	m.supersede("c", false)
	if m.before != (modelToken{"c", false, false}) || m.older[0] != (modelToken{"b", false, true}) || m.older[1] != (modelToken{"a", false, true}) {
		t.Errorf("model after the grace and a reauthentication = %+v, want theft by b and a alone", m)
	}
}
