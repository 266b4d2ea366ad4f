package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

var (
	wireSession = &sessionv1.Session{
		SessionId:         "s1",
		Subject:           "ann",
		Attributes:        map[string]string{"role": "admin"},
		Version:           3,
		Device:            &sessionv1.Device{Ip: "192.0.2.1", UserAgent: "curl", Label: "Ann's phone", Class: "mobile"},
		CreatedAt:         timestamppb.New(noon),
		LastActiveAt:      timestamppb.New(noon.Add(1 * time.Minute)),
		IdleExpiresAt:     timestamppb.New(noon.Add(2 * time.Minute)),
		AbsoluteExpiresAt: timestamppb.New(noon.Add(3 * time.Minute)),
		ExpiresAt:         timestamppb.New(noon.Add(4 * time.Minute)),
		Current:           true,

		AttributesUnreadable: true,
		Assurance:            &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd", "otp"}, AuthenticatedAt: timestamppb.New(noon)},
	}
	session = &client.Session{
		ID:                "s1",
		Subject:           "ann",
		Attributes:        map[string]string{"role": "admin"},
		Version:           3,
		Device:            client.Device{IP: "192.0.2.1", UserAgent: "curl", Label: "Ann's phone", Class: "mobile"},
		CreatedAt:         noon,
		LastActiveAt:      noon.Add(1 * time.Minute),
		IdleExpiresAt:     noon.Add(2 * time.Minute),
		AbsoluteExpiresAt: noon.Add(3 * time.Minute),
		ExpiresAt:         noon.Add(4 * time.Minute),
		Current:           true,

		AttributesUnreadable: true,
		Assurance:            client.Assurance{AAL: 2, AMR: []string{"pwd", "otp"}, AuthenticatedAt: noon},
	}
)

const createdOutcome = sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED

var (
	wireSummary = &sessionv1.SessionSummary{
		SessionId: "s1", Device: wireSession.Device, CreatedAt: wireSession.CreatedAt, LastActiveAt: wireSession.LastActiveAt, ExpiresAt: wireSession.ExpiresAt,
	}
	summary = client.SessionSummary{
		ID: "s1", Device: session.Device, CreatedAt: session.CreatedAt, LastActiveAt: session.LastActiveAt, ExpiresAt: session.ExpiresAt,
	}
)

func TestCreate(t *testing.T) {
	t.Parallel()
	create := func(subject string, o client.CreateOptions) func(*client.Client) (*client.Session, error) {
		return func(c *client.Client) (*client.Session, error) {
			token, s, err := c.Sessions.Create(t.Context(), subject, o)
			if token != "ls1_secret" {
				t.Errorf("Create = the token %q, want ls1_secret", token)
			}
			return s, err
		}
	}
	epoch := int64(0)
	var evicted []client.SessionSummary
	asks(t, "Full", &sessionv1.CreateSessionResponse{
		Outcome: createdOutcome, SessionToken: "ls1_secret", Session: wireSession, EvictedSessions: []*sessionv1.SessionSummary{wireSummary},
	}, create("ann", client.CreateOptions{
		Attributes: map[string]string{"role": "admin"}, IdleTimeout: time.Minute, AbsoluteTimeout: time.Hour, Device: session.Device,
		Assurance:      session.Assurance,
		IfSubjectEpoch: &epoch, MaxSessions: 2, MaxClassSessions: 1, OnEvicted: func(s []client.SessionSummary) { evicted = s },
	}), &sessionv1.CreateSessionRequest{
		Namespace: "shop", Subject: "ann", Attributes: map[string]string{"role": "admin"},
		IdleTimeout: durationpb.New(time.Minute), AbsoluteTimeout: durationpb.New(time.Hour), Device: wireSession.Device,
		Assurance: wireSession.Assurance, IfSubjectEpoch: &epoch, MaxSessions: 2, MaxClassSessions: 1,
	}, session)
	asks(t, "Anonymous", &sessionv1.CreateSessionResponse{Outcome: createdOutcome, SessionToken: "ls1_secret", Session: &sessionv1.Session{SessionId: "s2"}},
		create("", client.CreateOptions{}), &sessionv1.CreateSessionRequest{Namespace: "shop"}, &client.Session{ID: "s2"})
	t.Cleanup(func() { // after the parallel subtests
		if diff := cmp.Diff([]client.SessionSummary{summary}, evicted); diff != "" {
			t.Errorf("OnEvicted got (-want +got):\n%s", diff)
		}
	})
	t.Run("LimitReached", func(t *testing.T) {
		t.Parallel()
		c := connect(t, client.Options{Target: serve(t, always(&sessionv1.CreateSessionResponse{
			Outcome:          sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_LIMIT_REACHED,
			ExistingSessions: []*sessionv1.SessionSummary{wireSummary}, SessionToken: "ls1_secret", Session: wireSession,
		})).addr})
		token, s, err := c.Sessions.Create(t.Context(), "ann", client.CreateOptions{})
		var limit *client.LimitError
		if token != "" || s != nil || !errors.As(err, &limit) {
			t.Fatalf("Create = %q, %v, %v; want no token, no session and a *LimitError", token, s, err)
		}
		if diff := cmp.Diff([]client.SessionSummary{summary}, limit.Existing); diff != "" {
			t.Errorf("LimitError.Existing (-want +got):\n%s", diff)
		}
	})
}

