package session_test

import (
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// A stepper calls a function after a script has been answered, before the call goes on.
type stepper struct {
	mu   sync.Mutex
	name string
	then func()
}

func (s *stepper) after(name string, then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.then = name, then
}

func (s *stepper) Command(name string, _ time.Duration, _ error) {
	s.mu.Lock()
	then := s.then
	if then != nil && name == s.name {
		s.then = nil
	} else {
		then = nil
	}
	s.mu.Unlock()
	if then != nil {
		then()
	}
}

func (s *stepper) Connection(redis.ConnectionEvent, int, error) {}

// Between any two steps of a promotion, whether or not the answer to the second one is lost, each way to revoke ends what it
// names, and repeating the promotion brings nothing back.
func TestRevocationsBetweenTheStepsOfAPromotion(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	direct := beside(t, server)
	proxy := redistest.StartProxy(t, server.Addr)
	steps := new(stepper)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 300 * time.Millisecond, Observer: steps}})
	// Redis knows the scripts.
	warm, _ := createSession(t, s, "n", sessionOf(""))
	revokeSession(t, s, "n", byToken(promote(t, s, "n", warm, "warm").Token))

	type scene struct {
		namespace, token, own string
		anonymous             *session.Session
		epoch                 int64
	}
	// The session that was made of the anonymous one: what the subject has besides its own.
	fresh := func(c scene) *session.Session {
		for _, sess := range walk(t, direct, c.namespace, "ann", 10, nil) {
			if sess.ID != c.own {
				return sess
			}
		}
		return nil
	}
	ways := map[string]struct {
		revoke func(c scene)
		// anonymous and made tell which session it names. The new one ends with the anonymous one.
		anonymous, made bool
	}{
		"anonymous by id": {func(c scene) {
			if !revokeSession(t, direct, c.namespace, byID(c.anonymous)) {
				t.Error("Revoke of the anonymous session = false, want true")
			}
		}, true, false},
		"anonymous by token": {func(c scene) {
			if !revokeSession(t, direct, c.namespace, byToken(c.token)) {
				t.Error("Revoke by the anonymous token = false, want true")
			}
		}, true, false},
		"made by id": {func(c scene) {
			if sess := fresh(c); sess != nil && !revokeSession(t, direct, c.namespace, byID(sess)) {
				t.Error("Revoke of the new session = false, want true")
			}
		}, false, true},
		"subject":       {func(c scene) { revokeSubject(t, direct, c.namespace, "ann", "") }, false, true},
		"subject's own": {func(c scene) { revokeSubject(t, direct, c.namespace, "ann", c.own) }, false, true},
		"class":         {func(c scene) { revokeClass(t, direct, c.namespace, "ann", "mobile", "") }, false, true},
	}
	for how, way := range ways {
		for _, step := range []string{"session_promote", "session_create", "session_create lost"} {
			for _, guarded := range []bool{false, true} {
				what := how + " after " + step
				c := scene{namespace: storetest.NewNamespace()}
				_, own := createSession(t, direct, c.namespace, sessionOf("ann"))
				c.own = own.ID
				n := sessionOf("")
				n.Device.Class = "mobile"
				c.token, c.anonymous = createSession(t, direct, c.namespace, n)
				p := session.Promotion{Subject: "ann"}
				if guarded {
					c.epoch = subjectEpoch(t, direct, c.namespace, "ann")
					p.IfSubjectEpoch = &c.epoch
				}
				before := step == "session_promote"
				if step == "session_create lost" {
					steps.after("session_promote", func() { proxy.DropReplies(true) })
				} else {
					steps.after(step, func() { way.revoke(c) })
				}
				got, err := s.Sessions.Promote(t.Context(), c.namespace, c.token, p)
				if step == "session_create lost" {
					if err == nil {
						t.Errorf("%s: Promote = %+v, want an error", what, got)
					}
					proxy.DropReplies(false)
					proxy.CutAll()
					way.revoke(c)
				}
				check := func(when string) {
					t.Helper()
					if way.anonymous && validate(t, direct, c.namespace, c.token, primary) != nil {
						t.Errorf("%s, %s: the anonymous session is active, want inactive", what, when)
					}
					ended := way.made && !before || way.made && guarded && how != "made by id" || way.anonymous
					if sess := fresh(c); ended && sess != nil {
						t.Errorf("%s, %s: the subject has the new session %s, want it ended", what, when, sess.ID)
					}
					if ended && got.Token != "" && validate(t, direct, c.namespace, got.Token, primary) != nil {
						t.Errorf("%s, %s: the new token is active, want inactive", what, when)
					}
				}
				check("at once")
				storetest.Eventually(t, "the promotion is repeated", func() bool {
					_, err := s.Sessions.Promote(t.Context(), c.namespace, c.token, p)
					return err == nil || redis.Refused(err)
				})
				check("repeated")
			}
		}
	}
}
