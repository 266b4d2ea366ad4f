package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// TestWatchEvents: every option reaches the server, and every field of an event the caller.
func TestWatchEvents(t *testing.T) {
	t.Parallel()
	b := &backend{events: func(r *sessionv1.WatchSessionEventsRequest, s grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error {
		if r.GetNamespace() != "shop" || r.GetSubject() != "ann" || len(r.GetTypes()) != 1 || r.GetTypes()[0] != sessionv1.SessionEventType_SESSION_EVENT_TYPE_REVOKED || r.GetResumeToken() != "t0" {
			return larderError(codes.InvalidArgument, "INVALID_FIELD")
		}
		return s.Send(&sessionv1.WatchSessionEventsResponse{ResumeToken: "t1", Event: &sessionv1.SessionEvent{
			EventId: "1-2-3", Type: sessionv1.SessionEventType_SESSION_EVENT_TYPE_REVOKED, At: timestamppb.New(noon), Namespace: "shop",
			SessionId: "s1", Subject: "ann", Reason: "SUBJECT", ExceptSessionId: "s2", Class: "web", FromSessionId: "s3", ToSessionId: "s4",
		}})
	}}
	c := connect(t, client.Options{Target: b.start(t, insecure.NewCredentials()).addr, Namespace: "shop"})
	o := client.WatchEventsOptions{Subject: "ann", Types: []client.SessionEventType{client.SessionRevoked}, ResumeToken: "t0"}
	for e, err := range c.Sessions.WatchEvents(t.Context(), o) {
		want := client.SessionEvent{
			ID: "1-2-3", Type: client.SessionRevoked, At: noon, SessionID: "s1", Subject: "ann", Reason: "SUBJECT", ExceptID: "s2",
			Class: "web", FromID: "s3", ToID: "s4", ResumeToken: "t1",
		}
		if diff := cmp.Diff(want, e); diff != "" || err != nil {
			t.Errorf("WatchEvents = error %v, want none; event (-want +got):\n%s", err, diff)
		}
		break
	}
}

// TestWatchEventsGoesOnWhereItWas: a watch that breaks off resumes after the last event that the caller has processed.
func TestWatchEventsGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	b := new(backend)
	b.events = func(r *sessionv1.WatchSessionEventsRequest, s grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error {
		var at int
		if r.GetResumeToken() == "" {
			at = 0
		} else if _, err := fmt.Sscanf(r.GetResumeToken(), "t%d", &at); err != nil {
			return err
		}
		if at == 30 {
			return larderError(codes.OutOfRange, "EVENTS_TRIMMED")
		}
		for _, resp := range []*sessionv1.WatchSessionEventsResponse{
			{ResumeToken: fmt.Sprint("t", at)},
			{Event: &sessionv1.SessionEvent{EventId: fmt.Sprint(at + 1)}},
			{Event: &sessionv1.SessionEvent{EventId: fmt.Sprint(at + 2)}, ResumeToken: fmt.Sprint("t", at+2)},
			{Event: &sessionv1.SessionEvent{EventId: fmt.Sprint(at + 3)}}, // sent again, because it has no token
		} {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		return larderError(codes.Unavailable, "SERVER_SHUTTING_DOWN")
	}
	c := connect(t, client.Options{Target: b.start(t, insecure.NewCredentials()).addr})
	seen, twice := map[string]bool{}, 0
	for e, err := range c.Sessions.WatchEvents(t.Context(), client.WatchEventsOptions{}) {
		if err != nil {
			if !errors.Is(err, client.ErrEventsTrimmed) {
				t.Errorf("WatchEvents ended with %v, want ErrEventsTrimmed", err)
			}
			break
		}
		if seen[e.ID] {
			twice++
		}
		seen[e.ID] = true
	}
	for i := 1; i <= 31; i++ {
		if !seen[fmt.Sprint(i)] {
			t.Errorf("event %d was not yielded, want all of 1 to 31", i)
		}
	}
	if twice == 0 || b.calls() != 16 {
		t.Errorf("%d events were yielded twice in %d calls, want some in 16", twice, b.calls())
	}
}

// TestWatchEventsThatCannotGoOn: a watch that cannot start ends with the error, and one that cannot resume with ctx.
func TestWatchEventsThatCannotGoOn(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse())
	c := connect(t, client.Options{Target: b.addr, MaxAttempts: 1})
	for _, err := range c.Sessions.WatchEvents(t.Context(), client.WatchEventsOptions{}) {
		if !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("WatchEvents that cannot start ended with %v, want ErrUnavailable", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, err := range c.Sessions.WatchEvents(ctx, client.WatchEventsOptions{ResumeToken: "t"}) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WatchEvents with a deadline ended with %v, want context.DeadlineExceeded", err)
		}
	}
	if b.calls() < 3 {
		t.Errorf("the server got %d calls, want at least 3", b.calls())
	}
}
