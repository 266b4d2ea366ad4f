package session_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func revokeClass(tb testing.TB, s *store.Store, namespace, subject, class, except string) session.RevokedSubject {
	tb.Helper()
	revoked, err := s.Sessions.RevokeSubject(tb.Context(), namespace, subject, session.SubjectRevocation{Class: class, Except: except, Longest: longest})
	if err != nil {
		tb.Fatalf("RevokeSubject of a class: error %v: %s; want none", err, redis.Cause(err))
	}
	return revoked
}

func subjectEpoch(tb testing.TB, s *store.Store, namespace, subject string) int64 {
	tb.Helper()
	epoch, err := s.Sessions.SubjectEpoch(tb.Context(), namespace, subject)
	if err != nil {
		tb.Fatalf("SubjectEpoch: error %v: %s; want none", err, redis.Cause(err))
	}
	return epoch
}

// ofClass returns what a session of a device class is created with.
func ofClass(subject, class string) session.Creation {
	n := sessionOf(subject)
	n.Device.Class = class
	return n
}

func TestRevokeByDeviceClassEndsThatClassAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		tokens := map[string][]string{}
		var kept *session.Session
		for range 3 {
			for _, class := range []string{"", "mobile", "web"} {
				token, sess := createSession(t, s, namespace, ofClass("ann", class))
				wantActive(t, s, namespace, token)
				tokens[class] = append(tokens[class], token)
				if class == "mobile" {
					kept = sess // the last of them
				}
			}
		}
		bystander, _ := createSession(t, s, namespace, ofClass("bob", "mobile"))

		if n := revokeClass(t, s, namespace, "ann", "mobile", kept.ID).Count; n != 2 {
			t.Errorf("ended %d, want 2", n)
		}
		for i, token := range tokens["mobile"] {
			if i == 2 {
				wantActive(t, s, namespace, token)
				continue
			}
			wantInactive(t, s, namespace, token)
			if updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "b"}}) != 0 ||
				touch(t, s, namespace, token, primary, session.TouchForce) != nil || revokeSession(t, s, namespace, byToken(token)) {
				t.Error("a change of a revoked session succeeded, want none to")
			}
		}
		for _, class := range []string{"", "web"} {
			for _, token := range tokens[class] {
				wantActive(t, s, namespace, token)
			}
		}
		wantActive(t, s, namespace, bystander)
		if got := emitted(t, s, namespace, "ann", "type=revoked", "reason=subject", "class=mobile", "except="+kept.ID); len(got) != 1 {
			t.Errorf("%d revoked events of the class, want 1", len(got))
		}
		if n := len(walk(t, s, namespace, "ann", 2, nil)); n != 7 {
			t.Errorf("%d are listed, want 7", n)
		}

		// Excepting a session of another class neither keeps nor changes it.
		_, web := createSession(t, s, namespace, ofClass("ann", "web"))
		if n := revokeClass(t, s, namespace, "ann", "mobile", web.ID).Count; n != 1 {
			t.Errorf("ended %d, want 1", n)
		}
		wantInactive(t, s, namespace, tokens["mobile"][2])
		// Revoking a class without sessions ends none, and a later login of the class is active.
		if n := revokeClass(t, s, namespace, "ann", "tv", "").Count; n != 0 {
			t.Errorf("ended %d, want 0", n)
		}
		again, _ := createSession(t, s, namespace, ofClass("ann", "mobile"))
		wantActive(t, s, namespace, again)
		// Revoking all sessions does not count those of revoked classes again.
		if n := revokeSubject(t, s, namespace, "ann", web.ID); n != 7 {
			t.Errorf("ended %d, want 7", n)
		}
		wantInactive(t, s, namespace, again)
		if diff := cmp.Diff([]string{web.ID}, ids(walk(t, s, namespace, "ann", 2, nil))); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
		if n := revokeClass(t, s, namespace, "ann", "web", "").Count; n != 1 {
			t.Errorf("ended %d, want the one that was kept", n)
		}
	})
}

// The epoch of the class revokes, and not the index.
func TestRevokeByDeviceClassNeedsNoIndex(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, ofClass("ann", "mobile"))
		wantActive(t, s, namespace, token)
		storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, sess).index)
		if n := revokeClass(t, s, namespace, "ann", "mobile", "").Count; n != 0 {
			t.Errorf("revocation without an index counted %d, want 0", n)
		}
		wantInactive(t, s, namespace, token)
	})
}

