package session_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// raced runs a race between replicas where their timing differs.
func raced(t *testing.T, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			test(t, storetest.Open(t, storetest.Options(t, mode)), storetest.NewNamespace())
		})
	}
}

// another returns a second store on the same Redis, as of another replica.
func another(t *testing.T, s *store.Store) *store.Store {
	t.Helper()
	return storetest.Open(t, storetest.Options(t, s.Redis.Mode()))
}

// atOnce runs functions concurrently, let go together.
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

// pace keeps a loop from taking the processor from those that it races with; false means that ctx is over.
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

// A login that returned before the revocation began is ended, one that began after it returned is not, and what was
// under way is the one or the other for everybody and for ever.
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

// When a revocation has returned, other replicas' primary validations fail at once and their cached ones within one push.
func TestRevokeReachesOtherReplica(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		const bound = 5 * time.Second // Options.NearCacheTTL
		var took []time.Duration
		for round := range 450 {
			subject := fmt.Sprint("s", round)
			token, sess := createSession(t, a, namespace, ofClass(subject, "mobile"))
			wantActive(t, b, namespace, token)
			switch round % 3 {
			case 0:
				revokeSession(t, a, namespace, byID(sess))
			case 1:
				revokeSubject(t, a, namespace, subject, "")
			case 2:
				revokeClass(t, a, namespace, subject, "mobile", "")
			}
			revoked := time.Now()
			if round%4 < 2 && validate(t, b, namespace, token, primary) != nil {
				t.Errorf("round %d: active at PRIMARY after the revocation, want inactive", round)
			}
			for validate(t, b, namespace, token, cached) != nil && pace(t.Context()) {
				if time.Since(revoked) >= bound {
					t.Fatalf("round %d: active in the near cache %v after the revocation, want inactive within %v", round, time.Since(revoked), bound)
				}
			}
			took = append(took, time.Since(revoked))
			wantInactive(t, b, namespace, token)
		}
		slices.Sort(took)
		t.Logf("until revoked everywhere: median %v, p99 %v, worst %v", took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
		if p99 := took[len(took)*99/100]; p99 >= bound/10 {
			t.Errorf("p99 of the revocations = %v, want below %v", p99, bound/10)
		}
	})
}

// A replica that has lost touch with Redis believes a revoked session for no longer than the bound of its near cache.
func TestRevokedWhilePartitioned(t *testing.T) {
	t.Parallel()
	const bound = 600 * time.Millisecond
	server := redistest.Start(t, redistest.Options{})
	a := beside(t, server)
	for _, how := range []string{"session", "subject", "class"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			proxy := redistest.StartProxy(t, server.Addr)
			b := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: bound, CommandTimeout: 100 * time.Millisecond}})
			token, sess := createSession(t, a, how, ofClass("ann", "mobile"))
			wantActive(t, b, how, token)

			proxy.Blackhole(true)
			switch how {
			case "session":
				revokeSession(t, a, how, byID(sess))
			case "subject":
				revokeSubject(t, a, how, "ann", "")
			case "class":
				revokeClass(t, a, how, "ann", "mobile", "")
			}
			revoked := time.Now()
			believed := 0
			for time.Since(revoked) < 2*bound {
				asked := time.Since(revoked)
				got, err := b.Sessions.ValidateSession(t.Context(), how, token, cached, session.TouchNever)
				if got != nil {
					believed++
				}
				if got != nil && asked >= bound {
					t.Fatalf("active %v after its revocation, want inactive from %v on", asked, bound)
				}
				if got == nil && err == nil {
					t.Fatal("Validate without Redis = inactive, want an error")
				}
			}
			if believed == 0 {
				t.Error("the near cache answered 0 validations, want some")
			}
			proxy.Blackhole(false)
			proxy.CutAll()
			storetest.Eventually(t, "the verdict", func() bool {
				got, err := b.Sessions.ValidateSession(t.Context(), how, token, cached, session.TouchNever)
				if got != nil {
					t.Fatal("active after the partition, want inactive")
				}
				return err == nil
			})
		})
	}
}