func TestValidate(t *testing.T) {
	t.Parallel()
	resp := &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE, Session: wireSession}
	asks(t, "Zero", resp, func(c *client.Client) (*client.Session, error) {
		return c.Sessions.Validate(t.Context(), "ls1_secret", client.ValidateOptions{})
	}, &sessionv1.ValidateSessionRequest{Namespace: "shop", SessionToken: "ls1_secret"}, session)
	asks(t, "Full", resp, func(c *client.Client) (*client.Session, error) {
		return c.Sessions.In("stock").Validate(t.Context(), "ls1_secret", client.ValidateOptions{Touch: client.TouchForce, Primary: true})
	}, &sessionv1.ValidateSessionRequest{
		Namespace: "stock", SessionToken: "ls1_secret", Touch: sessionv1.Touch_TOUCH_FORCE, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
	}, session)
}

func TestGetSession(t *testing.T) {
	t.Parallel()
	asks(t, "Active", &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE, Session: wireSession}, func(c *client.Client) (*client.Session, error) {
		return c.Sessions.Get(t.Context(), "s1")
	}, &sessionv1.GetSessionRequest{Namespace: "shop", SessionId: "s1"}, session)
}

func TestOnlyAnActiveSessionIsReturned(t *testing.T) {
	t.Parallel()
	validate := func(ctx context.Context, c *client.Client) (*client.Session, error) {
		return c.Sessions.Validate(ctx, "ls1_secret", client.ValidateOptions{})
	}
	get := func(ctx context.Context, c *client.Client) (*client.Session, error) { return c.Sessions.Get(ctx, "s1") }
	tests := []struct {
		name string
		resp proto.Message
		call func(context.Context, *client.Client) (*client.Session, error)
	}{
		{"ValidateInactive", &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE}, validate},
		{"ValidateInactiveWithData", &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE, Session: wireSession}, validate},
		{"ValidateActiveWithoutData", &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE}, validate},
		{"ValidateUnspecified", &sessionv1.ValidateSessionResponse{Session: wireSession}, validate},
		{"ValidateOutcomeOfALaterServer", &sessionv1.ValidateSessionResponse{Outcome: 99, Session: wireSession}, validate},
		{"GetInactive", &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE, Session: wireSession}, get},
		{"GetUnspecified", &sessionv1.GetSessionResponse{Session: wireSession}, get},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, client.Options{Target: serve(t, always(tt.resp)).addr})
			if s, err := tt.call(t.Context(), c); s != nil || !errors.Is(err, client.ErrInactive) {
				t.Errorf("the call = %v, %v; want no session and ErrInactive", s, err)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	resp := &sessionv1.UpdateSessionResponse{
		Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED, Version: 4,
		IncrementedAttributes: map[string]int64{"n": 7}, AttributesSetIfAbsent: []string{"c"},
	}
	want := client.UpdateResult{Version: 4, Incremented: map[string]int64{"n": 7}, SetIfAbsent: []string{"c"}}
	asks(t, "ByID", resp, func(c *client.Client) (client.UpdateResult, error) {
		return c.Sessions.Update(t.Context(), client.ByID("s1"), client.UpdateOptions{
			Set: map[string]string{"a": "1"}, SetIfAbsent: map[string]string{"c": "2"}, Increment: map[string]int64{"n": 1},
			Delete: []string{"b"}, ExpectedVersion: 3,
		})
	}, &sessionv1.UpdateSessionRequest{
		Namespace: "shop", Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: "s1"},
		SetAttributes: map[string]string{"a": "1"}, SetAttributesIfAbsent: map[string]string{"c": "2"},
		IncrementAttributes: map[string]int64{"n": 1}, DeleteAttributes: []string{"b"}, ExpectedVersion: 3,
	}, want)
	asks(t, "ByToken", resp, func(c *client.Client) (client.UpdateResult, error) {
		return c.Sessions.Update(t.Context(), client.ByToken("ls1_secret"), client.UpdateOptions{})
	}, &sessionv1.UpdateSessionRequest{
		Namespace: "shop", Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: "ls1_secret"},
	}, want)
	t.Run("Inactive", func(t *testing.T) {
		t.Parallel()
		b := serve(t, always(&sessionv1.UpdateSessionResponse{Outcome: sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_INACTIVE}))
		c := connect(t, client.Options{Target: b.addr})
		if _, err := c.Sessions.Update(t.Context(), client.ByID("s1"), client.UpdateOptions{}); !errors.Is(err, client.ErrInactive) {
			t.Errorf("Update = error %v, want ErrInactive", err)
		}
	})
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	asks(t, "ByID", &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED}, func(c *client.Client) (bool, error) {
		return c.Sessions.Revoke(t.Context(), client.ByID("s1"))
	}, &sessionv1.RevokeSessionRequest{Namespace: "shop", Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: "s1"}}, true)
	asks(t, "ByTokenInactive", &sessionv1.RevokeSessionResponse{Outcome: sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_INACTIVE}, func(c *client.Client) (bool, error) {
		return c.Sessions.Revoke(t.Context(), client.ByToken("ls1_secret"))
	}, &sessionv1.RevokeSessionRequest{Namespace: "shop", Target: &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: "ls1_secret"}}, false)
	asks(t, "Subject", &sessionv1.RevokeSubjectSessionsResponse{RevokedCount: 5}, func(c *client.Client) (int64, error) {
		return c.Sessions.RevokeSubject(t.Context(), "ann", client.RevokeSubjectOptions{ExceptID: "s1", DeviceClass: "mobile"})
	}, &sessionv1.RevokeSubjectSessionsRequest{Namespace: "shop", Subject: "ann", ExceptSessionId: "s1", DeviceClass: "mobile"}, 5)
	asks(t, "SubjectEpoch", &sessionv1.GetSubjectResponse{SubjectEpoch: 9}, func(c *client.Client) (int64, error) {
		return c.Sessions.SubjectEpoch(t.Context(), "ann")
	}, &sessionv1.GetSubjectRequest{Namespace: "shop", Subject: "ann"}, 9)
}

