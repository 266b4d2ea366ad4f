package session_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// A moving is a partition whose slot moves, and what must be true of its sessions meanwhile.
type moving struct {
	t         *testing.T
	cluster   *redistest.Cluster
	s, other  *store.Store // two replicas
	namespace string
	subject   string
	partition byte

	// The tokens by what has become of their sessions.
	active, revoked map[string]*session.Session
	// anonymous are tokens whose promotions were refused.
	anonymous []string
	// calls and refused count the calls and those that Redis has refused.
	calls, refused int
}

func newMoving(t *testing.T, cluster *redistest.Cluster) *moving {
	t.Helper()
	open := func() *store.Store {
		return storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}})
	}
	m := &moving{
		t: t, cluster: cluster, s: open(), other: open(), namespace: storetest.NewNamespace(), subject: "ann",
		active: map[string]*session.Session{}, revoked: map[string]*session.Session{},
	}
	m.partition, _ = subjectPartition(m.namespace, m.subject)
	return m
}

// create adds sessions: with and without attributes and a device class.
func (m *moving) create(count int) (tokens []string) {
	m.t.Helper()
	for i := range count {
		n := sessionOf(m.subject)
		if i%2 == 0 {
			n.Attributes = map[string]string{"a": "b"}
		}
		if i%3 == 0 {
			n.Device.Class = "mobile"
		}
		token, sess := createSession(m.t, m.s, m.namespace, n)
		m.active[token] = sess
		tokens = append(tokens, token)
	}
	return tokens
}

// end notes that a session was revoked.
func (m *moving) end(token string) {
	m.revoked[token] = m.active[token]
	delete(m.active, token)
}

// answered reports whether a call was answered. If not, Redis must have refused it in a way that lets the caller repeat it.
func (m *moving) answered(what string, err error) bool {
	m.t.Helper()
	m.calls++
	if err == nil {
		return true
	}
	m.refused++
	if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		m.t.Errorf("%s: error %v: %s; want none or ErrUnavailable", what, err, redis.Cause(err))
	}
	return false
}

// look validates, gets and lists the sessions.
func (m *moving) look(when string) {
	m.t.Helper()
	judge := func(what, token string, active bool, err error) {
		m.t.Helper()
		if !m.answered(when+": "+what, err) {
			return
		}
		if _, want := m.active[token]; active != want {
			m.t.Errorf("%s: %s: active = %t, want %t", when, what, active, want)
		}
	}
	for _, sessions := range []map[string]*session.Session{m.active, m.revoked} {
		var batch []session.Validation
		for token, sess := range sessions {
			for _, near := range []bool{cached, primary} {
				got, err := m.s.Sessions.ValidateSession(m.t.Context(), m.namespace, token, near, session.TouchNever)
				judge(fmt.Sprintf("Validate (cached %t)", near), token, got != nil, err)
				if got != nil && sess != nil && len(got.Attributes) != len(sess.Attributes) && len(sess.Attributes) > 0 {
					m.t.Errorf("%s: Validate = attributes %v, want %v", when, got.Attributes, sess.Attributes)
				}
				batch = append(batch, session.Validation{Token: token, Near: near, Touch: session.TouchNever})
			}
			got, err := m.other.Sessions.ValidateSession(m.t.Context(), m.namespace, token, primary, session.TouchForce)
			judge("Validate with a touch", token, got != nil, err)
			if sess != nil {
				found, err := m.other.Sessions.Get(m.t.Context(), m.namespace, sess.ID)
				judge("Get", token, found != nil, err)
			}
		}
		verdicts, err := m.other.Sessions.ValidateAll(m.t.Context(), m.namespace, batch)
		if m.answered(when+": ValidateAll", err) {
			for i, v := range verdicts {
				judge("ValidateAll", batch[i].Token, v.Session != nil, v.Err)
			}
		}
	}
	for _, count := range []int{3, 100} {
		listed, token := []string(nil), ""
		for {
			page, next, err := m.s.Sessions.ListSubject(m.t.Context(), m.namespace, m.subject, session.SubjectList{Token: token, Count: count})
			if !m.answered(when+": ListSubject", err) {
				listed = nil
				break
			}
			listed = append(listed, ids(page)...)
			if token = next; next == "" {
				break
			}
		}
		if listed == nil {
			continue
		}
		var want []string
		for _, sess := range m.active {
			want = append(want, sess.ID)
		}
		slices.Sort(want)
		slices.Sort(listed)
		if listed = slices.Compact(listed); !slices.Equal(listed, want) {
			m.t.Errorf("%s: listed %d sessions, want %d: %v, want %v", when, len(listed), len(want), listed, want)
		}
	}
}

