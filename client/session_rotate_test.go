package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A replacement is the result of a call that replaces a token.
type replacement struct {
	Token   string
	Session *client.Session
}

func replacing(token string, s *client.Session, err error) (replacement, error) {
	return replacement{token, s}, err
}

func TestCallsThatReplaceTheToken(t *testing.T) {
	t.Parallel()
	want := replacement{"ls1_new", session}
	asks(t, "Rotate", &sessionv1.RotateSessionResponse{
		Outcome: sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED, SessionToken: "ls1_new", Session: wireSession,
	}, func(c *client.Client) (replacement, error) {
		return replacing(c.Sessions.Rotate(t.Context(), "ls1_secret"))
	}, &sessionv1.RotateSessionRequest{Namespace: "shop", SessionToken: "ls1_secret"}, want)
	promoted := &sessionv1.PromoteSessionResponse{
		Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED, SessionToken: "ls1_new", Session: wireSession,
	}
	asks(t, "Promote", promoted, func(c *client.Client) (replacement, error) {
		return replacing(c.Sessions.Promote(t.Context(), "ls1_secret", "ann", client.PromoteOptions{
			Assurance:      client.Assurance{AAL: 2, AMR: []string{"pwd"}, AuthenticatedAt: noon},
			IfSubjectEpoch: new(int64(7)), MaxSessions: 2, MaxClassSessions: 1,
		}))
	}, &sessionv1.PromoteSessionRequest{
		Namespace: "shop", SessionToken: "ls1_secret", Subject: "ann",
		IfSubjectEpoch: new(int64(7)), MaxSessions: 2, MaxClassSessions: 1,
		Assurance: &sessionv1.Assurance{Aal: 2, Amr: []string{"pwd"}, AuthenticatedAt: timestamppb.New(noon)},
	}, want)
	asks(t, "PromoteZero", promoted, func(c *client.Client) (replacement, error) {
		return replacing(c.Sessions.Promote(t.Context(), "ls1_secret", "ann", client.PromoteOptions{}))
	}, &sessionv1.PromoteSessionRequest{Namespace: "shop", SessionToken: "ls1_secret", Subject: "ann"}, want)
	asks(t, "Reauthenticate", &sessionv1.ReauthenticateSessionResponse{
		Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED, SessionToken: "ls1_new", Session: wireSession,
	}, func(c *client.Client) (replacement, error) {
		return replacing(c.Sessions.Reauthenticate(t.Context(), "ls1_secret", client.ReauthenticateOptions{AAL: 2, AMR: []string{"otp"}, ResetTimeouts: true}))
	}, &sessionv1.ReauthenticateSessionRequest{Namespace: "shop", SessionToken: "ls1_secret", Aal: 2, Amr: []string{"otp"}, ResetTimeouts: true}, want)
}

