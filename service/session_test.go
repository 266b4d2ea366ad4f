package service

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

const (
	activeSession   = sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE
	inactiveSession = sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE
	createdSession  = sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED
)

func (a *api) create(t testing.TB, r *sessionv1.CreateSessionRequest) *sessionv1.CreateSessionResponse {
	t.Helper()
	return must[*sessionv1.CreateSessionResponse](t)(a.session.CreateSession(t.Context(), r))
}

func (a *api) validate(t testing.TB, r *sessionv1.ValidateSessionRequest) *sessionv1.ValidateSessionResponse {
	t.Helper()
	return must[*sessionv1.ValidateSessionResponse](t)(a.session.ValidateSession(t.Context(), r))
}

// isActive asks the near cache and the primary, which have to agree.
func (a *api) isActive(t testing.TB, namespace, token string) bool {
	t.Helper()
	near := a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: namespace, SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER})
	primary := a.validate(t, &sessionv1.ValidateSessionRequest{
		Namespace: namespace, SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
	})
	if near.Outcome != primary.Outcome {
		t.Errorf("outcome = %v, on the primary = %v, want the same", near.Outcome, primary.Outcome)
	}
	if (primary.Outcome == activeSession) != (primary.Session != nil) {
		t.Errorf("ValidateSession = %v with %v, want a session only if ACTIVE", primary.Outcome, primary.Session)
	}
	return primary.Outcome == activeSession
}

// about checks that two times are the same but for what a call takes.
func about(t testing.TB, what string, got *timestamppb.Timestamp, want time.Time) {
	t.Helper()
	if d := got.AsTime().Sub(want).Abs(); got == nil || d > 20*time.Second {
		t.Errorf("%s = %v, want about %v", what, got, want)
	}
}

func TestCreateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionIdleTimeout: 20 * time.Minute, SessionAbsoluteTimeout: 2 * time.Hour})
	attributes := map[string]string{"role": "nurse", "empty": "", "größe": "\x00\n"}
	authenticated := timestamppb.New(time.UnixMilli(1700000000123))
	device := &sessionv1.Device{Ip: "2001:db8::1", UserAgent: "app/1.2", Label: "Ann's phone", Class: "mobile"}

	for _, tt := range []struct {
		name           string
		request        *sessionv1.CreateSessionRequest
		idle, absolute time.Duration
	}{
		{"Defaults", &sessionv1.CreateSessionRequest{Subject: "ann"}, 20 * time.Minute, 2 * time.Hour},
		{"Anonymous", &sessionv1.CreateSessionRequest{}, 20 * time.Minute, 2 * time.Hour},
		{"Everything", &sessionv1.CreateSessionRequest{
			Namespace: "ward", Subject: "ann", Attributes: attributes, Device: device, IdleTimeout: secs(60), AbsoluteTimeout: secs(600),
			Assurance: &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp", "pwd"}, AuthenticatedAt: authenticated},
		}, time.Minute, 10 * time.Minute},
		{"AbsoluteComesFirst", &sessionv1.CreateSessionRequest{Subject: "ann", AbsoluteTimeout: secs(60)}, 20 * time.Minute, time.Minute},
		{"DeviceInPart", &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{Label: "tablet"}}, 20 * time.Minute, 2 * time.Hour},
		{"DeviceOfNothing", &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{}}, 20 * time.Minute, 2 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := a.create(t, tt.request)
			if got.Outcome != createdSession {
				t.Errorf("outcome = %v, want %v", got.Outcome, createdSession)
			}
			if !strings.HasPrefix(got.SessionToken, "ls1_") || len(got.SessionToken) != 4+66 {
				t.Errorf("token has %d characters, want %d that begin with ls1_", len(got.SessionToken), 4+66)
			}
			s := got.Session
			created := s.CreatedAt.AsTime()
			about(t, "created_at", s.CreatedAt, time.Now())
			want := &sessionv1.Session{
				SessionId: s.SessionId, Subject: tt.request.Subject, Attributes: tt.request.Attributes, Version: 1, Device: tt.request.Device,
				CreatedAt: s.CreatedAt, LastActiveAt: s.CreatedAt, IdleExpiresAt: timestamppb.New(created.Add(tt.idle)),
				AbsoluteExpiresAt: timestamppb.New(created.Add(tt.absolute)), ExpiresAt: timestamppb.New(created.Add(min(tt.idle, tt.absolute))),
			}
			if tt.request.Subject != "" {
				want.Assurance = &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp"}, AuthenticatedAt: authenticated}
				if tt.request.Assurance == nil {
					want.Assurance = &sessionv1.Assurance{AuthenticatedAt: s.CreatedAt}
				}
			}
			if proto.Equal(want.Device, &sessionv1.Device{}) {
				want.Device = nil
			}
			same(t, want, s)
			// The handle is the beginning of the token, and says nothing of the secret behind it.
			if len(s.SessionId) != 23 || strings.Contains(s.String(), got.SessionToken[4+23:]) {
				t.Errorf("session = %v, want an id of 23 characters and nothing of the secret", s)
			}

			// Every way to read it tells the same.
			for _, c := range []sessionv1.Consistency{
				sessionv1.Consistency_CONSISTENCY_UNSPECIFIED, sessionv1.Consistency_CONSISTENCY_CACHED, sessionv1.Consistency_CONSISTENCY_PRIMARY,
			} {
				validated := &sessionv1.ValidateSessionResponse{Outcome: activeSession, Session: want, CacheFor: secs(5)}
				if c == sessionv1.Consistency_CONSISTENCY_PRIMARY {
					validated.CacheFor = secs(0)
				}
				same(t, validated, a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: tt.request.Namespace, SessionToken: got.SessionToken, Consistency: c}))
			}
			same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE, Session: want},
				must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{Namespace: tt.request.Namespace, SessionId: s.SessionId})))

			// And in another namespace there is nothing to tell.
			same(t, &sessionv1.ValidateSessionResponse{Outcome: inactiveSession},
				a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: "elsewhere", SessionToken: got.SessionToken}))
			same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE},
				must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{Namespace: "elsewhere", SessionId: s.SessionId})))
		})
	}
}

func TestGetSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(60)})
	id := created.Session.SessionId
	get := func(id string) *sessionv1.GetSessionResponse {
		return must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{SessionId: id}))
	}
	same(t, &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE}, get(flip(id[0])+id[1:]))
	for range 3 { // reading it is not activity
		same(t, created.Session, get(id).Session)
	}
}

func TestUpdateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.UpdateSessionRequest
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1", "b": "2"}})
	byID := &sessionv1.UpdateSessionRequest_SessionId{SessionId: created.Session.SessionId}
	byToken := &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: created.SessionToken}
	read := func() *sessionv1.Session {
		return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: created.SessionToken}).Session
	}
	updated := func(version int64) *sessionv1.UpdateSessionResponse {
		return &sessionv1.UpdateSessionResponse{Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED, Version: version}
	}
	inactive := &sessionv1.UpdateSessionResponse{Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_INACTIVE}

	for _, tt := range []struct {
		request    *request
		want       *sessionv1.UpdateSessionResponse
		attributes map[string]string
	}{
		{&request{Target: byID, SetAttributes: map[string]string{"b": "3", "c": ""}}, updated(2), map[string]string{"a": "1", "b": "3", "c": ""}},
		{&request{Target: byToken, DeleteAttributes: []string{"a", "none"}, ExpectedVersion: 2}, updated(3), map[string]string{"b": "3", "c": ""}},
		{&request{Target: byToken, SetAttributes: map[string]string{"a": "4"}, DeleteAttributes: []string{"c"}}, updated(4), map[string]string{"a": "4", "b": "3"}},
		{
			&request{Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: flip(byID.SessionId[0]) + byID.SessionId[1:]}, SetAttributes: map[string]string{"x": ""}},
			inactive,
			map[string]string{"a": "4", "b": "3"},
		},
		{&request{Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: "malformed"}, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Target: &sessionv1.UpdateSessionRequest_SessionToken{
			SessionToken: byToken.SessionToken[:40] + flip(byToken.SessionToken[40]) + byToken.SessionToken[41:],
		}, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Namespace: "other", Target: byToken, DeleteAttributes: []string{"a"}}, inactive, map[string]string{"a": "4", "b": "3"}},
		{&request{Target: byToken, DeleteAttributes: []string{"a", "b"}}, updated(5), nil},
	} {
		same(t, tt.want, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), tt.request)))
		if diff := cmp.Diff(tt.attributes, read().Attributes); diff != "" {
			t.Errorf("attributes after %v (-want +got):\n%s", tt.request, diff)
		}
	}
	if got := read(); got.Version != 5 {
		t.Errorf("version = %d, want 5", got.Version)
	}

	_, err := a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, ExpectedVersion: 4})
	wantAnswer(t, err, answer{Code: codes.Aborted, Reason: "SESSION_VERSION_MISMATCH"})
	if got := metadataOf(t, err); got["current_version"] != "5" || len(got) != 1 {
		t.Errorf("metadata = %v, want current_version 5 only", got)
	}
	most := map[string]string{}
	for i := range 64 {
		most[fmt.Sprint(i)] = ""
	}
	same(t, updated(6), must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: most})))
	tooMany := answer{Code: codes.InvalidArgument, Reason: "TOO_MANY_ATTRIBUTES"}
	_, err = a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}})
	wantAnswer(t, err, tooMany)
	same(t, updated(7), must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, DeleteAttributes: []string{"0"}})))
	_, err = a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"1": strings.Repeat("v", 64<<10-1)}})
	wantAnswer(t, err, tooMany)
	if got := read(); got.Version != 7 || len(got.Attributes) != 64 || got.Attributes["1"] != "" {
		t.Errorf("version = %d with %d attributes, want 7 with 64", got.Version, len(got.Attributes))
	}

	must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: byID.SessionId}}))
	same(t, inactive, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{Target: byID, SetAttributes: map[string]string{"x": ""}, ExpectedVersion: 7})))
	if a.isActive(t, "", created.SessionToken) {
		t.Error("a revoked session is active after an update, want it inactive")
	}
}

func TestRevokeSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	created := func() (token, id string) {
		c := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
		return c.SessionToken, c.Session.SessionId
	}
	byID := func(id string) *sessionv1.RevokeSessionRequest {
		return &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: id}}
	}
	byToken := func(token string) *sessionv1.RevokeSessionRequest {
		return &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: token}}
	}
	revoked := &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED}
	inactive := &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_INACTIVE}
	revoke := func(r *sessionv1.RevokeSessionRequest) *sessionv1.RevokeSessionResponse {
		return must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), r))
	}

	kept, keptID := created()
	for _, by := range []func(token, id string) *sessionv1.RevokeSessionRequest{
		func(_, id string) *sessionv1.RevokeSessionRequest { return byID(id) },
		func(token, _ string) *sessionv1.RevokeSessionRequest { return byToken(token) },
	} {
		token, id := created()
		if !a.isActive(t, "", token) {
			t.Fatal("a new session is inactive, want it active")
		}
		elsewhere := by(token, id)
		elsewhere.Namespace = "other"
		same(t, inactive, revoke(elsewhere))
		same(t, revoked, revoke(by(token, id)))
		if a.isActive(t, "", token) { // near as well, at once
			t.Error("session is active after its revocation, want it inactive")
		}
		same(t, inactive, revoke(by(token, id)))
	}
	same(t, inactive, revoke(byToken("malformed")))
	same(t, inactive, revoke(byToken(kept[:40]+flip(kept[40])+kept[41:])))
	same(t, inactive, revoke(byID(flip(keptID[0])+keptID[1:])))
	if !a.isActive(t, "", kept) {
		t.Error("another session is inactive after the revocation, want it active")
	}
}

func TestUpdateSessionCounters(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.UpdateSessionRequest
	created := a.create(t, &sessionv1.CreateSessionRequest{Attributes: map[string]string{"text": "x", "most": fmt.Sprint(math.MaxInt64)}})
	byID := &sessionv1.UpdateSessionRequest_SessionId{SessionId: created.Session.SessionId}
	want := &sessionv1.UpdateSessionResponse{
		Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED, Version: 2,
		IncrementedAttributes: map[string]int64{"views": 3, "most": math.MaxInt64 - 1}, AttributesSetIfAbsent: []string{"a", "b"},
	}
	same(t, want, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{
		Target: byID, IncrementAttributes: map[string]int64{"views": 3, "most": -1},
		SetAttributesIfAbsent: map[string]string{"b": "", "text": "y", "a": "1"},
	})))
	for name, want := range map[string]answer{
		"text": {Code: codes.FailedPrecondition, Reason: "NOT_A_COUNTER"},
		"most": {Code: codes.OutOfRange, Reason: "COUNTER_OVERFLOW"},
	} {
		_, err := a.session.UpdateSession(t.Context(), &request{Target: byID, IncrementAttributes: map[string]int64{name: 2}, DeleteAttributes: []string{"a"}})
		wantAnswer(t, err, want)
	}
	// What changes nothing is no change.
	want = &sessionv1.UpdateSessionResponse{Outcome: want.Outcome, Version: 2}
	same(t, want, must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(t.Context(), &request{
		Target: byID, SetAttributes: map[string]string{"text": "x"}, DeleteAttributes: []string{"none"},
	})))
}
