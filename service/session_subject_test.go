package service

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/session"
)

// metadataOf returns the metadata of an error's ErrorInfo.
func metadataOf(t testing.TB, err error) map[string]string {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Metadata
		}
	}
	t.Errorf("no ErrorInfo in %v", err)
	return nil
}

func summaryOf(s *sessionv1.Session) *sessionv1.SessionSummary {
	return &sessionv1.SessionSummary{
		SessionId: s.SessionId, Device: s.Device, CreatedAt: s.CreatedAt, LastActiveAt: s.LastActiveAt, ExpiresAt: s.ExpiresAt,
	}
}

func TestCreateSessionMakesRoom(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionsPerSubject: 3, SessionsPerClass: 2, SessionLimitPolicy: session.EvictOldest})
	type request = sessionv1.CreateSessionRequest
	on := func(class string) *sessionv1.Device { return &sessionv1.Device{Label: "a " + class, Class: class} }
	var made []*sessionv1.CreateSessionResponse
	create := func(r *request, evicted ...int) {
		t.Helper()
		got := a.create(t, r)
		want := &sessionv1.CreateSessionResponse{Outcome: createdSession, SessionToken: got.SessionToken, Session: got.Session, EvictedCount: int64(len(evicted))}
		for _, i := range evicted {
			want.EvictedSessions = append(want.EvictedSessions, summaryOf(made[i].Session))
			if a.isActive(t, "", made[i].SessionToken) {
				t.Errorf("session %d is active", i)
			}
		}
		same(t, want, got)
		if !a.isActive(t, "", got.SessionToken) {
			t.Error("the new session is inactive")
		}
		made = append(made, got)
		eventually(t, "the next millisecond", func() bool { // which tells who is the oldest
			now := a.do(t, "TIME").([]any)
			return fmt.Sprintf("%s%06s", now[0], now[1]) > fmt.Sprint(got.Session.CreatedAt.AsTime().UnixMicro()+2000)
		})
	}
	create(&request{Subject: "ann", Device: on("mobile")})
	create(&request{Subject: "ann", Device: on("mobile")})
	create(&request{Subject: "ann"})
	create(&request{Subject: "ann", Device: on("mobile")}, 0)
	create(&request{Subject: "ann"}, 1)
	create(&request{Subject: "ann", MaxSessions: 1}, 2, 3, 4)
	create(&request{Subject: "ann", Device: on("web"), MaxClassSessions: 1})
	create(&request{Subject: "ann", Device: on("web"), MaxClassSessions: 1}, 6)
	create(&request{Subject: "bob"})
	create(&request{})
}

func TestCreateSessionAtTheLimit(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionsPerSubject: 1, SessionLimitPolicy: session.Reject})
	first := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{Ip: "::1"}})
	same(t, &sessionv1.CreateSessionResponse{
		Outcome:          sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_LIMIT_REACHED,
		ExistingSessions: []*sessionv1.SessionSummary{summaryOf(first.Session)},
	}, a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}))
	if !a.isActive(t, "", first.SessionToken) {
		t.Error("a refused login ended a session")
	}
}

func TestCreateSessionListsNoMoreThan200(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for range 205 {
		a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	}
	got := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", MaxSessions: 1})
	if len(got.EvictedSessions) != 200 || got.EvictedCount != 205 {
		t.Errorf("%d listed of %d", len(got.EvictedSessions), got.EvictedCount)
	}
}

func TestCreateSessionIfSubjectEpoch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	epoch := func() int64 {
		return must[*sessionv1.GetSubjectResponse](t)(a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Subject: "ann"})).SubjectEpoch
	}
	create := func(class string, epoch int64) error {
		_, err := a.session.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{
			Subject: "ann", IfSubjectEpoch: &epoch, Device: &sessionv1.Device{Class: class},
		})
		return err
	}
	changed := answer{Code: codes.Aborted, Reason: "SUBJECT_EPOCH_CHANGED"}
	for _, class := range []string{"", "mobile"} {
		before := epoch()
		if err := create("mobile", before); err != nil {
			t.Error(err)
		}
		revoked := must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(),
			&sessionv1.RevokeSubjectSessionsRequest{Subject: "ann", DeviceClass: class}))
		after := epoch()
		if revoked.RevokedCount != 1 || revoked.SubjectEpoch != after || after <= before {
			t.Errorf("%v, epoch %d after %d", revoked, after, before)
		}
		wantAnswer(t, create("mobile", before), changed)
		if err := create("mobile", after); err != nil {
			t.Error(err)
		}
		if class != "" { // another class is not concerned
			if err := create("web", before); err != nil {
				t.Error(err)
			}
		}
		must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), &sessionv1.RevokeSubjectSessionsRequest{Subject: "ann"}))
	}
	if n := must[*sessionv1.GetSubjectResponse](t)(a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Subject: "nobody"})).SubjectEpoch; n != 0 {
		t.Errorf("the epoch of nobody is %d", n)
	}
}

func TestSessionsByDeviceClass(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	var made []*sessionv1.CreateSessionResponse
	for i := range 4 {
		made = append(made, a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{Class: []string{"web", "mobile"}[i%2]}}))
	}
	list := func(r *sessionv1.ListSubjectSessionsRequest) (current, other []string) {
		t.Helper()
		r.Subject = "ann"
		for _, s := range must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), r)).Sessions {
			if s.Current {
				current = append(current, s.SessionId)
			} else {
				other = append(other, s.SessionId)
			}
		}
		return current, other
	}
	for _, r := range []*sessionv1.ListSubjectSessionsRequest{
		{DeviceClass: "mobile", CurrentSessionToken: made[1].SessionToken}, {DeviceClass: "mobile", CurrentSessionId: made[1].Session.SessionId},
	} {
		if current, other := list(r); !cmp.Equal(current, []string{made[1].Session.SessionId}) || !cmp.Equal(other, []string{made[3].Session.SessionId}) {
			t.Errorf("current %v, other %v", current, other)
		}
	}
	if current, other := list(&sessionv1.ListSubjectSessionsRequest{CurrentSessionToken: "malformed"}); len(current) != 0 || len(other) != 4 {
		t.Errorf("current %v, other %v", current, other)
	}
	revoked := must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), &sessionv1.RevokeSubjectSessionsRequest{
		Subject: "ann", DeviceClass: "mobile", ExceptSessionId: made[1].Session.SessionId,
	}))
	if revoked.RevokedCount != 1 {
		t.Errorf("ended %d", revoked.RevokedCount)
	}
	for i, c := range made {
		if a.isActive(t, "", c.SessionToken) != (i != 3) {
			t.Errorf("session %d is active %t", i, i == 3)
		}
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
