package service

import (
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
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
	t.Errorf("details of %v have no ErrorInfo, want one", err)
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
				t.Errorf("session %d is active, want it evicted", i)
			}
		}
		same(t, want, got)
		if !a.isActive(t, "", got.SessionToken) {
			t.Error("the new session is inactive, want it active")
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
		t.Error("the first session is inactive after a refused login, want it active")
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
		t.Errorf("evicted sessions listed = %d, counted = %d, want 200 and 205", len(got.EvictedSessions), got.EvictedCount)
	}
}