func TestListSubject(t *testing.T) {
	t.Parallel()
	b := serve(t, func(_ context.Context, req any) (any, error) {
		if req.(*sessionv1.ListSubjectSessionsRequest).GetPageToken() == "" {
			return &sessionv1.ListSubjectSessionsResponse{Sessions: []*sessionv1.Session{wireSession}, NextPageToken: "2"}, nil
		}
		return &sessionv1.ListSubjectSessionsResponse{Sessions: []*sessionv1.Session{{SessionId: "s2"}}}, nil
	})
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	var got []*client.Session
	for s, err := range c.Sessions.ListSubject(t.Context(), "ann", client.ListSubjectOptions{PageSize: 1, Current: client.ByID("s1"), DeviceClass: "mobile"}) {
		if err != nil {
			t.Fatalf("ListSubject = error %v, want none", err)
		}
		got = append(got, s)
	}
	if diff := cmp.Diff([]*client.Session{session, {ID: "s2"}}, got); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	wantRequest := &sessionv1.ListSubjectSessionsRequest{Namespace: "shop", Subject: "ann", PageSize: 1, PageToken: "2", CurrentSessionId: "s1", DeviceClass: "mobile"}
	if diff := cmp.Diff(wantRequest, b.last(t), protocmp.Transform()); diff != "" {
		t.Errorf("last request (-want +got):\n%s", diff)
	}
}

func TestTargetNeverShowsTheSecret(t *testing.T) {
	t.Parallel()
	const want = "(by token)"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, client.ByToken("ls1_secret")); got != want {
			t.Errorf("Sprintf(%q) of a token = %q, want %q", verb, got, want)
		}
	}
	if got := client.ByID("s1").String(); got != "s1" {
		t.Errorf("ByID(s1).String() = %q, want s1", got)
	}
}
