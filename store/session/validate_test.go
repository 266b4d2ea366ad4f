package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func validateAll(tb testing.TB, s *store.Store, namespace string, vs ...session.Validation) []session.BatchVerdict {
	tb.Helper()
	verdicts, err := s.Sessions.ValidateAll(tb.Context(), namespace, vs)
	if err != nil {
		tb.Fatalf("ValidateAll: error %v: %s; want none", err, redis.Cause(err))
	}
	return verdicts
}

// The near cache and the primary give the same verdicts, and the session only with Active.
func TestVerdicts(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		anonymous, _ := createSession(t, s, namespace, sessionOf(""))
		plain, _ := createSession(t, s, namespace, sessionOf("ann"))
		n := sessionOf("ann")
		n.Assurance = session.Assurance{AAL: 2, AMR: []string{"pwd", "otp"}, AuthenticatedAt: s.Redis.Now().Add(-time.Hour)}
		strong, _ := createSession(t, s, namespace, n)
		ended, _ := createSession(t, s, namespace, sessionOf("ann"))
		revokeSession(t, s, namespace, byToken(ended))

		var vs []session.Validation
		var want []session.Outcome
		for _, c := range []struct {
			token  string
			aal    int
			maxAge time.Duration
			want   session.Outcome
		}{
			{anonymous, 0, 0, session.Active},
			{anonymous, 1, 0, session.StepUpRequired},
			{anonymous, 0, time.Hour, session.ReauthRequired},
			{plain, 0, time.Minute, session.Active},
			{plain, 1, time.Minute, session.StepUpRequired},
			{strong, 2, 2 * time.Hour, session.Active},
			{strong, 3, time.Minute, session.StepUpRequired},
			{strong, 2, time.Minute, session.ReauthRequired},
			{ended, 3, time.Minute, session.Inactive},
			{"ls1_x", 3, time.Minute, session.Inactive},
			{wrongSecret(t, strong, plain), 3, time.Minute, session.Inactive},
		} {
			for _, near := range []bool{cached, cached, primary} {
				vs = append(vs, session.Validation{Token: c.token, Near: near, Touch: session.TouchNever, MinAAL: c.aal, MaxAuthAge: c.maxAge})
				want = append(want, c.want)
			}
		}
		for _, round := range []string{"first", "near", "again"} {
			batch := validateAll(t, s, namespace, vs...)
			for i, v := range vs {
				single, err := s.Sessions.Validate(t.Context(), namespace, v)
				if err != nil || batch[i].Err != nil {
					t.Fatalf("Validate: error %v, in a batch %v; want none", err, batch[i].Err)
				}
				if diff := cmp.Diff(single, batch[i].Verdict); diff != "" || single.Outcome != want[i] || (single.Session != nil) != (want[i] == session.Active) {
					t.Errorf("%s, %d: %v, want %v (-single +batch):\n%s", round, i, single.Outcome, want[i], diff)
				}
			}
		}
	})
}

// A replica whose near cache has an old level asks the primary before it requires a step-up.
func TestStepUpVerdictConfirmedOnPrimary(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 50 {
			token, sess := createSession(t, a, namespace, sessionOf("ann"))
			wantActive(t, b, namespace, token)
			storetest.Command(t, a, "HSET", sessionKeysOf(t, namespace, sess).record, "aal", "3")
			v := session.Validation{Token: token, Near: cached, MinAAL: 3}
			if got, err := b.Sessions.Validate(t.Context(), namespace, v); err != nil || got.Outcome != session.Active {
				t.Fatalf("Validate = %v, %v; want %v, no error", got.Outcome, err, session.Active)
			}
			if got := validateAll(t, b, namespace, v); got[0].Outcome != session.Active {
				t.Fatalf("ValidateAll = %v, want %v", got[0].Outcome, session.Active)
			}
		}
	})
}

