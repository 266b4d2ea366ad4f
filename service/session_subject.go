package service

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

// RevokeSubjectSessions ends the sessions of a subject.
func (s *Session) RevokeSubjectSessions(ctx context.Context, r *sessionv1.RevokeSubjectSessionsRequest) (*sessionv1.RevokeSubjectSessionsResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	subject := f.subject(r.GetSubject(), 1)
	if r.GetExceptSessionId() != "" {
		f.sessionID("except_session_id", r.GetExceptSessionId())
	}
	which := session.SubjectRevocation{
		Class: f.deviceClass("device_class", r.GetDeviceClass()), Except: r.GetExceptSessionId(), Longest: s.limits.SessionAbsoluteTimeout,
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	revoked, err := s.store.Sessions.RevokeSubject(ctx, ns, subject, which)
	if err != nil {
		return nil, err
	}
	return &sessionv1.RevokeSubjectSessionsResponse{RevokedCount: revoked.Count, SubjectEpoch: revoked.Epoch}, nil
}

// GetSubject returns the epoch of a subject.
func (s *Session) GetSubject(ctx context.Context, r *sessionv1.GetSubjectRequest) (*sessionv1.GetSubjectResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	subject := f.subject(r.GetSubject(), 1)
	if err := f.err(); err != nil {
		return nil, err
	}
	epoch, err := s.store.Sessions.SubjectEpoch(ctx, ns, subject)
	if err != nil {
		return nil, err
	}
	return &sessionv1.GetSubjectResponse{SubjectEpoch: epoch}, nil
}

// ListSubjectSessions lists the sessions of a subject page by page.
func (s *Session) ListSubjectSessions(ctx context.Context, r *sessionv1.ListSubjectSessionsRequest) (*sessionv1.ListSubjectSessionsResponse, error) {
	f := s.fields()
	ns := f.namespace(r.GetNamespace())
	subject := f.subject(r.GetSubject(), 1)
	l := session.SubjectList{
		Class: f.deviceClass("device_class", r.GetDeviceClass()), Token: r.GetPageToken(), Count: f.pageSize(r.GetPageSize(), 50, 200),
	}
	current := f.current(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	sessions, next, err := s.store.Sessions.ListSubject(ctx, ns, subject, l)
	if err != nil {
		return nil, err
	}
	resp := &sessionv1.ListSubjectSessionsResponse{NextPageToken: next}
	for _, sess := range sessions {
		v := sessionView(sess)
		v.Current = sess.ID == current
		resp.Sessions = append(resp.Sessions, v)
	}
	return resp, nil
}

// maxSummaries is the maximum number of evicted or existing sessions that a response lists.
const maxSummaries = 200

// createdView returns the response to a creation.
func createdView(c *session.Created) *sessionv1.CreateSessionResponse {
	if c.Session == nil {
		return &sessionv1.CreateSessionResponse{
			Outcome: sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_LIMIT_REACHED, ExistingSessions: summaries(c.Existing),
		}
	}
	return &sessionv1.CreateSessionResponse{
		Outcome: sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED, SessionToken: c.Token, Session: sessionView(c.Session),
		EvictedSessions: summaries(c.Evicted), EvictedCount: int64(len(c.Evicted)),
	}
}

// summaries returns at most maxSummaries sessions as they appear in responses.
func summaries(sessions []session.Summary) (views []*sessionv1.SessionSummary) {
	for _, s := range sessions[:min(len(sessions), maxSummaries)] {
		views = append(views, &sessionv1.SessionSummary{
			SessionId: s.ID, Device: deviceView(s.Device), CreatedAt: timestamppb.New(s.CreatedAt),
			LastActiveAt: timestamppb.New(s.LastActiveAt), ExpiresAt: timestamppb.New(s.ExpiresAt),
		})
	}
	return views
}

// deviceView returns a device as it appears in responses, nil if no field of it is set.
func deviceView(d session.Device) *sessionv1.Device {
	if d == (session.Device{}) {
		return nil
	}
	return &sessionv1.Device{Ip: d.IP, UserAgent: d.UserAgent, Label: d.Label, Class: d.Class}
}