// change revokes, rotates, updates and reauthenticates sessions, creates others and sweeps. Each of it is done or not.
func (m *moving) change(when string) {
	m.t.Helper()
	one := func() string {
		tokens := make([]string, 0, len(m.active))
		for token := range m.active {
			tokens = append(tokens, token)
		}
		slices.Sort(tokens)
		return tokens[rand.IntN(len(tokens))]
	}
	ctx := m.t.Context()
	for _, by := range []string{"id", "token"} {
		token := one()
		target := byToken(token)
		if by == "id" {
			target = byID(m.active[token])
		}
		if revoked, err := m.s.Sessions.Revoke(ctx, m.namespace, target); m.answered(when+": Revoke", err) {
			if !revoked {
				m.t.Errorf("%s: Revoke by %s = false, want true", when, by)
			}
			m.end(token)
		}
	}
	token := one()
	if next, sess, err := m.s.Sessions.Rotate(ctx, m.namespace, token, 0); m.answered(when+": Rotate", err) {
		if sess == nil {
			m.t.Errorf("%s: Rotate = no session, want one", when)
		} else {
			delete(m.active, token)
			m.active[next], m.revoked[token] = sess, nil
		}
	}
	token = one()
	if got, err := m.s.Sessions.Update(ctx, m.namespace, byToken(token), session.Changes{Set: map[string]string{"a": when}}); m.answered(when+": Update", err) {
		if got.Version == 0 {
			m.t.Errorf("%s: Update = inactive, want active", when)
		}
	}
	token = one()
	a := session.Reauthentication{AAL: 2, AMR: []string{"otp"}, ResetTimeouts: true, Grace: grace}
	if next, sess, err := m.s.Sessions.Reauthenticate(ctx, m.namespace, token, a); m.answered(when+": Reauthenticate", err) {
		if sess == nil {
			m.t.Errorf("%s: Reauthenticate = no session, want one", when)
		} else {
			delete(m.active, token)
			m.active[next], m.revoked[token] = sess, nil
		}
	}
	for _, revoked := range m.revoked {
		if revoked == nil {
			continue
		}
		got, err := m.s.Sessions.Update(ctx, m.namespace, byID(revoked), session.Changes{Set: map[string]string{"a": "late"}})
		if m.answered(when+": Update of a revoked session", err) && got.Version != 0 {
			m.t.Errorf("%s: Update of a revoked session = version %d, want 0", when, got.Version)
		}
		break
	}
	for _, class := range []string{"", "mobile"} {
		n := ofClass(m.subject, class)
		created, err := m.s.Sessions.Create(ctx, m.namespace, n)
		if m.answered(when+": Create", err) {
			m.active[created.Token] = created.Session
		}
	}
	n := ofClass(m.subject, "mobile")
	n.Limits = session.Limits{PerSubject: len(m.active), PerClass: 3, Policy: session.EvictOldest}
	created, err := m.s.Sessions.Create(ctx, m.namespace, n)
	if m.answered(when+": Create at the limit", err) {
		m.active[created.Token] = created.Session
		for _, evicted := range created.Evicted {
			found := false
			for token, sess := range m.active {
				if sess.ID == evicted.ID {
					m.end(token)
					found = true
				}
			}
			if !found {
				m.t.Errorf("%s: evicted session %s, want one that was active", when, evicted.ID)
			}
		}
		if len(created.Evicted) == 0 {
			m.t.Errorf("%s: Create at the limit evicted none, want some", when)
		}
	}
	m.promote(when)
	_ = m.s.Sessions.Sweep(ctx)
}

// promote promotes an anonymous session of another partition, and those whose promotions were refused before.
func (m *moving) promote(when string) {
	m.t.Helper()
	created, err := m.s.Sessions.Create(m.t.Context(), m.namespace, sessionOf(""))
	for err == nil && tokenBytes(m.t, created.Token)[0] == m.partition {
		created, err = m.s.Sessions.Create(m.t.Context(), m.namespace, sessionOf(""))
	}
	tokens := m.anonymous
	if m.answered(when+": Create anonymous", err) {
		tokens = append(tokens, created.Token)
	}
	m.anonymous = nil
	for _, token := range tokens {
		got, err := m.s.Sessions.Promote(m.t.Context(), m.namespace, token, session.Promotion{Subject: m.subject})
		switch {
		case !m.answered(when+": Promote", err):
			m.anonymous = append(m.anonymous, token)
			if validate(m.t, m.s, m.namespace, token, primary) == nil {
				m.t.Errorf("%s: the anonymous session is inactive after a refused promotion, want active", when)
			}
		case got.Session == nil:
			m.t.Errorf("%s: Promote = no session, want one", when)
		default:
			m.active[got.Token] = got.Session
			if validate(m.t, m.s, m.namespace, token, primary) != nil {
				m.t.Errorf("%s: the anonymous session is active after its promotion, want inactive", when)
			}
		}
	}
}

