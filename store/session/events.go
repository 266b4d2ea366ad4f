package session

import (
	"slices"
	"time"
)

// Event is something that happened to a session, or to all of a subject. It holds no secrets and no attributes.
type Event struct {
	// ID is unique, and the same whenever the event is told.
	ID string
	// Type is the word of the scripts: created, rotated, attributes_changed, promoted, reauthenticated, revoked, expired_idle,
	// expired_absolute or token_reuse.
	Type string
	// At is when it happened; for an expiry when the session's time was over.
	At time.Time
	// SessionID is empty where all sessions of the subject are meant, but ExceptSessionID.
	SessionID, ExceptSessionID string
	// Subject is empty for an anonymous session.
	Subject string
	// Reason tells more of the type, in a word of the scripts; empty where there is nothing to tell.
	Reason string
	// Details are further fields of the scripts.
	Details map[string]string
}

// EventFilter says which events of a namespace to tell.
type EventFilter struct {
	// Subject is whose; empty means everybody's.
	Subject string
	// Types are of which types; empty means of all.
	Types []string
}

// passes reports whether the filter lets an event of its namespace through.
func (f *EventFilter) passes(e *Event) bool {
	return (f.Subject == "" || e.Subject == f.Subject) && (len(f.Types) == 0 || slices.Contains(f.Types, e.Type))
}
