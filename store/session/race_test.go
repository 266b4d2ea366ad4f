package session_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// raced runs a test of concurrency on a standalone server and on a cluster.
func raced(t *testing.T, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, storetest.Open(t, storetest.Options(t, mode)), storetest.NewNamespace())
		})
	}
}

// another returns a second store on the same Redis, like another replica.
func another(t *testing.T, s *store.Store) *store.Store {
	t.Helper()
	return storetest.Open(t, storetest.Options(t, s.Redis.Mode()))
}

// atOnce runs functions concurrently, all released at the same moment.
func atOnce(functions ...func()) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for _, f := range functions {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			f()
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// pace pauses a loop so that it does not starve what it races with; false means that ctx has ended.
func pace(ctx context.Context) bool {
	t := time.NewTimer(50 * time.Microsecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A slow request that saves its session after the user has logged out does not bring it back, whole or in part.
func TestLogoutVersusSlowSave(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		saved := 0
		for round := range 200 {
			n := sessionOf("ann")
			n.Attributes = map[string]string{"a": "1"}
			token, sess := createSession(t, a, namespace, n)
			save := func(s *store.Store, target session.Target) func() {
				return func() {
					for range 3 {
						updated, err := s.Sessions.Update(t.Context(), namespace, target, session.Changes{Set: map[string]string{"cart": "full"}})
						if err != nil {
							t.Errorf("Update: error %v, want none", err)
						}
						if updated.Version > 0 && round%2 == 0 {
							saved++
						}
					}
				}
			}
			logout := func() {
				if revoked, err := b.Sessions.Revoke(t.Context(), namespace, byToken(token)); !revoked || err != nil {
					t.Errorf("Revoke = %t, %v; want true, no error", revoked, err)
				}
			}
			if round%2 == 0 {
				atOnce(save(a, byToken(token)), logout)
			} else {
				atOnce(save(a, byToken(token)), save(b, byID(sess)), logout)
			}
			wantInactive(t, b, namespace, token)
			if validate(t, a, namespace, token, primary) != nil || getSession(t, a, namespace, sess.ID) != nil {
				t.Error("the session is active after its revocation, want inactive")
			}
			keys := sessionKeysOf(t, namespace, sess)
			for _, key := range []string{keys.record, keys.attributes} {
				if storetest.Command(t, a, "EXISTS", key) != int64(0) {
					t.Fatalf("%s exists after the revocation, want it removed", key)
				}
			}
		}
		t.Logf("%d of 300 saves came first", saved)
	})
}

// A touch that arrives after the revocation does not bring the session back.
func TestTouchVersusRevoke(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 200 {
			token, sess := createSession(t, a, namespace, sessionOf("ann"))
			wantActive(t, b, namespace, token)
			touches := func(s *store.Store, near bool) func() {
				return func() {
					gone := false
					for range 4 {
						got, err := s.Sessions.ValidateSession(t.Context(), namespace, token, near, session.TouchForce)
						if err != nil || got != nil && gone {
							t.Errorf("Validate after it was inactive = %v, %v; want inactive, no error", got, err)
						}
						gone = got == nil
					}
				}
			}
			atOnce(touches(a, cached), touches(b, cached), touches(b, primary), func() {
				if revoked, err := a.Sessions.Revoke(t.Context(), namespace, byID(sess)); !revoked || err != nil {
					t.Errorf("Revoke = %t, %v; want true, no error", revoked, err)
				}
			})
			wantInactive(t, a, namespace, token)
			keys := sessionKeysOf(t, namespace, sess)
			for _, key := range []string{keys.record, keys.attributes} {
				if storetest.Command(t, a, "EXISTS", key) != int64(0) {
					t.Fatalf("%s exists after the revocation, want it removed", key)
				}
			}
			if n := len(walk(t, a, namespace, "ann", 10, nil)); n != 0 {
				t.Fatalf("%d sessions are listed, want 0", n)
			}
		}
	})
}

func TestConcurrentCreatesKeepTheIndex(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		const count = 100
		var sessions [2][]*session.Session
		atOnce(
			func() { _, sessions[0] = createMany(t, a, namespace, sessionOf("ann"), count) },
			func() { _, sessions[1] = createMany(t, b, namespace, sessionOf("ann"), count) },
		)
		want := append(ids(sessions[0]), ids(sessions[1])...)
		got := ids(walk(t, a, namespace, "ann", 30, nil))
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("listed %d, want %d", len(got), len(want))
		}
		if n := revokeSubject(t, b, namespace, "ann", ""); n != 2*count {
			t.Errorf("ended %d, want %d", n, 2*count)
		}
	})
}

// A session created before the revocation began is revoked, one created after it returned is not, and one in between is the
// same for everybody and for ever.
func TestRevokeAllVersusCreate(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		type login struct {
			token, id    string
			began, ended time.Time
		}
		undecided := 0
		for round := range 60 {
			subject := fmt.Sprint("s", round)
			var mu sync.Mutex
			var logins []login
			var revoking, revoked time.Time
			var count int64
			create := func(s *store.Store) func() {
				return func() {
					for range 4 {
						began := time.Now()
						created, err := s.Sessions.Create(t.Context(), namespace, sessionOf(subject))
						if err != nil {
							t.Errorf("Create: error %v, want none", err)
							return
						}
						mu.Lock()
						logins = append(logins, login{token: created.Token, id: created.Session.ID, began: began, ended: time.Now()})
						mu.Unlock()
					}
				}
			}
			create(b)()
			atOnce(create(a), create(b), create(a), func() {
				revoking = time.Now()
				r, err := b.Sessions.RevokeSubject(t.Context(), namespace, subject, session.SubjectRevocation{Longest: longest})
				if err != nil {
					t.Errorf("RevokeSubject: error %v, want none", err)
				}
				revoked, count = time.Now(), r.Count
			})
			create(a)()

			listed := ids(walk(t, b, namespace, subject, 5, nil))
			for _, l := range logins {
				active := validate(t, a, namespace, l.token, primary) != nil
				for _, s := range []*store.Store{a, b} {
					for _, near := range []bool{cached, cached, primary} {
						if (validate(t, s, namespace, l.token, near) != nil) != active {
							t.Errorf("round %d: replicas differ, want active %t everywhere", round, active)
						}
					}
				}
				if slices.Contains(listed, l.id) != active {
					t.Errorf("round %d: listed = %t, want %t", round, !active, active)
				}
				switch {
				case l.ended.Before(revoking) && active:
					t.Errorf("round %d: a session created before the revocation is active, want inactive", round)
				case l.began.After(revoked) && !active:
					t.Errorf("round %d: a session created after the revocation is inactive, want active", round)
				case !l.ended.Before(revoking) && !l.began.After(revoked):
					undecided++
				}
			}
			if int(count) != len(logins)-len(listed) {
				t.Errorf("round %d: revocation counted %d, want %d, as %d of %d are left", round, count, len(logins)-len(listed), len(listed), len(logins))
			}
		}
		t.Logf("%d logins met the revocation", undecided)
	})
}
