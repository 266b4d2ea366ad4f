package service

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

func (a *api) rotate(t testing.TB, token string) *sessionv1.RotateSessionResponse {
	t.Helper()
	return must[*sessionv1.RotateSessionResponse](t)(a.session.RotateSession(t.Context(), &sessionv1.RotateSessionRequest{SessionToken: token}))
}

func TestRotateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1"}})
	rotated := a.rotate(t, created.SessionToken)
	if !strings.HasPrefix(rotated.SessionToken, "ls1_") || rotated.SessionToken == created.SessionToken {
		t.Errorf("new token has %d characters (same as before: %t), want another that begins with ls1_", len(rotated.SessionToken), rotated.SessionToken == created.SessionToken)
	}
	want := &sessionv1.RotateSessionResponse{
		Outcome: sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED, SessionToken: rotated.SessionToken, Session: created.Session,
	}
	same(t, want, rotated)
	same(t, want, a.rotate(t, created.SessionToken))
	for _, token := range []string{created.SessionToken, rotated.SessionToken} {
		if !a.isActive(t, "", token) {
			t.Error("session is inactive within the grace, want it active")
		}
	}
	old := a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: created.SessionToken})
	same(t, secs(0), old.CacheFor)
	same(t, &sessionv1.RotateSessionResponse{Outcome: sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_INACTIVE}, a.rotate(t, "ls1_x"))
}

func TestRotationGraceOfZero(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionRotationGrace: -1, SessionCacheFor: -1})
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	rotated := a.rotate(t, created.SessionToken)
	if a.isActive(t, "", created.SessionToken) || a.rotate(t, created.SessionToken).SessionToken != "" {
		t.Error("the previous token is valid with a grace of 0, want it invalid")
	}
	if !a.isActive(t, "", rotated.SessionToken) {
		t.Error("session is inactive after its previous token was presented at once, want it active")
	}
	same(t, secs(0), a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: rotated.SessionToken}).CacheFor)
}

func TestPromoteSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	promote := func(token, subject string) *sessionv1.PromoteSessionResponse {
		t.Helper()
		return must[*sessionv1.PromoteSessionResponse](t)(a.session.PromoteSession(t.Context(), &sessionv1.PromoteSessionRequest{
			SessionToken: token, Subject: subject, Assurance: &sessionv1.Assurance{Aal: 1, Amr: []string{"pwd"}},
		}))
	}
	created := a.create(t, &sessionv1.CreateSessionRequest{Attributes: map[string]string{"cart": "full"}, Device: &sessionv1.Device{Ip: "::1"}})
	got := promote(created.SessionToken, "ann")
	s := got.Session
	if got.Outcome != sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED || s.Subject != "ann" || s.Attributes["cart"] != "full" ||
		s.Device.GetIp() != "::1" || s.Assurance.GetAal() != 1 || s.SessionId == created.Session.SessionId || !s.Assurance.AuthenticatedAt.AsTime().Equal(s.CreatedAt.AsTime()) {
		t.Errorf("PromoteSession = %v, want PROMOTED with the attributes and the device, for ann at level 1", got)
	}
	same(t, got, promote(created.SessionToken, "ann"))
	if a.isActive(t, "", created.SessionToken) || !a.isActive(t, "", got.SessionToken) {
		t.Errorf("old token active: %t, new token active: %t, want false and true", a.isActive(t, "", created.SessionToken), a.isActive(t, "", got.SessionToken))
	}
	same(t, &sessionv1.PromoteSessionResponse{Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_INACTIVE}, promote(created.SessionToken, "bob"))
	same(t, &sessionv1.PromoteSessionResponse{Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_NOT_ANONYMOUS}, promote(got.SessionToken, "bob"))
}

// A promotion carries what a creation enforces: a login that was checked before the subject's sessions were revoked is no
// login, and the request may lower the limits.
func TestPromoteSessionEnforcesWhatCreationDoes(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionsPerSubject: 3, SessionsPerClass: 2})
	epoch := func() *int64 {
		t.Helper()
		return new(must[*sessionv1.GetSubjectResponse](t)(a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Subject: "ann"})).SubjectEpoch)
	}
	anonymous := func() string {
		t.Helper()
		return a.create(t, &sessionv1.CreateSessionRequest{Device: &sessionv1.Device{Class: "mobile"}}).SessionToken
	}
	promote := func(r *sessionv1.PromoteSessionRequest) (*sessionv1.PromoteSessionResponse, error) {
		r.Subject = "ann"
		return a.session.PromoteSession(t.Context(), r)
	}
	for _, class := range []string{"", "mobile"} {
		before, token := epoch(), anonymous()
		must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(),
			&sessionv1.RevokeSubjectSessionsRequest{Subject: "ann", DeviceClass: class}))
		for range 2 { // a repeated call is no other login
			got, err := promote(&sessionv1.PromoteSessionRequest{SessionToken: token, IfSubjectEpoch: before})
			if want := (answer{Code: codes.Aborted, Reason: "SUBJECT_EPOCH_CHANGED"}); err == nil || answerOf(t, err) != want {
				t.Fatalf("PromoteSession after class %q was revoked = %v, %v, want %v", class, got, err, want)
			}
			if !a.isActive(t, "", token) {
				t.Fatal("the session has ended, want it active and anonymous")
			}
		}
		got, err := promote(&sessionv1.PromoteSessionRequest{SessionToken: token, IfSubjectEpoch: epoch()})
		if err != nil || got.Outcome != sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED {
			t.Fatalf("PromoteSession with the current epoch = %v, %v, want PROMOTED", got, err)
		}
	}
	if got, err := promote(&sessionv1.PromoteSessionRequest{SessionToken: anonymous(), MaxSessions: 1}); err != nil || len(got.EvictedSessions) != 1 {
		t.Errorf("PromoteSession with max_sessions 1 = %v, %v, want one session evicted", got, err)
	}
	a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	if got, err := promote(&sessionv1.PromoteSessionRequest{SessionToken: anonymous(), MaxClassSessions: 1}); err != nil ||
		len(got.EvictedSessions) != 1 || got.EvictedSessions[0].Device.GetClass() != "mobile" {
		t.Errorf("PromoteSession with max_class_sessions 1 = %v, %v, want the mobile session evicted", got, err)
	}
}

func TestReauthenticateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	again := func(token string) *sessionv1.ReauthenticateSessionResponse {
		t.Helper()
		return must[*sessionv1.ReauthenticateSessionResponse](t)(a.session.ReauthenticateSession(t.Context(), &sessionv1.ReauthenticateSessionRequest{
			SessionToken: token, Aal: 2, Amr: []string{"otp", "otp"}, ResetTimeouts: true,
		}))
	}
	requires := func(token string, aal int32, age time.Duration) sessionv1.ValidateSessionOutcome {
		t.Helper()
		r := &sessionv1.ValidateSessionRequest{SessionToken: token, Require: &sessionv1.Requirement{MinAal: aal, MaxAuthAge: secs(int64(age.Seconds()))}}
		got := a.validate(t, r)
		if (got.Outcome == activeSession) != (got.Session != nil) || (got.Session != nil) != (got.CacheFor != nil) {
			t.Errorf("ValidateSession = %v, want a session and cache_for only if ACTIVE", got)
		}
		if c := got.CacheFor.AsDuration(); c > age {
			t.Errorf("cache_for = %v, want at most max_auth_age, %v", c, age)
		}
		return got.Outcome
	}
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Assurance: &sessionv1.Assurance{Aal: 1, Amr: []string{"pwd"}}})
	if got := requires(created.SessionToken, 2, time.Hour); got != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_STEP_UP_REQUIRED {
		t.Errorf("outcome at level 1 = %v, want STEP_UP_REQUIRED", got)
	}
	got := again(created.SessionToken)
	want := proto.Clone(created.Session).(*sessionv1.Session)
	s := got.Session
	about(t, "authenticated_at", s.Assurance.AuthenticatedAt, time.Now())
	want.Assurance = &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp"}, AuthenticatedAt: s.Assurance.AuthenticatedAt}
	want.LastActiveAt, want.IdleExpiresAt, want.AbsoluteExpiresAt, want.ExpiresAt = s.LastActiveAt, s.IdleExpiresAt, s.AbsoluteExpiresAt, s.ExpiresAt
	same(t, &sessionv1.ReauthenticateSessionResponse{
		Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED, SessionToken: got.SessionToken, Session: want,
	}, got)
	if got := requires(got.SessionToken, 2, time.Hour); got != activeSession {
		t.Errorf("outcome at level 2 = %v, want ACTIVE", got)
	}
	eventually(t, "the authentication is too old", func() bool {
		return requires(got.SessionToken, 2, time.Second) == sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_REAUTH_REQUIRED
	})
	if a.isActive(t, "", created.SessionToken) {
		t.Error("the previous token is valid after ReauthenticateSession, want it invalid")
	}
	same(t, &sessionv1.ReauthenticateSessionResponse{Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_INACTIVE}, again(created.SessionToken))
	anonymous := a.create(t, &sessionv1.CreateSessionRequest{})
	same(t, &sessionv1.ReauthenticateSessionResponse{Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_ANONYMOUS}, again(anonymous.SessionToken))
}

func TestBatchValidateSessions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{MaxBatchBytes: 2500})
	ann := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	large := a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob", Attributes: map[string]string{"a": strings.Repeat("x", 2000)}})
	item := func(token string) *sessionv1.BatchValidateSessionsItem {
		return &sessionv1.BatchValidateSessionsItem{SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER}
	}
	strict := item(ann.SessionToken)
	strict.Require = &sessionv1.Requirement{MinAal: 1}
	stale := item(ann.SessionToken)
	stale.Require = &sessionv1.Requirement{MaxAuthAge: durationpb.New(time.Microsecond)}
	onPrimary := item(ann.SessionToken)
	onPrimary.Consistency = sessionv1.Consistency_CONSISTENCY_PRIMARY
	items := []*sessionv1.BatchValidateSessionsItem{
		item(ann.SessionToken), item("ls1_x"), strict, stale, item(large.SessionToken), item(large.SessionToken), onPrimary,
	}
	active := &sessionv1.BatchValidateSessionsResult{
		Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE, Session: ann.Session, CacheFor: secs(5),
	}
	fromPrimary := proto.Clone(active).(*sessionv1.BatchValidateSessionsResult)
	fromPrimary.CacheFor = secs(0)
	for range 3 {
		got := must[*sessionv1.BatchValidateSessionsResponse](t)(a.session.BatchValidateSessions(t.Context(), &sessionv1.BatchValidateSessionsRequest{Items: items}))
		same(t, &sessionv1.BatchValidateSessionsResponse{Results: []*sessionv1.BatchValidateSessionsResult{
			active,
			{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_INACTIVE},
			{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_STEP_UP_REQUIRED},
			{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_REAUTH_REQUIRED},
			{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE, Session: large.Session, CacheFor: secs(5)},
			{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_UNPROCESSED},
			fromPrimary,
		}}, got)
	}
}
