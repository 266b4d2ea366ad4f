package client

import (
	"context"
	"errors"
	"iter"
	"time"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A SessionEvent is something that happened to a session, or to all of a subject. It holds no token and no attribute.
type SessionEvent struct {
	// ID is unique, and the same whenever the event is told.
	ID string
	// Type says what happened; empty means nothing, and that the event is there for its ResumeToken.
	Type SessionEventType
	// At is when it happened; for an expiry when the session's time was over.
	At time.Time
	// SessionID is the session's public handle; empty where all of the subject are meant, but ExceptID.
	SessionID, ExceptID string
	// Subject is whose session it is; empty means an anonymous one.
	Subject string
	// Reason tells more of SessionRevoked: REVOKED, SUBJECT, LIMIT, PROMOTED, TOKEN_REUSE or LOST.
	Reason string
	// Class is the only class of which the subject's sessions were revoked; empty means all.
	Class string
	// FromID is the anonymous session that was promoted to this one, ToID the one that this was promoted to.
	FromID, ToID string
	// ResumeToken resumes a watch after this event and all before it; empty means that a later one will tell.
	ResumeToken string
}

// A SessionEventType is a type of event. It is the name of the protocol's enum value without its prefix.
type SessionEventType string

// The types of events.
const (
	// SessionCreated means that a session was created.
	SessionCreated SessionEventType = "CREATED"
	// SessionRotated means that a session has a new token.
	SessionRotated SessionEventType = "ROTATED"
	// SessionAttributesChanged means that attributes were changed.
	SessionAttributesChanged SessionEventType = "ATTRIBUTES_CHANGED"
	// SessionPromoted means that a session of a subject took the place of an anonymous one.
	SessionPromoted SessionEventType = "PROMOTED"
	// SessionReauthenticated means that the subject has authenticated again.
	SessionReauthenticated SessionEventType = "REAUTHENTICATED"
	// SessionRevoked means that a session was ended by authority, or all of a subject.
	SessionRevoked SessionEventType = "REVOKED"
	// SessionExpiredIdle means that a session ended by its idle timeout.
	SessionExpiredIdle SessionEventType = "EXPIRED_IDLE"
	// SessionExpiredAbsolute means that a session ended by its absolute timeout.
	SessionExpiredAbsolute SessionEventType = "EXPIRED_ABSOLUTE"
	// SessionTokenReuse means that a token was presented which had long been replaced.
	SessionTokenReuse SessionEventType = "TOKEN_REUSE"
)

// WatchSessionsOptions say which events to tell. The zero value means all from now on.
type WatchSessionsOptions struct {
	// Subject is whose; empty means everybody's.
	Subject string
	// Types are of which types; none means all.
	Types []SessionEventType
	// ResumeToken is the last that an earlier watch of the same namespace and subject has told and whose events are done
	// with; empty means to begin now.
	ResumeToken string
}

// WatchEvents tells what happens to the sessions of the namespace, in order for each subject, while the caller ranges over
// it. When a connection or Larder's Redis is lost it goes on where it was for as long as ctx allows, so that nothing is
// missed; an event may then come twice. The first event has no type: what is changed from then on is told. An error comes
// last: ErrEventsTrimmed where some events are gone, ErrUnavailable only where the watch could not begin.
//
// A program that must not miss what happens while it is away stores each ResumeToken that is not empty, when it has done
// with the event and those before it.
func (s *Sessions) WatchEvents(ctx context.Context, o WatchSessionsOptions) iter.Seq2[SessionEvent, error] {
	return func(yield func(SessionEvent, error) bool) {
		req := &sessionv1.WatchSessionEventsRequest{Namespace: s.namespace, Subject: o.Subject, ResumeToken: o.ResumeToken}
		for _, t := range o.Types {
			req.Types = append(req.Types, sessionv1.SessionEventType(sessionv1.SessionEventType_value["SESSION_EVENT_TYPE_"+string(t)]))
		}
		began := req.GetResumeToken() != ""
		for failures := 0; ; failures++ {
			answered, more, err := s.watchEvents(ctx, req, yield)
			if !more {
				return
			}
			if answered {
				began, failures = true, 0
			}
			e := newError(err)
			if wait, ok := (&policy{failures: failures}).delay(e.RetryAfter); !ok || !began || !errors.Is(e, ErrUnavailable) || !pause(ctx, wait) {
				if ctx.Err() != nil {
					e = newError(contextStatus(ctx))
				}
				yield(SessionEvent{}, e)
				return
			}
		}
	}
}

// watchEvents makes one call and keeps the place to go on from in req. More is false once the caller has seen enough.
func (s *Sessions) watchEvents(ctx context.Context, req *sessionv1.WatchSessionEventsRequest, yield func(SessionEvent, error) bool) (answered, more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.rpc.WatchSessionEvents(ctx, req)
	if err != nil {
		return false, true, err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return answered, true, err
		}
		answered = true
		if r.GetEvent() == nil && r.GetResumeToken() == req.GetResumeToken() {
			continue // a sign of life
		}
		if !yield(newSessionEvent(r), nil) {
			return answered, false, nil
		}
		if token := r.GetResumeToken(); token != "" {
			req.ResumeToken = token
		}
	}
}

// pause waits, or returns false because ctx ended.
func pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func newSessionEvent(r *sessionv1.WatchSessionEventsResponse) SessionEvent {
	e := SessionEvent{ResumeToken: r.GetResumeToken()}
	if m := r.GetEvent(); m != nil {
		e.ID, e.Type, e.At = m.GetEventId(), SessionEventType(name(m.GetType(), "SESSION_EVENT_TYPE_")), at(m.GetAt())
		e.SessionID, e.ExceptID, e.Subject = m.GetSessionId(), m.GetExceptSessionId(), m.GetSubject()
		e.Reason, e.Class, e.FromID, e.ToID = m.GetReason(), m.GetClass(), m.GetFromSessionId(), m.GetToSessionId()
	}
	return e
}
