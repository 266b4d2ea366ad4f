package session_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func promote(tb testing.TB, s *store.Store, namespace, token, subject string) session.Promoted {
	tb.Helper()
	got, err := s.Sessions.Promote(tb.Context(), namespace, token, session.Promotion{Subject: subject, Assurance: session.Assurance{AAL: 1, AMR: []string{"pwd"}}})
	if err != nil {
		tb.Fatalf("Promote: error %v: %s; want none", err, redis.Cause(err))
	}
	return got
}

func TestPromoteCarriesTheSessionOver(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := session.Creation{
			Attributes: map[string]string{"cart": "full", "": "\x00"}, Idle: 20 * time.Minute, Absolute: 2 * time.Hour,
			Device: session.Device{IP: "::1", UserAgent: "curl", Label: "phone"},
		}
		token, old := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token)
		age(t, s, namespace, old, 10*time.Minute)
		updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"late": "1"}})
		got := promote(t, s, namespace, token, "ann")
		if got.Session == nil {
			t.Fatalf("Promote = %+v, want a session", got)
		}
		now := got.Session.CreatedAt
		want := &session.Session{
			ID: got.Session.ID, Subject: "ann", Attributes: map[string]string{"cart": "full", "": "\x00", "late": "1"}, Version: 1,
			Device: n.Device, CreatedAt: now, LastActiveAt: now, Idle: n.Idle, AbsoluteExpiresAt: now.Add(n.Absolute),
			Assurance: session.Assurance{AAL: 1, AMR: []string{"pwd"}, AuthenticatedAt: now},
		}
		for how, sess := range map[string]*session.Session{"promote": got.Session, "validate": validate(t, s, namespace, got.Token, primary)} {
			if diff := cmp.Diff(want, sess); diff != "" {
				t.Errorf("%s (-want +got):\n%s", how, diff)
			}
		}
		if s.Redis.Now().Sub(now).Abs() > time.Minute || got.Session.ID == old.ID {
			t.Errorf("created at %v with id %s, want now and another id than %s", now, got.Session.ID, old.ID)
		}
		wantInactive(t, s, namespace, token)
		if getSession(t, s, namespace, old.ID) != nil {
			t.Error("Get of the anonymous session = active, want inactive")
		}
		if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "b"}}); v != 0 {
			t.Errorf("Update of the anonymous session = version %d, want 0", v)
		}
		if _, sess := rotate(t, s, namespace, token); sess != nil {
			t.Errorf("Rotate of the anonymous session = %v, want none", sess)
		}
		if revokeSession(t, s, namespace, byToken(token)) {
			t.Error("Revoke of the anonymous session = true, want false")
		}
		wantActive(t, s, namespace, got.Token)
		wantEvents(t, s, namespace, old, "created", "attributes_changed", "revoked promoted")
		wantEvents(t, s, namespace, got.Session, "promoted")
		if listed := walk(t, s, namespace, "ann", 10, nil); len(listed) != 1 {
			t.Errorf("%d sessions are listed, want 1", len(listed))
		}
		keys := sessionKeysOf(t, namespace, old)
		if storetest.Command(t, s, "EXISTS", keys.attributes) != int64(0) {
			t.Error("the attributes of the anonymous session exist, want them removed")
		}
		if left := timeToLive(t, s, keys.record); left > time.Minute {
			t.Errorf("the record of the promotion is kept for %v, want at most 1 m", left)
		}
	})
}

