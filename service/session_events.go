package service

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

// WatchSessionEvents tells what happens to sessions.
func (s *Session) WatchSessionEvents(r *sessionv1.WatchSessionEventsRequest, stream grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	filter := f.eventFilter(ns, r)
	if err := f.err(); err != nil {
		return err
	}
	return s.store.Sessions.Watch(stream.Context(), ns, filter, r.GetResumeToken(), heartbeat, func(e *session.Event, token string) error {
		resp := &sessionv1.WatchSessionEventsResponse{ResumeToken: token}
		if e != nil {
			resp.Event = eventView(ns, e)
		}
		return stream.Send(resp)
	})
}

// eventTypePrefix begins the names of the values of SessionEventType; the rest is the store's word.
const eventTypePrefix = "SESSION_EVENT_TYPE_"

// eventWord is the store's word for a type of event.
func eventWord(t sessionv1.SessionEventType) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), eventTypePrefix))
}

// eventView is an event as answers show it: of the details only what is known to be meant for callers.
func eventView(namespace string, e *session.Event) *sessionv1.SessionEvent {
	return &sessionv1.SessionEvent{
		EventId: e.ID, Type: sessionv1.SessionEventType(sessionv1.SessionEventType_value[eventTypePrefix+strings.ToUpper(e.Type)]),
		At: timestamppb.New(e.At), Namespace: namespace, SessionId: e.SessionID, Subject: e.Subject,
		Reason: strings.ToUpper(e.Reason), ExceptSessionId: e.ExceptSessionID,
		Class: e.Details["class"], FromSessionId: e.Details["from"], ToSessionId: e.Details["to"],
	}
}