func TestListSessionsOfADeviceClass(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for i := range 6 {
			createSession(t, s, namespace, ofClass("ann", []string{"", "mobile", "web"}[i%3]))
		}
		list := func(class, token string) ([]*session.Session, string, error) {
			return s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Class: class, Token: token, Count: 1})
		}
		first, next, err := list("mobile", "")
		if err != nil || len(first) != 1 || next == "" {
			t.Fatalf("first page = %d sessions, token %q, %v; want 1, a token, no error", len(first), next, err)
		}
		second, end, err := list("mobile", next)
		if err != nil || len(second) != 1 || end != "" || first[0].Device.Class != "mobile" || second[0].Device.Class != "mobile" || first[0].ID == second[0].ID {
			t.Errorf("second page = %+v, token %q, %v; want the other session of class mobile, no token", second, end, err)
		}
		for _, other := range []string{"", "web"} {
			if _, _, err := list(other, next); !errors.Is(err, redis.ErrPageToken) {
				t.Errorf("page token in the list of class %q: error %v, want ErrPageToken", other, err)
			}
		}
	})
}

// Ids without a record are not listed, and are removed from the index in the background.
func TestListSessionsCleansItsIndex(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, class := range []string{"", "mobile"} {
			_, kept := createSession(t, s, namespace, ofClass("ann", class))
			_, gone := createSession(t, s, namespace, ofClass("ann", class))
			keys := sessionKeysOf(t, namespace, gone)
			storetest.Command(t, s, "DEL", keys.record)
			list, _, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Class: class, Count: 10})
			if err != nil || len(list) == 0 {
				t.Fatalf("ListSubject = %d sessions, %v; want some, no error", len(list), err)
			}
			storetest.Eventually(t, "the id to leave the index", func() bool { return storetest.Command(t, s, "ZSCORE", keys.index, gone.ID) == nil })
			if storetest.Command(t, s, "ZSCORE", keys.index, kept.ID) == nil {
				t.Error("the id of an active session left the index, want it kept")
			}
		}
	})
}

// A login with an epoch from before a revocation is refused, and one with the current epoch is not.
func TestCreateRefusesAnEpochFromBeforeARevocation(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		create := func(class string, epoch int64) error {
			n := ofClass("ann", class)
			n.IfSubjectEpoch = &epoch
			created, err := s.Sessions.Create(t.Context(), namespace, n)
			if err != nil && (created.Session != nil || created.Token != "" || redis.Retryable(err)) {
				t.Errorf("Create = %v, %v; want nothing with a final error", created, err)
			}
			return err
		}
		refused := func(class string, epoch int64) {
			t.Helper()
			if err := create(class, epoch); !errors.Is(err, session.ErrSubjectEpochChanged) {
				t.Errorf("Create of class %q with epoch %d: error %v, want ErrSubjectEpochChanged", class, epoch, err)
			}
		}
		accepted := func(class string, epoch int64) {
			t.Helper()
			if err := create(class, epoch); err != nil {
				t.Errorf("Create of class %q with epoch %d: error %v, want none", class, epoch, err)
			}
		}
		never := subjectEpoch(t, s, namespace, "ann")
		if never != 0 {
			t.Errorf("epoch before any revocation = %d, want 0", never)
		}
		accepted("mobile", never)
		all := revokeClass(t, s, namespace, "ann", "", "").Epoch
		if got := subjectEpoch(t, s, namespace, "ann"); got != all || all <= never {
			t.Errorf("SubjectEpoch = %d, want the revocation's %d, above %d", got, all, never)
		}
		refused("mobile", never)
		refused("", never)
		accepted("", all)
		mobile := revokeClass(t, s, namespace, "ann", "mobile", "").Epoch
		if got := subjectEpoch(t, s, namespace, "ann"); got != mobile || mobile <= all {
			t.Errorf("SubjectEpoch = %d, want the class revocation's %d, above %d", got, mobile, all)
		}
		refused("mobile", all)
		accepted("mobile", mobile)
		accepted("web", all) // of which none was revoked
		refused("web", never)
		listed := len(walk(t, s, namespace, "ann", 10, nil))
		if listed != 3 {
			t.Errorf("%d sessions, want 3", listed)
		}
	})
}

