package session_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// Whatever keys Redis evicts, and however often, between whichever calls: no revoked session is active again.
func TestEvictionsAtRandom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // repeatable
		namespace := storetest.NewNamespace()
		active, revoked := map[string]*session.Session{}, map[string]string{}
		var history []string
		did := func(format string, args ...any) { history = append(history, fmt.Sprintf(format, args...)) }
		p, _ := subjectPartition(namespace, "ann")
		one := func() (string, *session.Session) {
			for token, sess := range active {
				return token, sess
			}
			return "", nil
		}
		for range 40 {
			token, sess := one()
			switch op := r.IntN(12); {
			case op < 3 || sess == nil:
				n := ofClass("ann", []string{"", "mobile"}[r.IntN(2)])
				n.Limits = session.Limits{PerSubject: 6, Policy: session.EvictOldest}
				created, err := s.Sessions.Create(t.Context(), namespace, n)
				if err != nil {
					t.Fatalf("Create: error %v, want none", err)
				}
				did("create %s %q", created.Session.ID[:6], n.Device.Class)
				for _, e := range created.Evicted {
					for token, sess := range active {
						if sess.ID == e.ID {
							revoked[token] = "limit"
							delete(active, token)
						}
					}
				}
				active[created.Token] = created.Session
			case op == 3:
				createSession(t, s, namespace, sessionOf(""))
				did("create anonymous")
			case op == 4:
				revokeSession(t, s, namespace, byID(sess))
				did("revoke %s", sess.ID[:6])
				revoked[token] = "session"
				delete(active, token)
			case op < 7:
				class, except := []string{"", "mobile"}[r.IntN(2)], ""
				if r.IntN(3) == 0 {
					except = sess.ID
				}
				revokeClass(t, s, namespace, "ann", class, except)
				did("revoke class %q except %.6s", class, except)
				for token, sess := range active {
					if sess.ID != except && (class == "" || class == sess.Device.Class) {
						revoked[token] = "subject"
						delete(active, token)
					}
				}
			case op == 7:
				if next, sess := rotate(t, s, namespace, token); next != "" {
					delete(active, token)
					active[next] = sess
				}
			case op == 8:
				sweep(t, s)
				did("sweep")
			default:
				kinds := []string{"s", "d", "i", "k", "u", "m", "q", "x", "e", "g", "r"}
				for range 1 + r.IntN(3) {
					kind := kinds[r.IntN(len(kinds))]
					for _, key := range evicted(t, s, namespace, kind, p) {
						if r.IntN(3) > 0 {
							storetest.Command(t, s, "DEL", key)
							did("evict %s", key)
						}
					}
				}
			}
			for token, how := range revoked {
				if validate(t, s, namespace, token, primary) != nil {
					t.Fatalf("seed %d: a session revoked by %s is active, want inactive, after %q", seed, how, history)
				}
			}
		}
	}
}
