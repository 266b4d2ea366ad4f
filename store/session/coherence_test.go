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

// Once a revocation has returned, PRIMARY validations through other replicas fail at once, and cached ones within one push.
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

// A replica that cannot reach Redis answers a revoked session as active only until the TTL of its near cache has elapsed.
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

// A validation that follows a revocation through the same replica sees it, however many validations run meanwhile.
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

// A validation that begins after a subject's sessions were revoked does not use the answer of a read that began before: that
// answer is still on its way, as the attributes are large and the connection is slow.
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

// No replica calls a session inactive because of its near cache, which may have missed the creation or hold an old epoch.
func TestNegativeVerdictConfirmedOnPrimary(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 100 {
			// A token is tried before its record exists: the near cache must not remember the absence.
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

		// A revocation that excepts a session gives it a new epoch, and the subject too. A replica that has received only
		// one of the two pushes must not call the session inactive.
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
