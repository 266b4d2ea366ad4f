package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func TestReauthenticationRaisesAssuranceAndRotates(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Assurance = session.Assurance{AAL: 2, AMR: []string{"pwd", "otp"}, AuthenticatedAt: time.UnixMilli(1700000000000)}
		token, sess := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token)
		age(t, s, namespace, sess, 30*time.Minute)
		before := getSession(t, s, namespace, sess.ID)
		next, got := reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 1, AMR: []string{"otp", "hwk"}})
		if since := got.Assurance.AuthenticatedAt; since.Before(s.Redis.Now().Add(-time.Minute)) || since.After(s.Redis.Now().Add(time.Minute)) {
			t.Errorf("authenticated at %v, want now", since)
		}
		want := *before
		want.Assurance = session.Assurance{AAL: 2, AMR: []string{"pwd", "otp", "hwk"}, AuthenticatedAt: got.Assurance.AuthenticatedAt}
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the session (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(got, validate(t, s, namespace, next, primary)); diff != "" {
			t.Errorf("validated (-want +got):\n%s", diff)
		}
		// The old token is inactive at once, and counts as stolen only when requests under way must have ended.
		wantInactive(t, s, namespace, token)
		if _, sess := rotate(t, s, namespace, token); sess != nil {
			t.Errorf("Rotate of the old token = %v, want no session", sess)
		}
		if _, sess := reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 3}); sess != nil {
			t.Errorf("Reauthenticate by the old token = %v, want no session", sess)
		}
		wantActive(t, s, namespace, next)

		last, got := reauthenticate(t, s, namespace, next, session.Reauthentication{AAL: 3, AMR: []string{"sc"}, ResetTimeouts: true})
		if got.Assurance.AAL != 3 || !got.LastActiveAt.Equal(got.Assurance.AuthenticatedAt) || got.AbsoluteExpiresAt.Sub(got.LastActiveAt) != longest {
			t.Errorf("session after ResetTimeouts = %+v, want AAL 3, activity now and the full absolute timeout", got)
		}
		keys := sessionKeysOf(t, namespace, sess)
		for _, key := range []string{keys.index} {
			if left := timeToLive(t, s, key); left < longest {
				t.Errorf("%s is kept for %v, want at least %v", key, left, longest)
			}
		}
		if listed := walk(t, s, namespace, "ann", 10, nil); len(listed) != 1 {
			t.Errorf("%d sessions are listed, want 1", len(listed))
		}
		// The timeouts keep their lengths, however often they restart.
		age(t, s, namespace, sess, 0)
		_, got = reauthenticate(t, s, namespace, last, session.Reauthentication{AMR: []string{"sc"}, ResetTimeouts: true})
		if got.AbsoluteExpiresAt.Sub(got.LastActiveAt) != longest {
			t.Errorf("session after another ResetTimeouts = %+v, want the full absolute timeout", got)
		}
		wantEvents(t, s, namespace, sess, "created", "reauthenticated", "reauthenticated", "reauthenticated")
		rotatedLongAgo(t, s, namespace, sess)
		wantInactive(t, s, namespace, token)
		if getSession(t, s, namespace, sess.ID) != nil {
			t.Error("the session is active after a stolen token was presented, want inactive")
		}
	})
}

func TestReauthenticationLeavesOthersAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf(""))
		next, got := reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2, AMR: []string{"pwd"}})
		if next != "" || got == nil || got.Assurance.AAL != 0 {
			t.Errorf("Reauthenticate of an anonymous session = %q, %+v; want no token and AAL 0", next, got)
		}
		wantActive(t, s, namespace, token)
		wantEvents(t, s, namespace, sess, "created")
		for _, bad := range []string{"x", wrongSecret(t, token, func() string { t, _ := createSession(t, s, namespace, sessionOf("")); return t }())} {
			if next, got := reauthenticate(t, s, namespace, bad, session.Reauthentication{AAL: 2}); next != "" && got != nil || got != nil {
				t.Errorf("Reauthenticate by %q = %q, %+v; want nothing", bad, next, got)
			}
		}
		n := sessionOf("ann")
		for i := range session.MaxMethods {
			n.Assurance.AMR = append(n.Assurance.AMR, fmt.Sprint("m", i))
		}
		token, _ = createSession(t, s, namespace, n)
		_, got = reauthenticate(t, s, namespace, token, session.Reauthentication{AMR: []string{"m0", "new"}})
		if amr := got.Assurance.AMR; len(amr) != session.MaxMethods || amr[0] != "m1" || amr[len(amr)-1] != "new" {
			t.Errorf("methods = %v, want the last %d", amr, session.MaxMethods)
		}
	})
}

