// Package session keeps sessions in Redis: creation, validation, rotation, revocation, and the events of all that.
package session

import "time"

// The limits of a session's attributes.
const (
	// MaxAttributes is how many attributes a session may have.
	MaxAttributes = 64
	// MaxAttributeBytes is how long their names and values may be together.
	MaxAttributeBytes = 64 << 10
)

// Device is what a client said of itself. Class is the kind of device, such as "mobile", by which sessions can be limited
// and revoked.
type Device struct{ IP, UserAgent, Label, Class string }

// Assurance says how well it is known that a session's subject is who it says.
type Assurance struct {
	// AAL is the authentication assurance level of NIST SP 800-63B-4, 1 to 3; 0 means unknown.
	AAL int
	// AMR are methods of authentication by the names of RFC 8176, each once.
	AMR []string
	// AuthenticatedAt is when the subject last proved who it is; zero for an anonymous session.
	AuthenticatedAt time.Time
}

// MaxMethods is how many methods of authentication a session keeps: those that came last.
const MaxMethods = 16

// Session is a session that was active when it was read. It is shared with the near cache and must not be changed.
type Session struct {
	// ID is the public handle.
	ID string
	// Subject is whose session it is; empty means an anonymous one.
	Subject string
	// Attributes are its data; Version counts their changes.
	Attributes map[string]string
	Version    int64
	// Device is what the client said of itself.
	Device Device
	// CreatedAt is when it was created, LastActiveAt when it was last active as far as that is recorded.
	CreatedAt, LastActiveAt time.Time
	// Idle is its idle timeout.
	Idle time.Duration
	// AbsoluteExpiresAt is when it ends whatever its activity.
	AbsoluteExpiresAt time.Time
	// Assurance says how its subject was authenticated.
	Assurance Assurance
}

// IdleExpiresAt is when the session ends without further activity.
func (s *Session) IdleExpiresAt() time.Time { return s.LastActiveAt.Add(s.Idle) }

// ExpiresAt is when the session ends by time.
func (s *Session) ExpiresAt() time.Time {
	if idle := s.IdleExpiresAt(); idle.Before(s.AbsoluteExpiresAt) {
		return idle
	}
	return s.AbsoluteExpiresAt
}
