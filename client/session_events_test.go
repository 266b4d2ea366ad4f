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

// What an event says reaches the caller, and nothing is asked for that was not.
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
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		break
	}
}

// A watch that breaks off goes on after the last event that the caller has done with, however often.
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
			{Event: &sessionv1.SessionEvent{EventId: fmt.Sprint(at + 3)}}, // told again, for no token has come
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
				t.Errorf("ended with %v", err)
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
			t.Errorf("event %d was not told", i)
		}
	}
	if twice == 0 || b.calls() != 16 {
		t.Errorf("%d told twice, %d calls", twice, b.calls())
	}
}

// What cannot begin says so, and a context that ends is heeded while nothing answers.
func TestWatchEventsThatCannotGoOn(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse())
	c := connect(t, client.Options{Target: b.addr, MaxAttempts: 1})
	for _, err := range c.Sessions.WatchEvents(t.Context(), client.WatchEventsOptions{}) {
		if !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("ended with %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, err := range c.Sessions.WatchEvents(ctx, client.WatchEventsOptions{ResumeToken: "t"}) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	}
	if b.calls() < 3 {
		t.Errorf("%d calls", b.calls())
	}
}
