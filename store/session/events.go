package session

import (
	"slices"
	"time"
)

// Event is a change of one session, of all sessions of a subject, or of a one-time token. It holds no secrets and no attributes.
type Event struct {
	// ID is unique. An event that is delivered again has the same ID.
	ID string
	// Type is one of created, rotated, attributes_changed, promoted, reauthenticated, revoked, expired_idle,
	// expired_absolute and token_reuse, or one of those of one-time tokens, as the scripts write it.
	Type string
	// At is when the change happened. For an expiry it is when the timeout elapsed, not when the sweeper noticed.
	At time.Time
	// SessionID is empty if the event is about all sessions of the subject except ExceptSessionID.
	SessionID, ExceptSessionID string
	// Subject is empty for an anonymous session.
	Subject string
	// Reason says why a session was revoked, as the scripts write it; empty for other types.
	Reason string
	// Details are the other fields that the scripts write, by name.
	Details map[string]string
}

// EventFilter selects events of a namespace.
type EventFilter struct {
	// Subject is the subject whose events pass; empty means all subjects.
	Subject string
	// Types are the types that pass; empty means all types that are about sessions, and not about one-time tokens.
	Types []string
}

// tokenTypes are the types of the events that package token writes into the streams. A watch that asks for no types was made
// for events of sessions, and might take one without a session for the end of all of them.
var tokenTypes = []string{
	"token_issued", "token_consumed", "token_failed", "token_locked", "token_revoked", "token_subject_reset",
}

// passes reports whether the filter selects an event of its namespace.
func (f *EventFilter) passes(e *Event) bool {
	if len(f.Types) == 0 && slices.Contains(tokenTypes, e.Type) {
		return false
	}
	return (f.Subject == "" || e.Subject == f.Subject) && (len(f.Types) == 0 || slices.Contains(f.Types, e.Type))
}