// whole checks that nothing was left half done: what Redis has of each session is whole or gone, and was told once.
func (m *moving) whole(when string) {
	m.t.Helper()
	living := map[string]bool{}
	for _, sess := range m.active {
		living[sess.ID] = true
		keys := sessionKeysOf(m.t, m.namespace, sess)
		if storetest.Command(m.t, m.s, "EXISTS", keys.record) != int64(1) {
			m.t.Errorf("%s: an active session has no record, want one", when)
		}
		if storetest.Command(m.t, m.s, "ZSCORE", keys.index, sess.ID) == nil {
			m.t.Errorf("%s: an active session of class %q is in no index, want it there", when, sess.Device.Class)
		}
		if storetest.Command(m.t, m.s, "ZSCORE", fmt.Sprintf("ld:x:{p%d}", m.partition), m.namespace+":"+sess.ID) == nil {
			m.t.Errorf("%s: an active session is not among those to sweep, want it there", when)
		}
	}
	for _, sess := range m.revoked {
		if sess == nil || living[sess.ID] {
			continue
		}
		if storetest.Command(m.t, m.s, "EXISTS", sessionKeysOf(m.t, m.namespace, sess).record) != int64(0) {
			m.t.Errorf("%s: a revoked session has a record, want none", when)
		}
		types := eventTypes(m.t, m.s, m.namespace, sess)
		revocations := 0
		for _, what := range types {
			if strings.HasPrefix(what, "revoked") {
				revocations++
			}
		}
		if revocations != 1 {
			m.t.Errorf("%s: events of a revoked session = %v, want one revocation", when, types)
		}
	}
}

// keys returns the keys of the partition where they are.
func (m *moving) keys(at *redistest.Server) (keys []string) {
	m.t.Helper()
	slot := m.cluster.Slot(m.t, fmt.Sprintf("ld:x:{p%d}", m.partition))
	list, _ := at.Do(m.t, "CLUSTER", "GETKEYSINSLOT", fmt.Sprint(slot), "1000000").([]any)
	for _, key := range list {
		keys = append(keys, key.(string))
	}
	slices.Sort(keys)
	return keys
}

// The orders in which the keys of a slot may move.
var orders = map[string]func(keys []string){
	"sorted":   func([]string) {},
	"reversed": slices.Reverse[[]string],
	"shuffled": func(keys []string) { rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] }) },
}

// While a slot moves key by key, every call is answered as if it did not, or refused: nothing is half done, no revoked session
// is active, and no active one is called inactive.
func TestSessionsWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			m := newMoving(t, cluster)
			slot := cluster.Slot(t, fmt.Sprintf("ld:x:{p%d}", m.partition))
			// Sessions that were revoked together, of which the records are left, and others.
			old := m.create(4)
			revokeSubject(t, m.s, m.namespace, m.subject, "")
			for _, token := range old {
				m.revoked[token] = nil
				delete(m.active, token)
			}
			classed := m.create(7)
			revokeClass(t, m.s, m.namespace, m.subject, "mobile", "")
			for i, token := range classed {
				if i%3 == 0 {
					m.revoked[token] = nil
					delete(m.active, token)
				}
			}
			m.create(24)
			m.look("before")
			if m.refused > 0 {
				t.Errorf("%d calls were refused before the slot moves, want none", m.refused)
			}
			to, from := cluster.Another(t, slot), cluster.Owner(t, slot)
			cluster.BeginMove(t, slot, to)
			m.look("begun")
			m.change("begun")
			m.look("begun and changed")
			for moved := 0; ; moved++ {
				keys := m.keys(from)
				if len(keys) == 0 {
					break
				}
				order(keys)
				cluster.MoveKeys(t, slot, to, keys[0])
				when := fmt.Sprintf("%d moved, last %s", moved+1, keys[0])
				if moved%5 == 4 {
					m.look(when)
				}
				if len(m.active) > 12 {
					m.change(when)
				}
			}
			m.look("all moved")
			m.change("all moved")
			m.look("all moved and changed")
			cluster.EndMove(t, slot, to)
			refused := m.refused
			storetest.Eventually(t, "the clients know the new owner", func() bool {
				_, err := m.s.Sessions.SubjectEpoch(t.Context(), m.namespace, m.subject)
				_, err2 := m.other.Sessions.SubjectEpoch(t.Context(), m.namespace, m.subject)
				return err == nil && err2 == nil
			})
			m.look("ended")
			if m.refused > refused {
				t.Errorf("%d calls were refused after the slot has moved, want none", m.refused-refused)
			}
			m.whole("ended")
			m.change("ended")
			if len(m.anonymous) > 0 {
				t.Errorf("%d anonymous sessions could not be promoted in the end, want none", len(m.anonymous))
			}
			m.look("ended and changed")
			sweep(t, m.s)
			m.whole("swept")
			t.Logf("%d of %d calls were refused", m.refused, m.calls)
		})
	}
}

