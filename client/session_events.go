package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A SessionEvent says what happened to one session, or to all sessions of a subject. It contains no token and no
// attribute.
type SessionEvent struct {
	// ID is unique, and the same each time the event is reported.
	ID string
	// Type says what happened. Empty means that nothing did and that the event only carries a ResumeToken.
	Type SessionEventType
	// At is when it happened, by the clock of Redis. A session that expired is reported later than that, by up to the
	// server's sweep interval, 10 s unless configured otherwise.
	At time.Time
	// SessionID is the ID of the session. Empty means all sessions of the subject.
	SessionID string
	// ExceptID is the ID of the session that was kept when all others of the subject were revoked. Empty means none.
	ExceptID string
	// Subject is the subject of the session. Empty means that the session was anonymous or that its record was lost.
	Subject string
	// Reason says why a session was revoked ([SessionRevoked]): REVOKED by [Sessions.Revoke], SUBJECT together with the
	// subject's other sessions, LIMIT to make room for a newer one, PROMOTED in favor of the subject's session, TOKEN_REUSE
	// after an old token was presented, or LOST because Redis has lost its record. Empty for other types.
	Reason string
	// Class is the only device class whose sessions of the subject were revoked. Empty means all.
	Class string
	// FromID is the ID of the anonymous session that was promoted to this one ([SessionPromoted]).
	FromID string
	// ToID is the ID of the session that this anonymous one was promoted to ([SessionRevoked] with the reason PROMOTED).
	ToID string
	// TokenID is the ID of the one-time token that the event is about. Empty if several were revoked, and for other types.
	TokenID string
	// Purpose is the purpose of the one-time tokens that the event is about. Empty for events of sessions.
	Purpose string
	// ResumeToken resumes a watch after this event and all earlier ones. Empty means that a later event will have one.
	ResumeToken string
}

// A SessionEventType is a type of [SessionEvent]. A type that only a later server knows is [Unrecognized].
type SessionEventType string

// The types of session events.
const (
	// SessionCreated means that a session was created.
	SessionCreated SessionEventType = "CREATED"
	// SessionRotated means that the token of a session was replaced.
	SessionRotated SessionEventType = "ROTATED"
	// SessionAttributesChanged means that attributes of a session were changed.
	SessionAttributesChanged SessionEventType = "ATTRIBUTES_CHANGED"
	// SessionPromoted means that a session of a subject replaced an anonymous one.
	SessionPromoted SessionEventType = "PROMOTED"
	// SessionReauthenticated means that the subject of a session authenticated again.
	SessionReauthenticated SessionEventType = "REAUTHENTICATED"
	// SessionRevoked means that a session, or all sessions of a subject, were ended by a caller or by Larder before their
	// time.
	SessionRevoked SessionEventType = "REVOKED"
	// SessionExpiredIdle means that a session reached its idle timeout.
	SessionExpiredIdle SessionEventType = "EXPIRED_IDLE"
	// SessionExpiredAbsolute means that a session reached its absolute timeout.
	SessionExpiredAbsolute SessionEventType = "EXPIRED_ABSOLUTE"
	// SessionTokenReuse means that a token was presented long after it had been replaced, as a thief would.
	SessionTokenReuse SessionEventType = "TOKEN_REUSE"
	// TokenIssued means that a one-time token was issued, with the Reason DECOY if it is a decoy. This type and those below are
	// about [Tokens], and are yielded only to watches that ask for them in [WatchEventsOptions].Types.
	TokenIssued SessionEventType = "TOKEN_ISSUED"
	// TokenConsumed means that a one-time token was accepted.
	TokenConsumed SessionEventType = "TOKEN_CONSUMED"
	// TokenFailed means that a wrong secret was presented for a one-time token.
	TokenFailed SessionEventType = "TOKEN_FAILED"
	// TokenLocked means that the failure budget of a subject and purpose was spent.
	TokenLocked SessionEventType = "TOKEN_LOCKED"
	// TokenRevoked means that one-time tokens were revoked.
	TokenRevoked SessionEventType = "TOKEN_REVOKED"
	// TokenSubjectReset means that the failures and the cooldown of a subject and purpose were cleared.
	TokenSubjectReset SessionEventType = "TOKEN_SUBJECT_RESET"
)

