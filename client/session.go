package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// Sessions creates, validates and ends the sessions of one namespace. A session records who is logged in, from which
// device, with which attributes and until when. It has a token, the secret that the end user's client presents, and an
// ID, the public handle for lists, logs and revocation.
//
// Whether a session is active is told by the errors [ErrInactive], [ErrStepUpRequired] and [ErrReauthRequired]. Every
// other error is an [*Error] unless a method says otherwise.
//
// Sessions is safe for concurrent use. [Client] holds that of [Options].Namespace.
type Sessions struct {
	rpc       sessionv1.SessionServiceClient
	namespace string
}

// In returns the Sessions of another namespace, over the same connections. Empty means "default". The server checks the
// name as for [Cache.In].
func (s *Sessions) In(namespace string) *Sessions { return &Sessions{rpc: s.rpc, namespace: namespace} }

// A Session is an active session. It never contains the token.
type Session struct {
	// ID is the public handle, which is safe to log and to show.
	ID string
	// Subject is the user or other principal that the session belongs to. Empty means that the session is anonymous.
	Subject string
	// Attributes are the session's data.
	Attributes map[string]string
	// Version counts the changes of Attributes, starting at 1.
	Version int64
	// Device is what the end user's client said about itself when the session was created.
	Device Device
	// CreatedAt is when the session was created.
	CreatedAt time.Time
	// LastActiveAt is when the session was last active. It is recorded at most once per touch interval (5 % of the idle
	// timeout, between 1 s and 60 s) and may be that much too early.
	LastActiveAt time.Time
	// IdleExpiresAt is when the session ends if there is no further activity.
	IdleExpiresAt time.Time
	// AbsoluteExpiresAt is when the session ends regardless of activity.
	AbsoluteExpiresAt time.Time
	// ExpiresAt is the earlier of IdleExpiresAt and AbsoluteExpiresAt.
	ExpiresAt time.Time
	// Current is true for the caller's own session in a list, as named by [ListSubjectOptions].
	Current bool
	// AttributesUnreadable is true if the session has attributes that the server cannot decrypt, which are left out. Only
	// [Sessions.ListSubject] returns such sessions.
	AttributesUnreadable bool
	// Assurance says how the subject was authenticated.
	Assurance Assurance
	// CacheFor is how long the caller may rely on this validation without repeating it; a revocation in that time goes
	// unnoticed. Zero means not at all. Only [Sessions.Validate] and [Sessions.BatchValidate] set it.
	CacheFor time.Duration
}

// Assurance says how the subject of a session was authenticated.
type Assurance struct {
	// AAL is the authentication assurance level of NIST SP 800-63B-4, 1 to 3. Zero means unknown.
	AAL int
	// AMR are the authentication methods, named as in RFC 8176 ("pwd", "otp", "hwk"): at most 16, of 1 to 32 characters
	// of a-z, 0-9, dot, underscore and dash.
	AMR []string
	// AuthenticatedAt is when the subject last authenticated, in whole milliseconds. In options it must not be in the
	// future, and the zero time means now. In a [Session] the zero time means that the session is anonymous.
	AuthenticatedAt time.Time
}

// A Device is what an end user's client said about itself when its session was created. Empty fields mean unknown.
type Device struct {
	// IP is the address of the client, at most 64 bytes.
	IP string
	// UserAgent is the User-Agent of the client, at most 512 bytes.
	UserAgent string
	// Label is a name to show to people, such as "Ann's phone", at most 128 bytes.
	Label string
	// Class is the kind of device, such as "mobile", by which sessions can be limited, listed and revoked: at most 32
	// characters of a-z, 0-9, underscore and dash. A subject should have few different classes.
	Class string
}

// CreateOptions are the options of [Sessions.Create]. The zero value has no attributes and the server's timeouts.
type CreateOptions struct {
	// Attributes are the session's data: at most 64, with names of 1 to 128 bytes, and 64 KiB in total.
	Attributes map[string]string
	// IdleTimeout ends the session after this time without activity, at least 1 s. Zero means the server's idle timeout,
	// 30 min unless configured otherwise, which IdleTimeout can only shorten.
	IdleTimeout time.Duration
	// AbsoluteTimeout ends the session this long after its creation, at least 1 s. Zero means the server's absolute
	// timeout, 12 h unless configured otherwise, which AbsoluteTimeout can only shorten.
	AbsoluteTimeout time.Duration
	// Device is what the end user's client said about itself.
	Device Device
	// Assurance says how the subject was authenticated. It must be zero for an anonymous session.
	Assurance Assurance
	// IfSubjectEpoch is what [Sessions.SubjectEpoch] returned before the login was checked. Create fails with
	// [ErrSubjectEpochChanged] if the sessions of the subject, or of the device's class, were revoked since then. Nil means
	// that this is not checked; it must be nil for an anonymous session.
	IfSubjectEpoch *int64
	// MaxSessions is the maximum number of concurrent sessions of the subject, this one included, and MaxClassSessions the
	// maximum number of those with the device's class. Zero means the server's limit, which they can only lower.
	MaxSessions, MaxClassSessions int
	// OnEvicted is called with the sessions that the server ended to make room, at most 200 of them, before Create
	// returns. It is not called if there were none. Nil means that the caller does not want to know.
	OnEvicted func([]SessionSummary)
}

