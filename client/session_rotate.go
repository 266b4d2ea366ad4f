package client

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// message returns the assurance for a request, nil for the zero value.
func (a Assurance) message() *sessionv1.Assurance {
	if a.AAL == 0 && len(a.AMR) == 0 && a.AuthenticatedAt.IsZero() {
		return nil
	}
	m := &sessionv1.Assurance{Aal: toInt32(a.AAL), Amr: a.AMR}
	if !a.AuthenticatedAt.IsZero() {
		m.AuthenticatedAt = timestamppb.New(a.AuthenticatedAt)
	}
	return m
}

// Rotate replaces a token and returns the next one to hand to the end user's client, or [ErrInactive].
//
// The previous token stays valid for the server's rotation grace, 30 s unless configured otherwise, and longer until the
// next token is first presented (unless the grace is 0); rotating it again in that time returns the same next token.
// Presented after that, and at least 10 s after the rotation, it ends the session as stolen. Rotate does not count as
// activity.
func (s *Sessions) Rotate(ctx context.Context, token string) (next string, session *Session, err error) {
	r, err := s.rpc.RotateSession(ctx, &sessionv1.RotateSessionRequest{Namespace: s.namespace, SessionToken: token})
	if err != nil {
		return "", nil, err
	}
	return replaced(r.GetOutcome() == sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED, r)
}

// PromoteOptions are the options of [Sessions.Promote].
type PromoteOptions struct {
	// Assurance says how the subject was authenticated. The zero value means by unknown methods, now.
	Assurance Assurance
	// IfSubjectEpoch is what [Sessions.SubjectEpoch] returned before the login was checked. Promote fails with
	// [ErrSubjectEpochChanged], and the session stays anonymous, if the sessions of the subject, or of the device's class,
	// were revoked since then. Nil means that this is not checked.
	IfSubjectEpoch *int64
	// MaxSessions and MaxClassSessions are as in [CreateOptions].
	MaxSessions, MaxClassSessions int
	// OnEvicted is called with the sessions that the server ended to make room, as in [CreateOptions].
	OnEvicted func([]SessionSummary)
}

// Promote turns an anonymous session into a session of subject, as at a login, and returns the token to hand to the end
// user's client. The new session has another ID, and the attributes and the device of the anonymous one, whose token
// stops working at once. Promote returns [ErrInactive], [ErrNotAnonymous],
// [ErrSubjectEpochChanged] or a [*LimitError] if there is no new session.
func (s *Sessions) Promote(ctx context.Context, token, subject string, o PromoteOptions) (next string, session *Session, err error) {
	r, err := s.rpc.PromoteSession(ctx, &sessionv1.PromoteSessionRequest{
		Namespace: s.namespace, SessionToken: token, Subject: subject, Assurance: o.Assurance.message(),
		IfSubjectEpoch: o.IfSubjectEpoch, MaxSessions: toInt32(o.MaxSessions), MaxClassSessions: toInt32(o.MaxClassSessions),
	})
	if err != nil {
		return "", nil, err
	}
	switch r.GetOutcome() {
	case sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_NOT_ANONYMOUS:
		return "", nil, ErrNotAnonymous
	case sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_LIMIT_REACHED:
		return "", nil, &LimitError{Existing: summaries(r.GetExistingSessions())}
	}
	if o.OnEvicted != nil && len(r.GetEvictedSessions()) > 0 {
		o.OnEvicted(summaries(r.GetEvictedSessions()))
	}
	return replaced(r.GetOutcome() == sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED, r)
}

// ReauthenticateOptions describe the new authentication to [Sessions.Reauthenticate].
type ReauthenticateOptions struct {
	// AAL is the authentication assurance level that was reached, 1 to 3. Zero means unknown. A session keeps its highest.
	AAL int
	// AMR are the authentication methods, named as in RFC 8176: 1 to 16. They are added to those of the session, which
	// keeps the last 16.
	AMR []string
	// ResetTimeouts restarts both the idle and the absolute timeout, as NIST SP 800-63B-4 section 5.2 allows after a full
	// reauthentication.
	ResetTimeouts bool
}

// Reauthenticate records that the subject of a session has just authenticated again, and returns the token to hand to
// the end user's client; the old token stops working at once. It returns [ErrInactive] or [ErrAnonymous] if nothing was
// recorded. Reauthenticate is never retried: if its answer is lost, the user has to log in again.
func (s *Sessions) Reauthenticate(ctx context.Context, token string, o ReauthenticateOptions) (next string, session *Session, err error) {
	r, err := s.rpc.ReauthenticateSession(ctx, &sessionv1.ReauthenticateSessionRequest{
		Namespace: s.namespace, SessionToken: token, Aal: toInt32(o.AAL), Amr: o.AMR, ResetTimeouts: o.ResetTimeouts,
	})
	if err != nil {
		return "", nil, err
	}
	if r.GetOutcome() == sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_ANONYMOUS {
		return "", nil, ErrAnonymous
	}
	return replaced(r.GetOutcome() == sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED, r)
}

// replaced returns the token and the session of an answer only if its outcome says that it has both, and it has both.
func replaced(ok bool, m interface {
	GetSessionToken() string
	GetSession() *sessionv1.Session
},
) (string, *Session, error) {
	session, err := active(ok && m.GetSessionToken() != "", m.GetSession())
	if err != nil {
		return "", nil, err
	}
	return m.GetSessionToken(), session, nil
}
