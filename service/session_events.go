package service

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

// WatchSessionEvents streams the events of sessions.
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

// eventTypePrefix is the prefix of the value names of SessionEventType; the rest, in lower case, is the store's type.
const eventTypePrefix = "SESSION_EVENT_TYPE_"

// eventWord returns the store's type of an event.
func eventWord(t sessionv1.SessionEventType) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), eventTypePrefix))
}

// eventView returns an event as it appears in responses. It copies single details, so that one the store adds later is not
// shown by accident.
func eventView(namespace string, e *session.Event) *sessionv1.SessionEvent {
	return &sessionv1.SessionEvent{
		EventId: e.ID, Type: sessionv1.SessionEventType(sessionv1.SessionEventType_value[eventTypePrefix+strings.ToUpper(e.Type)]),
		At: timestamppb.New(e.At), Namespace: namespace, SessionId: e.SessionID, Subject: e.Subject,
		Reason: strings.ToUpper(e.Reason), ExceptSessionId: e.ExceptSessionID,
		Class: e.Details["class"], FromSessionId: e.Details["from"], ToSessionId: e.Details["to"],
		TokenId: e.Details["token"], Purpose: e.Details["purpose"],
	}
}
