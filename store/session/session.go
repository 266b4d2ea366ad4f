// Package session keeps sessions in Redis: it creates, validates, updates, rotates, promotes and revokes them, and delivers
// events about them.
package session

import "time"

// The limits of a session's attributes.
const (
	// MaxAttributes is the maximum number of attributes of a session.
	MaxAttributes = 64
	// MaxAttributeBytes is the maximum total length of their names and values.
	MaxAttributeBytes = 64 << 10
)

// Device describes a client in its own words. Class is the kind of device, such as "mobile", by which sessions are limited,
// listed and revoked; empty means none.
type Device struct{ IP, UserAgent, Label, Class string }

// Assurance says how the subject of a session was authenticated.
type Assurance struct {
	// AAL is the authentication assurance level of NIST SP 800-63B-4, 1 to 3; 0 means unknown.
	AAL int
	// AMR are the authentication methods, named as in RFC 8176, without duplicates.
	AMR []string
	// AuthenticatedAt is when the subject last authenticated; zero for an anonymous session.
	AuthenticatedAt time.Time
}

// MaxMethods is the maximum number of authentication methods that a session keeps: the latest ones.
const MaxMethods = 16

// Session is a session that was active when it was read. The near cache shares it: callers must not change it.
type Session struct {
	// ID is the public handle.
	ID string
	// Subject is the user whose session it is; empty for an anonymous session.
	Subject string
	// Attributes are the data of the session. Version counts their changes, from 1.
	Attributes map[string]string
	Version    int64
	// Unreadable means that Attributes are left out because they cannot be decrypted here. Only lists have such sessions.
	Unreadable bool
	// Device describes the client.
	Device Device
	// CreatedAt is when the session was created and LastActiveAt its last recorded activity.
	CreatedAt, LastActiveAt time.Time
	// Idle is the idle timeout.
	Idle time.Duration
	// AbsoluteExpiresAt is when the session expires whatever its activity.
	AbsoluteExpiresAt time.Time
	// Assurance says how the subject was authenticated.
	Assurance Assurance
}

// IdleExpiresAt returns when the idle timeout elapses if there is no further activity.
func (s *Session) IdleExpiresAt() time.Time { return s.LastActiveAt.Add(s.Idle) }

// ExpiresAt returns the earlier of IdleExpiresAt and AbsoluteExpiresAt.
func (s *Session) ExpiresAt() time.Time {
	if idle := s.IdleExpiresAt(); idle.Before(s.AbsoluteExpiresAt) {
		return idle
	}
	return s.AbsoluteExpiresAt
}
