package client

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A Validation is one token of a batch.
type Validation struct {
	// Token is what the client presented.
	Token string
	// Options say how to check it.
	Options ValidateOptions
}

// A Verdict is what a batch says of one token: a Session, or an Err, which is one of those of Validate, ErrUnprocessed, or
// an *Error if there is no verdict.
type Verdict struct {
	Session *Session
	Err     error
}

// ValidateAll checks up to 100 tokens, each as Validate does, in one call, and returns a verdict for each in the order of
// tokens.
func (s *Sessions) ValidateAll(ctx context.Context, tokens []Validation) ([]Verdict, error) {
	req := &sessionv1.BatchValidateSessionsRequest{Namespace: s.namespace}
	for _, v := range tokens {
		req.Items = append(req.Items, &sessionv1.BatchValidateSessionsItem{
			SessionToken: v.Token, Touch: v.Options.Touch, Consistency: v.Options.consistency(), Require: v.Options.require(),
		})
	}
	r, err := s.rpc.BatchValidateSessions(ctx, req)
	if err != nil {
		return nil, err
	}
	verdicts := make([]Verdict, len(r.GetResults()))
	for i, result := range r.GetResults() {
		if result.GetOutcome() == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_FAILED {
			if verdicts[i].Err = itemError(result.GetReason()); verdicts[i].Err == nil {
				verdicts[i].Err = ErrInactive
			}
			continue
		}
		verdicts[i].Session, verdicts[i].Err = verdict(result.GetOutcome(), result)
	}
	return verdicts, nil
}

// verdict is the session of an answer, only if both the outcome and the data say that there is one. The outcomes of a single
// call and of a batch are numbered alike.
func verdict(o sessionv1.BatchValidateSessionsOutcome, m interface {
	GetSession() *sessionv1.Session
	GetCacheFor() *durationpb.Duration
},
) (*Session, error) {
	switch o {
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_STEP_UP_REQUIRED:
		return nil, ErrStepUpRequired
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_REAUTH_REQUIRED:
		return nil, ErrReauthRequired
	case sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_UNPROCESSED:
		return nil, ErrUnprocessed
	}
	session, err := active(o == sessionv1.BatchValidateSessionsOutcome_BATCH_VALIDATE_SESSIONS_OUTCOME_ACTIVE, m.GetSession())
	if session != nil {
		session.CacheFor = m.GetCacheFor().AsDuration()
	}
	return session, err
}

// message is the assurance in a request, nil for none.
func (a Assurance) message() *sessionv1.Assurance {
	if a.AAL == 0 && len(a.AMR) == 0 && a.AuthenticatedAt.IsZero() {
		return nil
	}
	m := &sessionv1.Assurance{Aal: int32(a.AAL), Amr: a.AMR} //nolint:gosec // the server refuses what is not 0 to 3
	if !a.AuthenticatedAt.IsZero() {
		m.AuthenticatedAt = timestamppb.New(a.AuthenticatedAt)
	}
	return m
}

// Rotate supersedes a token and returns the one to hand to the client in its place, or ErrInactive. For the server's
// rotation grace, and until the new one is first presented, the old one stays good and rotating it again returns the same;
// presented later it ends the session.
func (s *Sessions) Rotate(ctx context.Context, token string) (next string, session *Session, err error) {
	r, err := s.rpc.RotateSession(ctx, &sessionv1.RotateSessionRequest{Namespace: s.namespace, SessionToken: token})
	if err != nil {
		return "", nil, err
	}
	return replaced(r.GetOutcome() == sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED, r)
}

// PromoteOptions are what a promotion may be told beside the subject.
type PromoteOptions struct {
	// Assurance says how the subject was authenticated.
	Assurance Assurance
	// OnEvicted, unless nil, is told of the sessions that were ended to make room, at most 200 of them.
	OnEvicted func([]SessionSummary)
}

// Promote makes a session of subject of the anonymous one with this token, as on a login, and returns the new token, which
// is for another session, with the same attributes; or ErrInactive, ErrNotAnonymous or a
// *LimitError. The old token is dead at once.
func (s *Sessions) Promote(ctx context.Context, token, subject string, o PromoteOptions) (next string, session *Session, err error) {
	r, err := s.rpc.PromoteSession(ctx, &sessionv1.PromoteSessionRequest{
		Namespace: s.namespace, SessionToken: token, Subject: subject, Assurance: o.Assurance.message(),
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

// ReauthenticateOptions tell of another authentication.
type ReauthenticateOptions struct {
	// AAL is the level of assurance that it reached, 1 to 3; a session keeps the highest. Zero means unknown.
	AAL int
	// AMR are its methods, named as in RFC 8176, at least one. They are added to those of the session.
	AMR []string
	// ResetTimeouts begins the idle and the absolute timeout anew.
	ResetTimeouts bool
}

// Reauthenticate records that the subject of a session has just authenticated again, and returns the token to hand to the
// client in place of the old one, which is dead at once; or ErrInactive or ErrAnonymous. It is never retried.
func (s *Sessions) Reauthenticate(ctx context.Context, token string, o ReauthenticateOptions) (next string, session *Session, err error) {
	r, err := s.rpc.ReauthenticateSession(ctx, &sessionv1.ReauthenticateSessionRequest{
		Namespace: s.namespace, SessionToken: token, Aal: int32(o.AAL), Amr: o.AMR, ResetTimeouts: o.ResetTimeouts, //nolint:gosec // the server refuses what is not 0 to 3
	})
	if err != nil {
		return "", nil, err
	}
	if r.GetOutcome() == sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_ANONYMOUS {
		return "", nil, ErrAnonymous
	}
	return replaced(r.GetOutcome() == sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED, r)
}

// replaced is the token and the session of an answer, only if it has both and says so.
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