// A revocation is seen at once by whatever is asked afterwards through the same replica, however many ask meanwhile.
func TestReadYourRevoke(t *testing.T) {
	raced(t, func(t *testing.T, s *store.Store, namespace string) {
		var current atomic.Pointer[string]
		none := ""
		current.Store(&none)
		ctx, cancel := context.WithCancel(t.Context())
		var validators sync.WaitGroup
		for range 2 {
			validators.Go(func() {
				for pace(ctx) {
					_, err := s.Sessions.ValidateSession(ctx, namespace, *current.Load(), cached, session.TouchNever)
					if err != nil && ctx.Err() == nil {
						t.Errorf("Validate: error %v, want none", err)
					}
				}
			})
		}
		defer validators.Wait()
		defer cancel()
		for round := range 3000 {
			subject := fmt.Sprint("s", round)
			token, sess := createSession(t, s, namespace, ofClass(subject, "mobile"))
			current.Store(&token)
			if round%2 == 0 && validate(t, s, namespace, token, cached) == nil {
				t.Fatalf("round %d: inactive before its end, want active", round)
			}
			switch round % 4 {
			case 0:
				revokeSession(t, s, namespace, byID(sess))
			case 1:
				revokeSession(t, s, namespace, byToken(token))
			case 2:
				revokeSubject(t, s, namespace, subject, "")
			case 3:
				revokeClass(t, s, namespace, subject, "mobile", "")
			}
			if validate(t, s, namespace, token, cached) != nil {
				t.Fatalf("round %d: active after its end, want inactive", round)
			}
		}
	})
}

// A validation that begins after the subject's sessions were ended does not take the answer of one that began before:
// that one's is still on its way here, since its attributes are large and the line is slow.
func TestReadYourRevokeOfSubjectDuringASlowRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 16 << 20, CommandTimeout: 10 * time.Second}})
	n := sessionOf("ann")
	n.Attributes = map[string]string{"large": strings.Repeat("x", 32<<10)}
	token, _ := createSession(t, s, "n", n)
	wantActive(t, s, "n", token) // loads the script
	updateSession(t, s, "n", byToken(token), session.Changes{Set: map[string]string{"a": "b"}})
	revokeSubject(t, s, "n", "bob", "")

	proxy.Slice(true)
	reads := server.CommandCalls(t)["evalsha_ro"]
	var slow sync.WaitGroup
	slow.Go(func() { _, _ = s.Sessions.ValidateSession(t.Context(), "n", token, cached, session.TouchNever) })
	storetest.Eventually(t, "redis to have answered", func() bool { return server.CommandCalls(t)["evalsha_ro"] > reads })
	revokeSubject(t, s, "n", "ann", "")
	got := validate(t, s, "n", token, cached)
	proxy.Slice(false)
	if got != nil {
		t.Error("active after its end, want inactive")
	}
	slow.Wait()
	wantInactive(t, s, "n", token)
}

// No replica calls a session inactive for what it remembers: neither that there was none, nor that its epoch was too old.
func TestNegativeVerdictConfirmedOnPrimary(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 100 {
			// Where a token is tried before its session is there, absence is not remembered.
			token, sess := createSession(t, a, namespace, sessionOf("bob"))
			keys := sessionKeysOf(t, namespace, sess)
			aside := keys.record + ":aside"
			storetest.Command(t, a, "RENAME", keys.record, aside)
			wantInactive(t, b, namespace, token)
			storetest.Command(t, a, "RENAME", aside, keys.record)
			if validate(t, b, namespace, token, cached) == nil {
				t.Fatal("inactive once its record is there, want active")
			}
		}

		// The session that is kept while the others are ended has a new epoch, and its subject too. A replica that has
		// heard of one and not of the other must not end it.
		token, sess := createSession(t, a, namespace, sessionOf("ann"))
		ctx, cancel := context.WithCancel(t.Context())
		var validators sync.WaitGroup
		var verdicts atomic.Int64
		for range 3 {
			validators.Go(func() {
				for pace(ctx) {
					got, err := b.Sessions.ValidateSession(ctx, namespace, token, cached, session.TouchNever)
					if ctx.Err() == nil && (got == nil || err != nil) {
						t.Errorf("Validate = %v, %v; want active, no error", got, err)
						return
					}
					verdicts.Add(1)
				}
			})
		}
		for range 500 {
			revokeSubject(t, a, namespace, "ann", sess.ID)
			if fresh, _ := createSession(t, a, namespace, sessionOf("ann")); validate(t, b, namespace, fresh, cached) == nil {
				t.Error("a new session is inactive at another replica, want active")
			}
		}
		cancel()
		validators.Wait()
		t.Logf("%d verdicts during 500 revocations", verdicts.Load())
	})
}
