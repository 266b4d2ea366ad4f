package service

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
)

const (
	sessionCreated     = sessionv1.SessionEventType_SESSION_EVENT_TYPE_CREATED
	sessionRevoked     = sessionv1.SessionEventType_SESSION_EVENT_TYPE_REVOKED
	sessionExpiredIdle = sessionv1.SessionEventType_SESSION_EVENT_TYPE_EXPIRED_IDLE
)

// watchSessions begins a watch, which has begun when it returns.
func (a *api) watchSessions(ctx context.Context, t *testing.T, r *sessionv1.WatchSessionEventsRequest) (grpc.ServerStreamingClient[sessionv1.WatchSessionEventsResponse], string) {
	t.Helper()
	stream := must[grpc.ServerStreamingClient[sessionv1.WatchSessionEventsResponse]](t)(a.session.WatchSessionEvents(ctx, r))
	first := must[*sessionv1.WatchSessionEventsResponse](t)(stream.Recv())
	if first.Event != nil || first.ResumeToken == "" {
		t.Fatalf("first message = %v, want a resume token without an event", first)
	}
	return stream, first.ResumeToken
}

// nextEvent skips what is no event.
func nextEvent(t *testing.T, stream grpc.ServerStreamingClient[sessionv1.WatchSessionEventsResponse]) (*sessionv1.SessionEvent, string) {
	t.Helper()
	for {
		r := must[*sessionv1.WatchSessionEventsResponse](t)(stream.Recv())
		if r.Event != nil {
			return r.Event, r.ResumeToken
		}
	}
}

func TestWatchSessionEvents(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	a := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second}, Sessions: session.Options{SweepInterval: time.Second}}, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request := &sessionv1.WatchSessionEventsRequest{Subject: "ann", Types: []sessionv1.SessionEventType{sessionCreated, sessionRevoked, sessionExpiredIdle}}
	stream, token := a.watchSessions(ctx, t, request)

	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "b"}})
	id := created.Session.SessionId
	a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob"})
	must[*sessionv1.UpdateSessionResponse](t)(a.session.UpdateSession(ctx, &sessionv1.UpdateSessionRequest{
		Target: &sessionv1.UpdateSessionRequest_SessionId{SessionId: id}, SetAttributes: map[string]string{"a": "c"},
	}))
	must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(ctx, &sessionv1.RevokeSessionRequest{Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: id}}))
	short := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: durationpb.New(time.Second)})
	must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(ctx, &sessionv1.RevokeSubjectSessionsRequest{Subject: "ann", ExceptSessionId: short.Session.SessionId}))

	want := []*sessionv1.SessionEvent{
		{Type: sessionCreated, Namespace: "default", SessionId: id, Subject: "ann"},
		{Type: sessionRevoked, Namespace: "default", SessionId: id, Subject: "ann", Reason: "REVOKED"},
		{Type: sessionCreated, Namespace: "default", SessionId: short.Session.SessionId, Subject: "ann"},
		{Type: sessionRevoked, Namespace: "default", Subject: "ann", Reason: "SUBJECT", ExceptSessionId: short.Session.SessionId},
		{Type: sessionExpiredIdle, Namespace: "default", SessionId: short.Session.SessionId, Subject: "ann"},
	}
	for i := range 2 { // and again, from where the first one began
		last := token
		for n, want := range want {
			got, after := nextEvent(t, stream)
			if got.EventId == "" || time.Since(got.At.AsTime()).Abs() > time.Minute || after == last {
				t.Errorf("event = %v with the token %q, want an id, the present time and a token other than %q", got, after, last)
			}
			got.EventId, got.At, last = "", nil, after
			same(t, want, got)
			if n == 1 && i == 0 {
				// From here on another one tells the rest.
				request.ResumeToken = after
				again, first := a.watchSessions(ctx, t, request)
				if e, _ := nextEvent(t, again); first != after || e.SessionId != short.Session.SessionId {
					t.Errorf("resumed watch begins at %q with %v, want %q and %s", first, e, after, short.Session.SessionId)
				}
			}
		}
		request.ResumeToken = token
		stream, _ = a.watchSessions(ctx, t, request)
	}

	// What is gone is not passed over.
	p := server.Do(t, "KEYS", "ld:e:*")
	for _, key := range p.([]any) {
		server.Do(t, "XTRIM", key.(string), "MAXLEN", "0")
	}
	broken := must[grpc.ServerStreamingClient[sessionv1.WatchSessionEventsResponse]](t)(a.session.WatchSessionEvents(ctx, request))
	var err error
	for err == nil {
		_, err = broken.Recv()
	}
	wantAnswer(t, err, answer{Code: codes.OutOfRange, Reason: "EVENTS_TRIMMED"})

	whole, _ := a.watchSessions(ctx, t, &sessionv1.WatchSessionEventsRequest{})
	a.Shutdown(ctx)
	for err = nil; err == nil; {
		_, err = whole.Recv()
	}
	if got := answerOf(t, err); got.Code != codes.Unavailable || got.Reason != "SERVER_SHUTTING_DOWN" {
		t.Errorf("the watch ended with %v, want UNAVAILABLE, SERVER_SHUTTING_DOWN", err)
	}
}

func TestWatchSessionEventsChecksItsRequest(t *testing.T) {
	t.Parallel()
	a := serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Embedded}}, policy.Limits{})
	_, token := a.watchSessions(t.Context(), t, &sessionv1.WatchSessionEventsRequest{Subject: "ann"})
	for field, r := range map[string]*sessionv1.WatchSessionEventsRequest{
		"namespace":    {Namespace: "-"},
		"subject":      {Subject: "\x00"},
		"types":        {Types: slices.Repeat([]sessionv1.SessionEventType{sessionCreated}, maxEventTypes+1)},
		"types[1]":     {Types: []sessionv1.SessionEventType{sessionCreated, 99}},
		"types[0]":     {Types: []sessionv1.SessionEventType{0}},
		"resume_token": {Subject: "bob", ResumeToken: token},
	} {
		stream := must[grpc.ServerStreamingClient[sessionv1.WatchSessionEventsResponse]](t)(a.session.WatchSessionEvents(t.Context(), r))
		_, err := stream.Recv()
		if got := answerOf(t, err); got.Reason != "INVALID_FIELD" || !strings.HasPrefix(status.Convert(err).Message(), field+": ") {
			t.Errorf("error = %v, want INVALID_FIELD of %s", err, field)
		}
	}
}
