package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// Sessions keeps who is logged in, from which device, with which attributes, until when. A session has a token, the
// secret that its client presents, and an ID, the public handle for lists, logs and revocation.
type Sessions struct {
	rpc       sessionv1.SessionServiceClient
	namespace string
}

// In returns the sessions of another namespace, over the same connections.
func (s *Sessions) In(namespace string) *Sessions { return &Sessions{rpc: s.rpc, namespace: namespace} }

// A Session is an active session. It never holds the token.
type Session struct {
	// ID is the public handle, safe to log and to show.
	ID string
	// Subject is whose session it is; empty means an anonymous one.
	Subject string
	// Attributes are the session's data.
	Attributes map[string]string
	// Version counts the changes of Attributes, from 1.
	Version int64
	// Device is what the client said of itself.
	Device Device
	// CreatedAt is when the session was created.
	CreatedAt time.Time
	// LastActiveAt is when the session was last active, up to a minute before its last validation.
	LastActiveAt time.Time
	// IdleExpiresAt is when the session ends without further activity.
	IdleExpiresAt time.Time
	// AbsoluteExpiresAt is when the session ends whatever its activity.
	AbsoluteExpiresAt time.Time
	// ExpiresAt is the earlier of IdleExpiresAt and AbsoluteExpiresAt.
	ExpiresAt time.Time
	// Current marks, in a list, the session that the caller named as its own.
	Current bool
	// Assurance says how the subject was authenticated.
	Assurance Assurance
	// CacheFor is for how long after a validation it may be believed without asking again; zero means not at all.
	CacheFor time.Duration
}

// Assurance says how well it is known that a session's subject is who it says.
type Assurance struct {
	// AAL is the authentication assurance level of NIST SP 800-63B-4, 1 to 3. Zero means unknown.
	AAL int
	// AMR are the methods of authentication, named as in RFC 8176, at most 16.
	AMR []string
	// AuthenticatedAt is when the subject last authenticated. In options zero means now; in a Session it means that it is
	// anonymous.
	AuthenticatedAt time.Time
}

// A Device is what a client said of itself when its session was created.
type Device struct {
	// IP is the client's address, at most 64 bytes.
	IP string
	// UserAgent is the client's own name, at most 512 bytes.
	UserAgent string
	// Label is a name for people, such as "Ann's phone", at most 128 bytes.
	Label string
	// Class is the kind of device, such as "mobile", by which sessions are limited, listed and revoked: at most 32
	// characters of a-z, 0-9, underscore and dash, out of few for one subject.
	Class string
}

// CreateOptions say what a session begins with. The zero value has no data and the server's timeouts.
type CreateOptions struct {
	// Attributes are the session's data: at most 64, names of 1 to 128 bytes, 64 KiB together.
	Attributes map[string]string
	// IdleTimeout ends the session after so long without activity, at least 1 s. It may only shorten the server's.
	IdleTimeout time.Duration
	// AbsoluteTimeout ends the session so long after its creation, at least 1 s. It may only shorten the server's.
	AbsoluteTimeout time.Duration
	// Device is what the client said of itself.
	Device Device
	// Assurance says how the subject was authenticated. It must be left out of an anonymous session.
	Assurance Assurance
	// IfSubjectEpoch, unless nil, is what SubjectEpoch returned before: if the subject's sessions, or those of the device's
	// class, have been revoked since, Create fails with ErrSubjectEpochChanged.
	IfSubjectEpoch *int64
	// MaxSessions is how many sessions the subject may have with this one, MaxClassSessions how many of them with the
	// device's class. Zero means the server's limit, which they may only lower.
	MaxSessions, MaxClassSessions int32
	// OnEvicted, unless nil, is told of the sessions that were ended to make room, at most 200 of them.
	OnEvicted func([]SessionSummary)
}