func TestRequirementsAndVerdicts(t *testing.T) {
	t.Parallel()
	believed := *session
	believed.CacheFor = 3 * time.Second
	asks(t, "Require", &sessionv1.ValidateSessionResponse{
		Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE, Session: wireSession, CacheFor: durationpb.New(3 * time.Second),
	}, func(c *client.Client) (*client.Session, error) {
		return c.Sessions.Validate(t.Context(), "ls1_secret", client.ValidateOptions{MinAAL: 2, MaxAuthAge: time.Minute})
	}, &sessionv1.ValidateSessionRequest{
		Namespace: "shop", SessionToken: "ls1_secret", Require: &sessionv1.Requirement{MinAal: 2, MaxAuthAge: durationpb.New(time.Minute)},
	}, &believed)

	b := serve(t, always(&sessionv1.BatchValidateSessionsResponse{Results: []*sessionv1.BatchValidateSessionsResult{
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE, Session: wireSession, CacheFor: durationpb.New(3 * time.Second)},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_INACTIVE, Session: wireSession},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_STEP_UP_REQUIRED, Session: wireSession},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_REAUTH_REQUIRED, Session: wireSession},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED, Session: wireSession, Reason: "REDIS_UNAVAILABLE"},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_UNPROCESSED, Session: wireSession},
		{Outcome: 99, Session: wireSession},
		{Session: wireSession},
		{Outcome: sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED},
	}}))
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	got, err := c.Sessions.BatchValidate(t.Context(), []client.ValidateItem{
		{Token: "a"}, {Token: "b", Options: client.ValidateOptions{Touch: client.TouchNever, Primary: true, MinAAL: 3}},
	})
	if err != nil {
		t.Fatalf("BatchValidate = error %v, want none", err)
	}
	want := []error{nil, client.ErrInactive, client.ErrStepUpRequired, client.ErrReauthRequired, client.ErrUnavailable, client.ErrUnprocessed, client.ErrInactive, client.ErrInactive, client.ErrInactive}
	for i, v := range got {
		if !errors.Is(v.Err, want[i]) || (v.Session != nil) != (want[i] == nil) {
			t.Errorf("verdict %d = %+v, %v; want the error %v and a session only without one", i, v.Session, v.Err, want[i])
		}
	}
	if diff := cmp.Diff(&believed, got[0].Session); diff != "" {
		t.Errorf("the active session (-want +got):\n%s", diff)
	}
	wantRequest := &sessionv1.BatchValidateSessionsRequest{Namespace: "shop", Items: []*sessionv1.BatchValidateSessionsItem{
		{SessionToken: "a"},
		{
			SessionToken: "b", Touch: sessionv1.Touch_TOUCH_NEVER, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
			Require: &sessionv1.Requirement{MinAal: 3},
		},
	}}
	if diff := cmp.Diff(wantRequest, b.last(t), protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestWithoutAGoodOutcomeThereIsNoToken(t *testing.T) {
	t.Parallel()
	rotate := func(ctx context.Context, c *client.Client) (string, *client.Session, error) {
		return c.Sessions.Rotate(ctx, "t")
	}
	promote := func(ctx context.Context, c *client.Client) (string, *client.Session, error) {
		return c.Sessions.Promote(ctx, "t", "ann", client.PromoteOptions{})
	}
	again := func(ctx context.Context, c *client.Client) (string, *client.Session, error) {
		return c.Sessions.Reauthenticate(ctx, "t", client.ReauthenticateOptions{AMR: []string{"otp"}})
	}
	for name, tt := range map[string]struct {
		resp proto.Message
		call func(context.Context, *client.Client) (string, *client.Session, error)
		want error
	}{
		"RotateInactive":     {&sessionv1.RotateSessionResponse{Outcome: 2, SessionToken: "x", Session: wireSession}, rotate, client.ErrInactive},
		"RotateUnspecified":  {&sessionv1.RotateSessionResponse{SessionToken: "x", Session: wireSession}, rotate, client.ErrInactive},
		"RotateWithoutToken": {&sessionv1.RotateSessionResponse{Outcome: 1, Session: wireSession}, rotate, client.ErrInactive},
		"RotateWithoutData":  {&sessionv1.RotateSessionResponse{Outcome: 1, SessionToken: "x"}, rotate, client.ErrInactive},
		"PromoteInactive":    {&sessionv1.PromoteSessionResponse{Outcome: 2, SessionToken: "x", Session: wireSession}, promote, client.ErrInactive},
		"PromoteSubjects":    {&sessionv1.PromoteSessionResponse{Outcome: 3, SessionToken: "x", Session: wireSession}, promote, client.ErrNotAnonymous},
		"AgainInactive":      {&sessionv1.ReauthenticateSessionResponse{Outcome: 2, SessionToken: "x", Session: wireSession}, again, client.ErrInactive},
		"AgainAnonymous":     {&sessionv1.ReauthenticateSessionResponse{Outcome: 3, SessionToken: "x", Session: wireSession}, again, client.ErrAnonymous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, client.Options{Target: serve(t, always(tt.resp)).addr})
			if token, s, err := tt.call(t.Context(), c); token != "" || s != nil || !errors.Is(err, tt.want) {
				t.Errorf("the call = %q, %v, %v; want no token, no session and %v", token, s, err, tt.want)
			}
		})
	}
}