// WatchEventsOptions are the options of [Sessions.WatchEvents]. The zero value watches all events from now on.
type WatchEventsOptions struct {
	// Subject is the subject whose sessions are watched. Empty means all subjects.
	Subject string
	// Types are the types of events to yield, at most 16. None means all types that are about sessions.
	Types []SessionEventType
	// ResumeToken is the last non-empty one of an earlier watch of the same namespace and subject whose events have been
	// processed. Empty means to start now.
	ResumeToken string
}

// WatchEvents yields what happens to the sessions of the namespace, in order for each subject. The watch goes on while
// the caller ranges over it and ends with the loop. If a connection, a replica or Redis is lost, the watch resumes where
// it was for as long as ctx lasts, so that no event is missed; an event may then be yielded twice.
//
// The first event has no type: everything that changes after it is reported. An error is yielded last:
// [ErrEventsTrimmed] if events no longer exist, and [ErrUnavailable] only if the watch could not start. Larder keeps an
// event for 24 h and as long as it is among the last 100,000 events of its partition (of 256).
//
// A program that must not miss events while it does not run stores each non-empty ResumeToken after it has processed the
// event and all earlier ones.
func (s *Sessions) WatchEvents(ctx context.Context, o WatchEventsOptions) iter.Seq2[SessionEvent, error] {
	return func(yield func(SessionEvent, error) bool) {
		req := &sessionv1.WatchSessionEventsRequest{Namespace: s.namespace, Subject: o.Subject, ResumeToken: o.ResumeToken}
		for i, t := range o.Types {
			n, err := number[sessionv1.SessionEventType](fmt.Sprintf("types[%d]", i), t, sessionEventPrefix, sessionv1.SessionEventType_value)
			if err != nil {
				yield(SessionEvent{}, err)
				return
			}
			req.Types = append(req.Types, n)
		}
		began := req.GetResumeToken() != ""
		if err := follow(ctx, began, func() (answered, more bool, err error) { return s.watchEvents(ctx, req, yield) }); err != nil {
			yield(SessionEvent{}, err)
		}
	}
}

// watchEvents makes one call and keeps the place to resume from in req. More is false if the caller has left the loop.
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
			continue // a heartbeat
		}
		if !yield(newSessionEvent(r), nil) {
			return answered, false, nil
		}
		if token := r.GetResumeToken(); token != "" {
			req.ResumeToken = token
		}
	}
}

// pause waits. It returns false if ctx ended before.
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

const sessionEventPrefix = "SESSION_EVENT_TYPE_"

func newSessionEvent(r *sessionv1.WatchSessionEventsResponse) SessionEvent {
	m := r.GetEvent()
	if m == nil {
		return SessionEvent{ResumeToken: r.GetResumeToken()}
	}
	e := SessionEvent{
		ID:          m.GetEventId(),
		Type:        SessionEventType(text(m.GetType(), sessionEventPrefix)),
		At:          timeOf(m.GetAt()),
		SessionID:   m.GetSessionId(),
		ExceptID:    m.GetExceptSessionId(),
		Subject:     m.GetSubject(),
		Reason:      m.GetReason(),
		Class:       m.GetClass(),
		FromID:      m.GetFromSessionId(),
		ToID:        m.GetToSessionId(),
		TokenID:     m.GetTokenId(),
		Purpose:     m.GetPurpose(),
		ResumeToken: r.GetResumeToken(),
	}
	if e.Type == "" { // the replica does not know the type either, because a later one has written the event
		e.Type = Unrecognized
	}
	return e
}
