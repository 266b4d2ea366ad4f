package session_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// modelSession is the expected state of a session. Its time passes in steps that are long compared to the test's own time,
// and timeouts elapse between two steps.
type modelSession struct {
	subject    string
	class      string
	token      string
	sess       *session.Session
	attributes map[string]string
	version    int64
	idle       time.Duration
	// idleLeft and absoluteLeft are what is left of its timeouts.
	idleLeft, absoluteLeft time.Duration
	revoked                bool
	absolute               time.Duration
	modelTokens
	// promoted is the session that this one was promoted to, and first the token that it began with.
	promoted *modelSession
	first    string
	// created and used order the sessions by their creation and their last recorded activity.
	created, used int
}

func (m *modelSession) active() bool { return !m.revoked && m.idleLeft > 0 && m.absoluteLeft > 0 }

// sessionModel runs sessions in Redis, through two replicas, beside their model.
type sessionModel struct {
	t         *testing.T
	stores    []*store.Store
	namespace string
	sessions  []*modelSession
	clock     int
	// epochs are the results of the revocations of each subject, in order.
	epochs map[string][]modelEpoch
}

// modelEpoch is the epoch that a revocation has set for a device class; empty means all.
type modelEpoch struct {
	class string
	epoch int64
}

const step = 10 * time.Minute

var (
	modelSubjects = []string{"", "ann", "bob"}
	modelClasses  = []string{"", "mobile", "web"}
	modelPolicies = []session.LimitPolicy{session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject}
)

func (m *sessionModel) store(t *rapid.T) *store.Store {
	return rapid.SampledFrom(m.stores).Draw(t, "replica")
}

func (m *sessionModel) pick(t *rapid.T) *modelSession {
	if len(m.sessions) == 0 {
		t.Skip("no session yet")
	}
	return m.sessions[rapid.IntRange(0, len(m.sessions)-1).Draw(t, "session")]
}

func (m *sessionModel) target(t *rapid.T, s *modelSession) session.Target {
	if rapid.Bool().Draw(t, "by token") {
		return byToken(s.token)
	}
	return byID(s.sess)
}

// heard waits until both replicas have received the pushes of every write so far: pushes and replies arrive in order on each
// connection.
func (m *sessionModel) heard() {
	for _, s := range m.stores {
		validate(m.t, s, m.namespace, "ls1_"+strings.Repeat("A", 66), cached)
	}
}

// later waits for the next millisecond, the resolution of times in Redis.
func (m *sessionModel) later() {
	for until := time.Now().Add(2 * time.Millisecond); time.Now().Before(until); {
		m.heard()
	}
}