func TestPromoteAgain(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, _ := createSession(t, s, namespace, sessionOf(""))
		got := promote(t, s, namespace, token, "ann")
		again := promote(t, s, namespace, token, "ann")
		if diff := cmp.Diff(got, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the repeated promotion differs, want the same session (-first +second):\n%s", diff)
		}
		if other := promote(t, s, namespace, token, "bob"); !nothing(other) {
			t.Errorf("Promote to another subject = %+v, want nothing", other)
		}
		if twice := promote(t, s, namespace, got.Token, "ann"); !twice.NotAnonymous || twice.Session != nil {
			t.Errorf("Promote of a subject's session = %+v, want NotAnonymous alone", twice)
		}
		wantActive(t, s, namespace, got.Token)
		// The caller has rotated its first token: repeating the promotion is no theft.
		next, _ := rotate(t, s, namespace, got.Token)
		seen(t, s, namespace, next, got.Session)
		rotatedLongAgo(t, s, namespace, got.Session)
		if again := promote(t, s, namespace, token, "ann"); !nothing(again) {
			t.Errorf("Promote again after the new token expired = %+v, want nothing", again)
		}
		wantActive(t, s, namespace, next)
		got.Token = next
		// A repeated promotion does not create again a session that was revoked.
		revokeSession(t, s, namespace, byToken(got.Token))
		if again := promote(t, s, namespace, token, "ann"); !nothing(again) {
			t.Errorf("Promote again after the session was revoked = %+v, want nothing", again)
		}
		wantEvents(t, s, namespace, got.Session, "promoted", "rotated", "revoked revoked")

		// Nor does it return anything after a minute, or for a token that is not the session's.
		token, old := createSession(t, s, namespace, sessionOf(""))
		got = promote(t, s, namespace, token, "ann")
		storetest.Command(t, s, "HINCRBY", sessionKeysOf(t, namespace, old).record, "to_at", "-60000")
		if again := promote(t, s, namespace, token, "ann"); !nothing(again) {
			t.Errorf("Promote again after a minute = %+v, want nothing", again)
		}
		anonymous, _ := createSession(t, s, namespace, sessionOf(""))
		for _, bad := range []string{"x", wrongSecret(t, token, anonymous), wrongSecret(t, anonymous, token), got.Token[:69] + "B"} {
			if p := promote(t, s, namespace, bad, "ann"); !nothing(p) {
				t.Errorf("Promote by %q = %+v, want nothing", bad, p)
			}
		}
		wantActive(t, s, namespace, anonymous)
	})
}

// A rotated token that is still good promotes to the same session as its successor.
func TestPromoteByThePreviousToken(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, _ := createSession(t, s, namespace, sessionOf(""))
		next, _ := rotate(t, s, namespace, token)
		got := promote(t, s, namespace, token, "ann")
		if again := promote(t, s, namespace, next, "ann"); again.Token != got.Token || got.Token == "" {
			t.Errorf("Promote = %+v, by the other token %+v; want the same token", got, again)
		}
		wantInactive(t, s, namespace, token)
		wantInactive(t, s, namespace, next)
	})
}

// If the subject's session is refused, the anonymous session is as before.
func TestRefusedPromotionLeavesTheAnonymousSession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("")
		n.Attributes = map[string]string{"a": "1"}
		token, old := createSession(t, s, namespace, n)
		_, ann := createSession(t, s, namespace, sessionOf("ann"))
		key := sessionKeysOf(t, namespace, ann).subject
		storetest.Command(t, s, "SET", key, "not a hash")
		if got, err := s.Sessions.Promote(t.Context(), namespace, token, session.Promotion{Subject: "ann"}); !errors.Is(err, redis.ErrWrongType) {
			t.Errorf("Promote where the index is no sorted set = %+v, %v; want ErrWrongType", got, err)
		}
		wantActive(t, s, namespace, token)
		if diff := cmp.Diff(old, getSession(t, s, namespace, old.ID)); diff != "" {
			t.Errorf("the anonymous session changed, want it as before (-before +after):\n%s", diff)
		}
		storetest.Command(t, s, "DEL", key)
		if got := promote(t, s, namespace, token, "bob"); got.Session == nil {
			t.Errorf("Promote after a refused one = %+v, want a session", got)
		}
	})
}

// If a server dies between the steps, no session has more rights than before, and a repeated call continues.
func TestPromoteWithLostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	direct := beside(t, server)
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, CommandTimeout: 300 * time.Millisecond}})
	warm, _ := createSession(t, direct, "n", sessionOf(""))
	promote(t, s, "n", warm, "ann") // so that Redis knows the scripts
	token, old := createSession(t, direct, "n", sessionOf(""))
	proxy.DropReplies(true)
	if got, err := s.Sessions.Promote(t.Context(), "n", token, session.Promotion{Subject: "ann"}); got.Session != nil || !redis.Retryable(err) {
		t.Errorf("Promote without replies = %+v, %v; want no session and a retryable error", got, err)
	}
	wantInactive(t, direct, "n", token)
	wantEvents(t, direct, "n", old, "created")
	if n := len(walk(t, direct, "n", "ann", 10, nil)); n != 1 {
		t.Errorf("%d sessions are listed, want 1", n)
	}
	want := promote(t, direct, "n", token, "ann")
	proxy.DropReplies(false)
	proxy.CutAll()
	storetest.Eventually(t, "the retry", func() bool {
		got, err := s.Sessions.Promote(t.Context(), "n", token, session.Promotion{Subject: "ann"})
		if err == nil && (got.Token != want.Token || got.Token == "") {
			t.Fatalf("repeated Promote = %+v, want token %s", got, want.Token)
		}
		return err == nil
	})
	wantActive(t, s, "n", want.Token)
}