func TestVerdictThatDeniesIsNoActivity(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		age(t, s, namespace, sess, 30*time.Minute)
		before := getSession(t, s, namespace, sess.ID)
		v := session.Validation{Token: token, Touch: session.TouchForce, MinAAL: 1}
		if got, err := s.Sessions.Validate(t.Context(), namespace, v); err != nil || got.Outcome != session.StepUpRequired {
			t.Fatalf("Validate = %v, %v; want %v, no error", got.Outcome, err, session.StepUpRequired)
		}
		validateAll(t, s, namespace, v, v)
		if diff := cmp.Diff(before, getSession(t, s, namespace, sess.ID)); diff != "" {
			t.Errorf("a session without the required level was touched, want it as before (-before +after):\n%s", diff)
		}
		v.MinAAL = 0
		got := validateAll(t, s, namespace, v, v)
		for _, g := range got {
			if g.Session == nil || !g.Session.LastActiveAt.After(before.LastActiveAt) {
				t.Errorf("verdict = %+v, want activity after %v", g, before.LastActiveAt)
			}
		}
	})
}

func TestBatchValidateCosts(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	other := beside(t, server)
	var vs, onPrimary []session.Validation
	for i := range 20 {
		token, _ := createSession(t, other, "n", sessionOf([]string{"ann", "bob", ""}[i%3]))
		vs = append(vs, session.Validation{Token: token, Near: cached})
		onPrimary = append(onPrimary, session.Validation{Token: token})
	}
	forced := []session.Validation{{Token: vs[0].Token, Touch: session.TouchForce}, {Token: vs[1].Token, Touch: session.TouchForce}}
	validateAll(t, s, "n", vs[0]) // Redis knows the scripts from here on
	validateAll(t, s, "n", forced...)
	mixed := append([]session.Validation{onPrimary[5]}, vs...)
	malformed := session.Validation{Token: "x"}
	for _, c := range []struct {
		what  string
		trips int64
		sent  map[string]int64
		vs    []session.Validation
	}{
		{"malformed", 0, map[string]int64{}, []session.Validation{malformed, malformed}},
		{"first", 1, map[string]int64{"evalsha_ro": 20}, vs},
		{"the subjects' epochs", 1, map[string]int64{"hgetall": 14}, vs},
		{"near-cached", 0, map[string]int64{}, vs},
		{"near-cached but one", 1, map[string]int64{"evalsha_ro": 1}, mixed},
		{"on the primary", 1, map[string]int64{"evalsha_ro": 20}, onPrimary},
		{"forced", 2, map[string]int64{"evalsha_ro": 2, "evalsha": 2}, forced},
	} {
		trips, sent := cost(t, server, func(ctx context.Context) {
			verdicts, err := s.Sessions.ValidateAll(ctx, "n", c.vs)
			for i, v := range verdicts {
				if v.Err != nil || (v.Session != nil) != (c.vs[i] != malformed) {
					t.Errorf("%s: verdict %d = %+v, want active unless malformed, no error", c.what, i, v)
				}
			}
			if err != nil {
				t.Errorf("ValidateAll: error %v, want none", err)
			}
		})
		if diff := cmp.Diff(c.sent, sent); diff != "" || trips != c.trips {
			t.Errorf("%s: %d round trips, want %d (-want +got):\n%s", c.what, trips, c.trips, diff)
		}
	}
}

func TestRotationCosts(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	token, _ := createSession(t, s, "n", sessionOf("ann"))
	anonymous, _ := createSession(t, s, "n", sessionOf(""))
	for i := range 2 { // the second time Redis knows the scripts
		for what, c := range map[string]struct {
			trips int64
			run   func(context.Context) error
		}{
			"rotate": {1, func(ctx context.Context) (err error) {
				token, _, err = s.Sessions.Rotate(ctx, "n", token, grace)
				return err
			}},
			"reauthenticate": {1, func(ctx context.Context) (err error) {
				token, _, err = s.Sessions.Reauthenticate(ctx, "n", token, session.Reauthentication{AAL: 2})
				return err
			}},
			"promote": {3, func(ctx context.Context) (err error) {
				_, err = s.Sessions.Promote(ctx, "n", anonymous, session.Promotion{Subject: "ann"})
				anonymous, _ = createSession(t, s, "n", sessionOf(""))
				return err
			}},
		} {
			_, sent := cost(t, server, func(ctx context.Context) {
				if err := c.run(ctx); err != nil {
					t.Errorf("%s: error %v, want none", what, err)
				}
			})
			want := c.trips
			if what == "promote" {
				want++ // the next anonymous session
			}
			if i == 1 && sent["evalsha"] != want {
				t.Errorf("%s: commands = %v, want %d evalsha", what, sent, want)
			}
		}
	}
}