// A revoked session is not active on either side of a slot that moves, whichever of its keys has moved.
func TestRevokedSessionWhileItsSlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	m := newMoving(t, cluster)
	slot := cluster.Slot(t, fmt.Sprintf("ld:x:{p%d}", m.partition))
	token, sess := createSession(t, m.s, m.namespace, sessionOf(m.subject))
	living, kept := createSession(t, m.s, m.namespace, sessionOf(m.subject))
	revokeSubject(t, m.s, m.namespace, m.subject, kept.ID)
	m.revoked[token], m.active[living] = nil, kept
	keys := sessionKeysOf(t, m.namespace, sess)
	keptKeys := sessionKeysOf(t, m.namespace, kept)
	to, from := cluster.Another(t, slot), cluster.Owner(t, slot)
	cluster.BeginMove(t, slot, to)
	m.look("begun")
	cluster.MoveKeys(t, slot, to, keys.record)
	cluster.MoveKeys(t, slot, to, keptKeys.record)
	m.look("records moved")
	if next, _, err := m.s.Sessions.Rotate(t.Context(), m.namespace, token, grace); next != "" || err != nil && !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Rotate of a revoked session = %q, %v; want no token", next, err)
	}
	cluster.MoveKeys(t, slot, to, keys.subject)
	m.look("subject moved")
	cluster.MoveKeys(t, slot, to, m.keys(from)...)
	cluster.EndMove(t, slot, to)
	m.look("ended")
}

// Of the keys that belong to a session, and that a script learns of from its record, any one may have moved away: each call does
// all that it should, or nothing and without an event.
func TestOneKeyOfASessionHasMoved(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	for _, kind := range []string{"index", "subject", "classes", "attributes", "ends", "events", "epoch"} {
		for _, class := range []string{"", "mobile"} {
			what := fmt.Sprintf("%s, class %q", kind, class)
			m := newMoving(t, cluster)
			n := ofClass(m.subject, class)
			n.Attributes = map[string]string{"a": "b"}
			add := func() (string, *session.Session) {
				token, sess := createSession(t, m.s, m.namespace, n)
				m.active[token] = sess
				return token, sess
			}
			add()
			token, sess := add()
			keys := sessionKeysOf(t, m.namespace, sess)
			_, hash := subjectPartition(m.namespace, m.subject)
			key := map[string]string{
				"index": keys.index, "subject": keys.subject, "attributes": keys.attributes,
				"classes": fmt.Sprintf("ld:k:{p%d}:%s:%s", m.partition, m.namespace, hash),
				"ends":    fmt.Sprintf("ld:x:{p%d}", m.partition), "events": fmt.Sprintf("ld:e:{p%d}", m.partition), "epoch": fmt.Sprintf("ld:m:{p%d}", m.partition),
			}[kind]
			slot := cluster.Slot(t, key)
			from, to := cluster.Owner(t, slot), cluster.Another(t, slot)
			cluster.BeginMove(t, slot, to)
			cluster.Migrate(t, from, to, key)
			m.look(what)
			calls := map[string]func() (done bool, err error){
				"Revoke by id":    func() (bool, error) { return m.s.Sessions.Revoke(t.Context(), m.namespace, byID(sess)) },
				"Revoke by token": func() (bool, error) { return m.s.Sessions.Revoke(t.Context(), m.namespace, byToken(token)) },
			}
			for name, call := range calls {
				done, err := call()
				if m.answered(what+": "+name, err) {
					if _, active := m.active[token]; done != active {
						t.Errorf("%s: %s = %t, want %t", what, name, done, active)
					}
					if done {
						m.end(token)
					}
				}
				m.look(what + ", after " + name)
			}
			cluster.MoveKeys(t, slot, to)
			cluster.EndMove(t, slot, to)
			storetest.Eventually(t, "the clients know the new owner", func() bool {
				_, err := m.s.Sessions.SubjectEpoch(t.Context(), m.namespace, m.subject)
				_, err2 := m.other.Sessions.SubjectEpoch(t.Context(), m.namespace, m.subject)
				return err == nil && err2 == nil
			})
			m.look(what + ", ended")
			m.whole(what + ", ended")
			if _, active := m.active[token]; active {
				if !revokeSession(t, m.s, m.namespace, byID(sess)) {
					t.Errorf("%s: Revoke after the move = false, want true", what)
				}
				m.end(token)
			}
			m.whole(what + ", revoked")
		}
	}
}