// A login that holds the epoch from before a revocation is refused, or its session is revoked.
func TestRevokeAllVersusLoginHoldingAnOldEpoch(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		late := 0
		for round := range 150 {
			subject := fmt.Sprint("s", round)
			class := []string{"", "mobile"}[round%2]
			epoch := subjectEpoch(t, a, namespace, subject)
			var mu sync.Mutex
			var tokens []string
			login := func(s *store.Store) func() {
				return func() {
					n := ofClass(subject, "mobile")
					n.IfSubjectEpoch = &epoch
					created, err := s.Sessions.Create(t.Context(), namespace, n)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						tokens = append(tokens, created.Token)
					case errors.Is(err, session.ErrSubjectEpochChanged):
						late++
					default:
						t.Errorf("Create: error %v, want none or ErrSubjectEpochChanged", err)
					}
				}
			}
			atOnce(login(a), login(b), login(a), func() { revokeClass(t, b, namespace, subject, class, "") })
			login(a)() // surely too late
			for _, token := range tokens {
				wantInactive(t, b, namespace, token)
			}
			if got := subjectEpoch(t, b, namespace, subject); got <= epoch {
				t.Errorf("SubjectEpoch = %d after a revocation, want above %d", got, epoch)
			}
		}
		if late < 150 {
			t.Errorf("%d logins were refused, want at least 150", late)
		}
		t.Logf("%d of 600 logins came too late", late)
	})
}

// If the clock of Redis is set back, a revocation still ends what was created before that, while the clock was ahead.
func TestRevokeReachesSessionsFromBeforeTheClockWasSetBack(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for i, class := range []string{"", "mobile"} {
			token, sess := createSession(t, s, namespace, ofClass("ann", "mobile"))
			keys := sessionKeysOf(t, namespace, sess)
			p, _ := subjectPartition(namespace, "ann")
			epochKey := fmt.Sprintf("ld:m:{p%d}", p)
			if epoch, given := storetest.Command(t, s, "HGET", keys.record, "ep"), storetest.Command(t, s, "GET", epochKey); epoch.(string) > given.(string) {
				t.Fatalf("the partition's highest epoch = %v, want at least the session's %v", given, epoch)
			}
			if storetest.Command(t, s, "PTTL", epochKey) != int64(-1) {
				t.Error("the partition's highest epoch expires, want it kept for ever")
			}
			// As if it had been created with the clock an hour ahead.
			ahead := fmt.Sprint(s.Redis.Now().Add(time.Hour + time.Duration(i)*time.Minute).UnixMilli())
			storetest.Command(t, s, "HSET", keys.record, "ep", ahead)
			storetest.Command(t, s, "SET", epochKey, ahead)
			wantActive(t, s, namespace, token)
			second, _ := createSession(t, s, namespace, ofClass("ann", "mobile"))
			first := revokeClass(t, s, namespace, "ann", class, "").Epoch
			wantInactive(t, s, namespace, token)
			wantInactive(t, s, namespace, second)
			// The epochs keep rising, however slow the clock.
			third, _ := createSession(t, s, namespace, ofClass("ann", "mobile"))
			wantActive(t, s, namespace, third)
			if next := revokeClass(t, s, namespace, "ann", class, "").Epoch; next <= first {
				t.Errorf("epoch of the next revocation = %d, want above %d", next, first)
			}
			wantInactive(t, s, namespace, third)
			storetest.Command(t, s, "DEL", epochKey) // the partition may be another test's as well
		}
	})
}

// The cost is the same however many sessions there are.
func TestRevokeByDeviceClassCostsTheSameForMany(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	revokeClass(t, s, "n", "warm", "mobile", "")
	var costs []map[string]int64
	for _, count := range []int{10, 2000} {
		subject := fmt.Sprint("with", count)
		_, sessions := createMany(t, s, "n", ofClass(subject, "mobile"), count)
		server.ResetCommandCalls(t)
		if n := revokeClass(t, s, "n", subject, "mobile", sessions[0].ID).Count; n != int64(count-1) {
			t.Errorf("ended %d, want %d", n, count-1)
		}
		calls := server.CommandCalls(t)
		delete(calls, "info")
		delete(calls, "config|resetstat")
		costs = append(costs, calls)
	}
	if diff := cmp.Diff(costs[0], costs[1]); diff != "" || costs[0]["evalsha"] != 1 {
		t.Errorf("commands for 10 sessions = %v, want one evalsha and the same for 2000 (-10 +2000):\n%s", costs[0], diff)
	}
}
