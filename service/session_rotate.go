package service

import (
	"context"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

// RotateSession replaces the token of a session.
func (s *Session) RotateSession(ctx context.Context, r *sessionv1.RotateSessionRequest) (*sessionv1.RotateSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	token := f.token(r.GetSessionToken())
	if err := f.err(); err != nil {
		return nil, err
	}
	next, sess, err := s.store.Sessions.Rotate(ctx, ns, token, f.rules.Sessions.RotationGrace)
	if err != nil {
		return nil, err
	}
	if sess == nil {
		return &sessionv1.RotateSessionResponse{Outcome: sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_INACTIVE}, nil
	}
	return &sessionv1.RotateSessionResponse{
		Outcome: sessionv1.RotateSessionOutcome_ROTATE_SESSION_OUTCOME_ROTATED, SessionToken: next, Session: sessionView(sess),
	}, nil
}

// PromoteSession replaces an anonymous session by one of a subject.
func (s *Session) PromoteSession(ctx context.Context, r *sessionv1.PromoteSessionRequest) (*sessionv1.PromoteSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	token := f.token(r.GetSessionToken())
	p := session.Promotion{
		Subject: f.subject(r.GetSubject(), 1), Assurance: f.assurance("assurance", r.GetAssurance()),
		Limits: f.sessionLimits(r), IfSubjectEpoch: f.ifSubjectEpoch(r.GetSubject(), r.IfSubjectEpoch),
		MaxIdle: f.rules.Sessions.IdleTimeout, MaxAbsolute: f.rules.Sessions.AbsoluteTimeout,
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	got, err := s.store.Sessions.Promote(ctx, ns, token, p)
	if err != nil {
		return nil, err
	}
	switch {
	case got.NotAnonymous:
		return &sessionv1.PromoteSessionResponse{Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_NOT_ANONYMOUS}, nil
	case got.Existing != nil:
		return &sessionv1.PromoteSessionResponse{
			Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_LIMIT_REACHED, ExistingSessions: summaries(got.Existing),
		}, nil
	case got.Session == nil:
		return &sessionv1.PromoteSessionResponse{Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_INACTIVE}, nil
	}
	return &sessionv1.PromoteSessionResponse{
		Outcome: sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_PROMOTED, SessionToken: got.Token, Session: sessionView(got.Session),
		EvictedSessions: summaries(got.Evicted), EvictedCount: int64(len(got.Evicted)),
	}, nil
}

// ReauthenticateSession records a further authentication and replaces the token of the session.
func (s *Session) ReauthenticateSession(ctx context.Context, r *sessionv1.ReauthenticateSessionRequest) (*sessionv1.ReauthenticateSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	token := f.token(r.GetSessionToken())
	a := session.Reauthentication{
		AAL: f.aal("aal", r.GetAal()), AMR: f.methods("amr", r.GetAmr()), ResetTimeouts: r.GetResetTimeouts(),
		MaxIdle: f.rules.Sessions.IdleTimeout, MaxAbsolute: f.rules.Sessions.AbsoluteTimeout,
		Grace: f.rules.Sessions.RotationGrace,
	}
	if len(r.GetAmr()) == 0 {
		f.add("amr", "must not be empty")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	next, sess, err := s.store.Sessions.Reauthenticate(ctx, ns, token, a)
	if err != nil {
		return nil, err
	}
	switch {
	case sess == nil:
		return &sessionv1.ReauthenticateSessionResponse{Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_INACTIVE}, nil
	case next == "":
		return &sessionv1.ReauthenticateSessionResponse{Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_ANONYMOUS}, nil
	}
	return &sessionv1.ReauthenticateSessionResponse{
		Outcome: sessionv1.ReauthenticateSessionOutcome_REAUTHENTICATE_SESSION_OUTCOME_REAUTHENTICATED, SessionToken: next, Session: sessionView(sess),
	}, nil
}