// Another replica, which has the session in its near cache, learns of the new token within one push.
func TestElevateVersusValidateNearCachedOnAnotherReplica(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		const bound = 5 * time.Second // Options.NearCacheTTL
		worst := time.Duration(0)
		for range 100 {
			token, _ := createSession(t, a, namespace, sessionOf("ann"))
			wantActive(t, b, namespace, token)
			next, _ := reauthenticate(t, a, namespace, token, session.Reauthentication{AAL: 2, AMR: []string{"otp"}})
			elevated := time.Now()
			for validate(t, b, namespace, token, cached) != nil && pace(t.Context()) {
				if time.Since(elevated) >= bound {
					t.Fatalf("active in the near cache %v after the reauthentication, want inactive within %v", time.Since(elevated), bound)
				}
			}
			worst = max(worst, time.Since(elevated))
			wantInactive(t, b, namespace, token)
			wantActive(t, b, namespace, next)
		}
		t.Logf("worst %v", worst)
		if worst >= bound/2 {
			t.Errorf("slowest reauthentication = %v, want below %v", worst, bound/2)
		}
	})
}

// A level and its age are those of one authentication: an old one of a high level and a new one of a low level are not a new
// one of a high level.
func TestRequirementIsMetByOneAuthentication(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		outcome := func(token string, aal int, age time.Duration) session.Outcome {
			t.Helper()
			v := session.Validation{Token: token, MinAAL: aal, MaxAuthAge: age}
			got, err := s.Sessions.Validate(t.Context(), namespace, v)
			if err != nil {
				t.Fatalf("Validate: error %v, want none", err)
			}
			v.Near = true
			for range 3 {
				if near := validateAll(t, s, namespace, v)[0]; near.Outcome != got.Outcome {
					t.Errorf("near-cached outcome = %v, want %v", near.Outcome, got.Outcome)
				}
			}
			return got.Outcome
		}
		want := func(what, token string, aal int, age time.Duration, want session.Outcome) {
			t.Helper()
			if got := outcome(token, aal, age); got != want {
				t.Errorf("%s: outcome for AAL %d within %v = %v, want %v", what, aal, age, got, want)
			}
		}
		n := sessionOf("ann")
		n.Assurance = session.Assurance{AAL: 3, AMR: []string{"hwk"}, AuthenticatedAt: s.Redis.Now().Add(-10 * time.Hour)}
		token, _ := createSession(t, s, namespace, n)
		want("created", token, 3, 0, session.Active)
		want("created", token, 3, 5*time.Minute, session.ReauthRequired)
		want("created", token, 1, 11*time.Hour, session.Active)

		token, _ = reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 1, AMR: []string{"pwd"}})
		want("after AAL 1", token, 3, 5*time.Minute, session.ReauthRequired)
		want("after AAL 1", token, 2, 5*time.Minute, session.ReauthRequired)
		want("after AAL 1", token, 1, 5*time.Minute, session.Active)
		want("after AAL 1", token, 0, 5*time.Minute, session.Active)
		want("after AAL 1", token, 3, 11*time.Hour, session.Active)
		want("after AAL 1", token, 3, 0, session.Active)

		token, _ = reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2, AMR: []string{"otp"}})
		want("after AAL 2", token, 2, 5*time.Minute, session.Active)
		want("after AAL 2", token, 3, 5*time.Minute, session.ReauthRequired)

		token, _ = reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 3, AMR: []string{"hwk"}})
		want("after AAL 3", token, 3, 5*time.Minute, session.Active)
		got, err := s.Sessions.Validate(t.Context(), namespace, session.Validation{Token: token, MinAAL: 3})
		if err != nil || s.Redis.Now().Sub(got.AuthenticatedAt) > time.Minute {
			t.Errorf("Validate = %+v, %v; want authenticated now", got, err)
		}

		// An authentication of unknown level raises no level, and a session of unknown level meets no minimum.
		n.Assurance = session.Assurance{}
		token, _ = createSession(t, s, namespace, n)
		token, _ = reauthenticate(t, s, namespace, token, session.Reauthentication{AMR: []string{"pwd"}})
		want("unknown level", token, 1, 5*time.Minute, session.StepUpRequired)
		want("unknown level", token, 0, 5*time.Minute, session.Active)

		// A record of an earlier version does not say when its level was reached: at the latest at the creation.
		n.Assurance = session.Assurance{AAL: 3, AMR: []string{"hwk"}}
		token, sess := createSession(t, s, namespace, n)
		age(t, s, namespace, sess, 30*time.Minute)
		storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, token, cached).LastActiveAt.Before(sess.LastActiveAt) })
		want("earlier version", token, 3, 5*time.Minute, session.ReauthRequired)
		token, _ = reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 1, AMR: []string{"pwd"}})
		want("earlier version, later", token, 3, 5*time.Minute, session.ReauthRequired)
		want("earlier version, later", token, 3, 40*time.Minute, session.Active)
	})
}