func (m *sessionModel) create(t *rapid.T) {
	if len(m.sessions) >= 8 {
		t.Skip("enough")
	}
	steps := func(name string) time.Duration {
		return time.Duration(rapid.IntRange(1, 6).Draw(t, name))*step - step/2
	}
	n := session.Creation{
		Subject: rapid.SampledFrom(modelSubjects).Draw(t, "subject"), Idle: steps("idle"), Absolute: steps("absolute"),
		Attributes: map[string]string{"made": "1"},
	}
	n.Device.Class = rapid.SampledFrom(modelClasses).Draw(t, "class")
	n.Limits = session.Limits{
		PerSubject: rapid.IntRange(0, 4).Draw(t, "per subject"), PerClass: rapid.IntRange(0, 2).Draw(t, "per class"),
		Policy: rapid.SampledFrom(modelPolicies).Draw(t, "policy"),
	}
	m.later()
	if m.tooLate(t, &n) {
		return
	}
	evicted, existing := m.makeRoom(n)
	created := createLimited(m.t, m.store(t), m.namespace, n)
	if diff := cmp.Diff(evicted, summaryIDs(created.Evicted)); diff != "" {
		t.Fatalf("evicted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(existing, summaryIDs(created.Existing)); diff != "" || (existing != nil) != (created.Session == nil) {
		t.Fatalf("existing (-want +got):\n%s", diff)
	}
	if created.Session == nil {
		return
	}
	m.clock++
	m.sessions = append(m.sessions, &modelSession{
		subject: n.Subject, class: n.Device.Class, token: created.Token, sess: created.Session, attributes: maps.Clone(n.Attributes), version: 1,
		idle: n.Idle, idleLeft: n.Idle, absolute: n.Absolute, absoluteLeft: n.Absolute, created: m.clock, used: m.clock,
	})
}

// makeRoom returns the sessions that a new session must evict, or those that it must be refused for.
func (m *sessionModel) makeRoom(n session.Creation) (evicted, existing []string) {
	if n.Subject == "" {
		return nil, nil
	}
	for _, l := range []struct {
		limit   int
		applies bool
		counts  func(*modelSession) bool
	}{
		{n.Limits.PerClass, n.Device.Class != "", func(s *modelSession) bool { return s.class == n.Device.Class }},
		{n.Limits.PerSubject, true, func(*modelSession) bool { return true }},
	} {
		var counted []*modelSession
		for _, s := range m.sessions {
			if s.subject == n.Subject && s.active() && l.counts(s) {
				counted = append(counted, s)
			}
		}
		if l.limit == 0 || !l.applies || len(counted) < l.limit {
			continue
		}
		slices.SortFunc(counted, func(a, b *modelSession) int {
			if n.Limits.Policy == session.EvictOldest {
				return a.created - b.created
			}
			return a.used - b.used
		})
		if n.Limits.Policy == session.Reject {
			for _, s := range counted {
				existing = append(existing, s.sess.ID)
			}
			return nil, existing
		}
		for _, s := range counted[:len(counted)-l.limit+1] {
			s.revoked = true
			evicted = append(evicted, s.sess.ID)
		}
	}
	return evicted, nil
}

func (m *sessionModel) touch(t *rapid.T) {
	s := m.pick(t)
	m.later()
	got := touch(m.t, m.store(t), m.namespace, s.token, primary, session.TouchForce)
	if (got != nil) != s.active() {
		t.Fatalf("Validate with a touch = %v, want active %t", got, s.active())
	}
	if s.active() {
		s.idleLeft = s.idle
		m.clock++
		s.used = m.clock
	}
}

func (m *sessionModel) revoke(t *rapid.T) {
	s := m.pick(t)
	if revoked := revokeSession(m.t, m.store(t), m.namespace, m.target(t, s)); revoked != s.active() {
		t.Fatalf("Revoke = %t, want %t", revoked, s.active())
	}
	s.revoked = true
}

func (m *sessionModel) revokeSubject(t *rapid.T) {
	subject := rapid.SampledFrom(modelSubjects[1:]).Draw(t, "subject")
	var kept *modelSession
	except := ""
	if len(m.sessions) > 0 && rapid.Bool().Draw(t, "keep one") {
		kept = m.pick(t)
		except = kept.sess.ID
	}
	class := rapid.SampledFrom(modelClasses).Draw(t, "class")
	want := int64(0)
	for _, s := range m.sessions {
		if s.subject == subject && s != kept && (class == "" || class == s.class) {
			if s.active() {
				want++
			}
			s.revoked = true
		}
	}
	revoked := revokeClass(m.t, m.store(t), m.namespace, subject, class, except)
	if revoked.Count != want {
		t.Fatalf("ended %d, want %d", revoked.Count, want)
	}
	m.epochs[subject] = append(m.epochs[subject], modelEpoch{class, revoked.Epoch})
}

func (m *sessionModel) pass(t *rapid.T) {
	by := time.Duration(rapid.IntRange(1, 2).Draw(t, "steps")) * step
	for _, s := range m.sessions {
		age(m.t, m.stores[0], m.namespace, s.sess, by)
		s.idleLeft -= by
		s.absoluteLeft -= by
		if s.active() {
			rotatedLongAgo(m.t, m.stores[0], m.namespace, s.sess)
			s.pass()
		}
	}
}

// checkOne compares one session and one list with the model.
func (m *sessionModel) checkOne(t *rapid.T) {
	m.heard()
	if len(m.sessions) > 0 {
		m.checkSession(t, rapid.IntRange(0, len(m.sessions)-1).Draw(t, "session"), rapid.SampledFrom(modelReads).Draw(t, "how"))
	}
	m.checkList(t, rapid.SampledFrom(modelSubjects[1:]).Draw(t, "subject"))
}

var modelReads = []string{"get", "primary", "cached by 0", "cached by 1", "batch near", "batch primary"}

// checkSession compares what one way to read a session shows with the model.
func (m *sessionModel) checkSession(t *rapid.T, i int, how string) {
	s := m.sessions[i]
	var got *session.Session
	switch how {
	case "get":
		got = getSession(m.t, m.stores[0], m.namespace, s.sess.ID)
	case "primary":
		got = validate(m.t, m.stores[1], m.namespace, s.token, primary)
	case "cached by 0":
		got = validate(m.t, m.stores[0], m.namespace, s.token, cached)
	case "cached by 1":
		got = validate(m.t, m.stores[1], m.namespace, s.token, cached)
	case "batch near":
		got = m.inBatch(t, i, cached)
	case "batch primary":
		got = m.inBatch(t, i, primary)
	}
	if (got != nil) != s.active() {
		t.Fatalf("session %d, %s: active %t, want %t", i, how, got != nil, s.active())
	}
	if got == nil {
		return
	}
	if diff := cmp.Diff(s.attributes, got.Attributes, cmpopts.EquateEmpty()); diff != "" || got.Version != s.version {
		t.Fatalf("session %d, %s: version %d, want %d (-want +got):\n%s", i, how, got.Version, s.version, diff)
	}
}

// inBatch reads a session in one batch with all others, which must be as active as the model says, and once more at its
// end.
func (m *sessionModel) inBatch(t *rapid.T, i int, near bool) *session.Session {
	var vs []session.Validation
	for _, s := range append(m.sessions, m.sessions[i]) {
		vs = append(vs, session.Validation{Token: s.token, Near: near, Touch: session.TouchNever})
	}
	verdicts := validateAll(m.t, m.stores[i%2], m.namespace, vs...)
	for j, s := range m.sessions {
		if v := verdicts[j]; v.Err != nil || (v.Outcome == session.Active) != s.active() || (v.Session != nil) != s.active() {
			t.Fatalf("session %d of a batch, near %t: %+v, want active %t", j, near, v, s.active())
		}
	}
	return verdicts[len(m.sessions)].Session
}

func (m *sessionModel) checkList(t *rapid.T, subject string) {
	class := rapid.SampledFrom(modelClasses).Draw(t, "listed class")
	var want []string
	for _, s := range m.sessions {
		if s.subject == subject && s.active() && (class == "" || class == s.class) {
			want = append(want, s.sess.ID)
		}
	}
	got := ids(walkClass(m.t, m.stores[1], m.namespace, subject, class, 2, nil))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("listed of %s (-want +got):\n%s", subject, diff)
	}
}

func TestSessionsFollowTheirModel(t *testing.T) {
	t.Parallel()
	a := storetest.Open(t, storetest.Options(t, redis.Standalone))
	b := storetest.Open(t, storetest.Options(t, redis.Standalone))
	rapid.Check(t, func(rt *rapid.T) {
		m := &sessionModel{t: t, stores: []*store.Store{a, b}, namespace: storetest.NewNamespace(), epochs: map[string][]modelEpoch{}}
		rt.Repeat(map[string]func(*rapid.T){
			"create": m.create, "update": m.update, "touch": m.touch, "revoke": m.revoke, "revoke subject": m.revokeSubject,
			"rotate": m.rotate, "present": m.present, "reauthenticate": m.reauthenticate, "promote": m.promote, "pass": m.pass, "": m.checkOne,
		})
		m.heard()
		for i := range m.sessions {
			for _, how := range modelReads {
				m.checkSession(rt, i, how)
			}
		}
		for _, subject := range modelSubjects[1:] {
			m.checkList(rt, subject)
		}
	})
}