// Create starts a session of a subject, 1 to 256 bytes, or an anonymous session if subject is empty. The token is the
// secret to hand to the end user's client; Larder does not store it and cannot return it again.
//
// If the subject has as many sessions as it may, the server either ends others to make room or refuses with a
// [*LimitError], as it is configured. Create is never retried: after [ErrUnavailable] or [ErrOutcomeUnknown] a session
// may exist whose token nobody has, and which ends by its idle timeout.
func (s *Sessions) Create(ctx context.Context, subject string, o CreateOptions) (token string, session *Session, err error) {
	req := &sessionv1.CreateSessionRequest{
		Namespace:        s.namespace,
		Subject:          subject,
		Attributes:       o.Attributes,
		IdleTimeout:      duration(o.IdleTimeout),
		AbsoluteTimeout:  duration(o.AbsoluteTimeout),
		Assurance:        o.Assurance.message(),
		IfSubjectEpoch:   o.IfSubjectEpoch,
		MaxSessions:      toInt32(o.MaxSessions),
		MaxClassSessions: toInt32(o.MaxClassSessions),
	}
	if o.Device != (Device{}) {
		req.Device = &sessionv1.Device{Ip: o.Device.IP, UserAgent: o.Device.UserAgent, Label: o.Device.Label, Class: o.Device.Class}
	}
	r, err := s.rpc.CreateSession(ctx, req)
	if err != nil {
		return "", nil, err
	}
	if r.GetOutcome() != sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED {
		return "", nil, &LimitError{Existing: summaries(r.GetExistingSessions())}
	}
	if len(r.GetEvictedSessions()) > 0 && o.OnEvicted != nil {
		o.OnEvicted(summaries(r.GetEvictedSessions()))
	}
	return r.GetSessionToken(), newSession(r.GetSession()), nil
}

// Get returns the active session with an ID, or [ErrInactive]. It reads from the Redis primary and does not count as
// activity.
func (s *Sessions) Get(ctx context.Context, id string) (*Session, error) {
	r, err := s.rpc.GetSession(ctx, &sessionv1.GetSessionRequest{Namespace: s.namespace, SessionId: id})
	if err != nil {
		return nil, err
	}
	return active(r.GetOutcome() == sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE, r.GetSession())
}

// A SessionTarget names the session that a call is about. [ByID] and [ByToken] return one; the zero value names none.
type SessionTarget struct{ id, token string }

// ByID names the session with an ID.
func ByID(id string) SessionTarget { return SessionTarget{id: id} }

// ByToken names the session with a token.
func ByToken(token string) SessionTarget { return SessionTarget{token: token} }

// String returns the ID, or "(by token)" so that the token is never shown.
func (t SessionTarget) String() string {
	if t.token != "" {
		return "(by token)"
	}
	return t.id
}

// GoString returns the same as String, so that no format verb shows the token.
func (t SessionTarget) GoString() string { return t.String() }

// Revoke ends a session and reports whether it was active until then. Revoking an inactive session is not an error. Once
// Revoke has returned, no validation with [ValidateOptions].Primary succeeds anywhere; other replicas' near caches follow
// within milliseconds.
func (s *Sessions) Revoke(ctx context.Context, target SessionTarget) (revoked bool, err error) {
	req := &sessionv1.RevokeSessionRequest{Namespace: s.namespace}
	switch {
	case target.token != "":
		req.Target = &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: target.token}
	case target.id != "":
		req.Target = &sessionv1.RevokeSessionRequest_SessionId{SessionId: target.id}
	}
	r, err := s.rpc.RevokeSession(ctx, req)
	return r.GetOutcome() == sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED, err
}

// active returns the session of an answer only if both its outcome and its data say that the session is active.
func active(ok bool, m *sessionv1.Session) (*Session, error) {
	if !ok || m == nil {
		return nil, ErrInactive
	}
	return newSession(m), nil
}

func newSession(m *sessionv1.Session) *Session {
	return &Session{
		ID:                m.GetSessionId(),
		Subject:           m.GetSubject(),
		Attributes:        m.GetAttributes(),
		Version:           m.GetVersion(),
		Device:            newDevice(m.GetDevice()),
		CreatedAt:         timeOf(m.GetCreatedAt()),
		LastActiveAt:      timeOf(m.GetLastActiveAt()),
		IdleExpiresAt:     timeOf(m.GetIdleExpiresAt()),
		AbsoluteExpiresAt: timeOf(m.GetAbsoluteExpiresAt()),
		ExpiresAt:         timeOf(m.GetExpiresAt()),
		Current:           m.GetCurrent(),

		AttributesUnreadable: m.GetAttributesUnreadable(),
		Assurance: Assurance{
			AAL: int(m.GetAssurance().GetAal()), AMR: m.GetAssurance().GetAmr(), AuthenticatedAt: timeOf(m.GetAssurance().GetAuthenticatedAt()),
		},
	}
}

// timeOf returns the zero time, and not 1970, for an absent timestamp.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