func TestPromoteVersusPromote(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for round := range 40 {
			token, old := createSession(t, a, namespace, sessionOf(""))
			subjects := []string{"ann", "ann"}
			if round%2 == 0 {
				subjects[1] = "bob"
			}
			got := make([]session.Promoted, 8)
			calls := make([]func(), len(got))
			for i := range calls {
				calls[i] = func() {
					var err error
					got[i], err = []*store.Store{a, b}[i/2%2].Sessions.Promote(t.Context(), namespace, token, session.Promotion{Subject: subjects[i%2]})
					if err != nil {
						t.Errorf("Promote: error %v, want none", err)
					}
				}
			}
			atOnce(calls...)
			tokens := map[string]string{}
			for _, g := range got {
				if g.Session != nil {
					tokens[g.Token] = g.Session.Subject
				}
			}
			if len(tokens) != 1 {
				t.Fatalf("round %d: %d different sessions, want 1", round, len(tokens))
			}
			for winner, subject := range tokens {
				wantActive(t, b, namespace, winner)
				for i, g := range got {
					if (g.Session != nil) != (subjects[i%2] == subject) {
						t.Errorf("round %d: call %d for %s = %+v, want a session for %s alone", round, i, subjects[i%2], g, subject)
					}
				}
			}
			wantInactive(t, a, namespace, token)
			wantEvents(t, a, namespace, old, "created", "revoked promoted")
		}
		if n := len(walk(t, a, namespace, "ann", 30, nil)) + len(walk(t, a, namespace, "bob", 30, nil)); n != 40 {
			t.Errorf("%d sessions are listed, want 40", n)
		}
	})
}

// An attribute whose update was acknowledged is in the promoted session.
func TestPromoteVersusUpdate(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		refusedUpdates := 0
		for range 60 {
			token, _ := createSession(t, a, namespace, sessionOf(""))
			var mu sync.Mutex
			want := map[string]string{}
			update := func(s *store.Store, who string) func() {
				return func() {
					for i := range 6 {
						name := fmt.Sprint(who, i)
						version, err := s.Sessions.Update(t.Context(), namespace, byToken(token), session.Changes{Set: map[string]string{name: "1"}})
						if err != nil {
							t.Errorf("Update: error %v, want none", err)
						}
						mu.Lock()
						if version.Version > 0 {
							want[name] = "1"
						} else {
							refusedUpdates++
						}
						mu.Unlock()
					}
				}
			}
			var got session.Promoted
			atOnce(update(a, "a"), update(b, "b"), func() { got = promote(t, b, namespace, token, "ann") })
			sess := validate(t, a, namespace, got.Token, primary)
			if sess == nil || !maps.Equal(sess.Attributes, want) {
				t.Fatalf("acknowledged %v, there is %+v", want, sess)
			}
		}
		t.Logf("%d of 720 updates came too late", refusedUpdates)
	})
}

// A promotion that returned before the revocation began is revoked, one that began after it returned is not, and one in
// between is the same for everybody.
func TestPromoteVersusRevokeAllOfTheSubject(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		lived := 0
		for round := range 60 {
			subject := fmt.Sprint("s", round)
			before, _ := createSession(t, a, namespace, sessionOf(""))
			during, _ := createSession(t, a, namespace, sessionOf(""))
			after, _ := createSession(t, a, namespace, sessionOf(""))
			early := promote(t, b, namespace, before, subject)
			var racing session.Promoted
			atOnce(func() { racing = promote(t, a, namespace, during, subject) },
				func() { revokeSubject(t, b, namespace, subject, "") })
			late := promote(t, b, namespace, after, subject)
			wantInactive(t, a, namespace, early.Token)
			wantActive(t, a, namespace, late.Token)
			active := validate(t, a, namespace, racing.Token, primary) != nil
			for _, s := range []*store.Store{a, b} {
				for _, near := range []bool{cached, cached, primary} {
					if (validate(t, s, namespace, racing.Token, near) != nil) != active {
						t.Errorf("round %d: replicas differ, want active %t everywhere", round, active)
					}
				}
			}
			if active {
				lived++
			}
			// A repeated promotion answers the same and creates nothing.
			again, err := b.Sessions.Promote(context.Background(), namespace, during, session.Promotion{Subject: subject})
			if err != nil || (again.Session != nil) != active {
				t.Errorf("round %d: repeated Promote = %+v, %v; want active %t, no error", round, again, err, active)
			}
			for _, token := range []string{before, during, after} {
				wantInactive(t, a, namespace, token)
			}
		}
		t.Logf("%d of 60 promotions came after the revocation", lived)
	})
}

// nothing reports whether no session was promoted.
func nothing(p session.Promoted) bool {
	return p.Token == "" && p.Session == nil && !p.NotAnonymous && p.Evicted == nil && p.Existing == nil
}
