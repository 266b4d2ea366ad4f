package service

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
)

// Session answers larder.session.v1.SessionService.
type Session struct {
	sessionv1.UnimplementedSessionServiceServer

	store    *store.Store
	policies *policy.Policies
	limits   *policy.Limits
	now      func() time.Time // the store's Now, kept because each method value allocates
}

// NewSession returns a SessionService over a store.
func NewSession(st *store.Store, p *policy.Policies) *Session {
	return &Session{store: st, policies: p, limits: p.Limits(), now: st.Redis.Now}
}

func (s *Session) fields() *fields { return newFields(s.policies, s.now) }

// CreateSession starts a session.
func (s *Session) CreateSession(ctx context.Context, r *sessionv1.CreateSessionRequest) (*sessionv1.CreateSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	n := session.Creation{
		Subject:    f.subject(r.GetSubject(), 0),
		Attributes: f.attributes("attributes", r.GetAttributes()),
		Idle:       f.timeout("idle_timeout", r.GetIdleTimeout(), f.rules.Sessions.IdleTimeout),
		Absolute:   f.timeout("absolute_timeout", r.GetAbsoluteTimeout(), f.rules.Sessions.AbsoluteTimeout),
		Device:     f.device(r.GetDevice()),
		Assurance:  f.assurance("assurance", r.GetAssurance()),
		Limits:     f.sessionLimits(r),

		IfSubjectEpoch: f.ifSubjectEpoch(r.GetSubject(), r.IfSubjectEpoch),
	}
	if n.Subject == "" && r.GetAssurance() != nil {
		f.add("assurance", "must be unset if subject is empty")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	created, err := s.store.Sessions.Create(ctx, ns, n)
	if err != nil {
		return nil, err
	}
	return createdView(&created), nil
}

// GetSession reads a session by its id.
func (s *Session) GetSession(ctx context.Context, r *sessionv1.GetSessionRequest) (*sessionv1.GetSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	id := f.sessionID("session_id", r.GetSessionId())
	if err := f.err(); err != nil {
		return nil, err
	}
	sess, err := s.store.Sessions.Get(ctx, ns, id)
	if err != nil {
		return nil, err
	}
	resp := &sessionv1.GetSessionResponse{Outcome: sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_INACTIVE}
	if sess != nil {
		resp.Outcome = sessionv1.GetSessionOutcome_GET_SESSION_OUTCOME_ACTIVE
		resp.Session = sessionView(sess)
	}
	return resp, nil
}

// UpdateSession changes the attributes of a session.
func (s *Session) UpdateSession(ctx context.Context, r *sessionv1.UpdateSessionRequest) (*sessionv1.UpdateSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	target := f.target(r)
	update := f.update(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	updated, err := s.store.Sessions.Update(ctx, ns, target, update)
	if err != nil {
		return nil, err
	}
	outcome := sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_INACTIVE
	if updated.Version > 0 {
		outcome = sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED
	}
	return &sessionv1.UpdateSessionResponse{
		Outcome: outcome, Version: updated.Version,
		IncrementedAttributes: updated.Incremented, AttributesSetIfAbsent: updated.SetIfAbsent,
	}, nil
}

// RevokeSession ends one session.
func (s *Session) RevokeSession(ctx context.Context, r *sessionv1.RevokeSessionRequest) (*sessionv1.RevokeSessionResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	target := f.target(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	revoked, err := s.store.Sessions.Revoke(ctx, ns, target)
	if err != nil {
		return nil, err
	}
	outcome := sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_INACTIVE
	if revoked {
		outcome = sessionv1.RevokeSessionOutcome_REVOKE_SESSION_OUTCOME_REVOKED
	}
	return &sessionv1.RevokeSessionResponse{Outcome: outcome}, nil
}

// sessionView returns a session as it appears in responses.
func sessionView(s *session.Session) *sessionv1.Session {
	v := &sessionv1.Session{
		SessionId: s.ID, Subject: s.Subject, Attributes: s.Attributes, Version: s.Version, AttributesUnreadable: s.Unreadable,
		CreatedAt: timestamppb.New(s.CreatedAt), LastActiveAt: timestamppb.New(s.LastActiveAt),
		IdleExpiresAt:     timestamppb.New(s.IdleExpiresAt()),
		AbsoluteExpiresAt: timestamppb.New(s.AbsoluteExpiresAt),
		ExpiresAt:         timestamppb.New(s.ExpiresAt()),
	}
	if a := s.Assurance; !a.AuthenticatedAt.IsZero() {
		v.Assurance = &sessionv1.Assurance{
			Aal: int32(a.AAL), Amr: a.AMR, AuthenticatedAt: timestamppb.New(a.AuthenticatedAt), //nolint:gosec // 0 to 3
		}
	}
	v.Device = deviceView(s.Device)
	return v
}