// Create starts a session of a subject, or an anonymous one if subject is empty. The token is the secret to hand to the
// client; it cannot be had again. Where the subject has as many sessions as it may, the server ends others to make room,
// or Create fails with a *LimitError, as the server is configured. Create is never retried.
func (s *Sessions) Create(ctx context.Context, subject string, o CreateOptions) (token string, session *Session, err error) {
	req := &sessionv1.CreateSessionRequest{
		Namespace:       s.namespace,
		Subject:         subject,
		Attributes:      o.Attributes,
		IdleTimeout:     duration(o.IdleTimeout),
		AbsoluteTimeout: duration(o.AbsoluteTimeout),
		Assurance:       o.Assurance.message(),

		IfSubjectEpoch: o.IfSubjectEpoch, MaxSessions: o.MaxSessions, MaxClassSessions: o.MaxClassSessions,
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

// A Touch says whether a validation counts as activity.
type Touch = sessionv1.Touch

// The ways to touch. The zero value is TouchAuto.
const (
	// TouchAuto slides the idle timeout, at most once per touch interval, after the answer has been given.
	TouchAuto = sessionv1.Touch_TOUCH_AUTO
	// TouchNever leaves the idle timeout alone, for polling.
	TouchNever = sessionv1.Touch_TOUCH_NEVER
	// TouchForce slides the idle timeout before the answer is given.
	TouchForce = sessionv1.Touch_TOUCH_FORCE
)

// ValidateOptions say how to check a token.
type ValidateOptions struct {
	// Touch says whether this counts as activity.
	Touch Touch
	// Primary asks the Redis primary, so that a revocation which has returned is always seen.
	Primary bool
	// MinAAL is the least level of assurance, 1 to 3. Zero means any.
	MinAAL int
	// MaxAuthAge is how long ago the subject may have authenticated. Zero means any time.
	MaxAuthAge time.Duration
}

// require is what the options require, nil for nothing.
func (o ValidateOptions) require() *sessionv1.Requirement {
	if o.MinAAL == 0 && o.MaxAuthAge == 0 {
		return nil
	}
	return &sessionv1.Requirement{MinAal: int32(o.MinAAL), MaxAuthAge: duration(o.MaxAuthAge)} //nolint:gosec // the server refuses what is not 0 to 3
}

// consistency is how fresh the options want a verdict.
func (o ValidateOptions) consistency() sessionv1.Consistency {
	if o.Primary {
		return sessionv1.Consistency_CONSISTENCY_PRIMARY
	}
	return sessionv1.Consistency_CONSISTENCY_UNSPECIFIED
}

// Validate returns the active session of a token, or ErrInactive, ErrStepUpRequired or ErrReauthRequired. It never returns a session and an error, so that a
// caller who overlooks the error has no session either. By default the replica's near cache answers: it reflects every
// change made through the same replica, others within milliseconds.
func (s *Sessions) Validate(ctx context.Context, token string, o ValidateOptions) (*Session, error) {
	r, err := s.rpc.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{
		Namespace: s.namespace, SessionToken: token, Touch: o.Touch, Consistency: o.consistency(), Require: o.require(),
	})
	if err != nil {
		return nil, err
	}
	return verdict(sessionv1.BatchValidateSessionsOutcome(r.GetOutcome()), r)
}

// Get returns the active session of an ID, or ErrInactive, without counting as activity.
func (s *Sessions) Get(ctx context.Context, id string) (*Session, error) {
	r, err := s.rpc.GetSession(ctx, &sessionv1.GetSessionRequest{Namespace: s.namespace, SessionId: id})
	if err != nil {
		return nil, err
	}
	return active(r.GetOutcome() == sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE, r.GetSession())
}

// A Target is the session that a call is about. Make one with ByID or ByToken; the zero value is invalid.
type Target struct{ id, token string }

// ByID is the session with a public handle.
func ByID(id string) Target { return Target{id: id} }

// ByToken is the session with a secret.
func ByToken(token string) Target { return Target{token: token} }

// String returns the public handle, and never the secret.
func (t Target) String() string {
	if t.token != "" {
		return "(by token)"
	}
	return t.id
}

// GoString returns the same as String, so that no format shows the secret.
func (t Target) GoString() string { return t.String() }

// Revoke ends a session and reports whether it was active; that it was not is no error, since it is ended either way.
// When Revoke has returned, no validation with Primary succeeds anywhere.
func (s *Sessions) Revoke(ctx context.Context, target Target) (revoked bool, err error) {
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

// active is the session of an answer, only if both the outcome and the data say that there is one.
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
		CreatedAt:         at(m.GetCreatedAt()),
		LastActiveAt:      at(m.GetLastActiveAt()),
		IdleExpiresAt:     at(m.GetIdleExpiresAt()),
		AbsoluteExpiresAt: at(m.GetAbsoluteExpiresAt()),
		ExpiresAt:         at(m.GetExpiresAt()),
		Current:           m.GetCurrent(),
		Assurance: Assurance{
			AAL: int(m.GetAssurance().GetAal()), AMR: m.GetAssurance().GetAmr(), AuthenticatedAt: at(m.GetAssurance().GetAuthenticatedAt()),
		},
	}
}

// at is the time of a timestamp; the zero time, and not 1970, when there is none.
func at(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
