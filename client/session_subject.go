package client

import (
	"context"
	"iter"
	"time"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A SessionSummary tells a session from the others of its subject.
type SessionSummary struct {
	// ID is the public handle.
	ID string
	// Device is what the client said of itself.
	Device Device
	// CreatedAt is when the session was created.
	CreatedAt time.Time
	// LastActiveAt is when the session was last active, as far as it is recorded.
	LastActiveAt time.Time
	// ExpiresAt is when the session ends, or would have ended, without further activity.
	ExpiresAt time.Time
}

// A LimitError means that a subject has as many sessions as it may, and that there is no new one.
type LimitError struct {
	// Existing are up to 200 of those that count, the one that was active longest ago first: for the user to choose one to
	// revoke.
	Existing []SessionSummary
}

func (*LimitError) Error() string { return "larder: the subject has as many sessions as it may" }

// SubjectEpoch returns a number that rises whenever sessions of a subject are revoked together. A login asks for it before
// it checks the password and gives it to Create, so that no revocation is missed in between.
func (s *Sessions) SubjectEpoch(ctx context.Context, subject string) (int64, error) {
	r, err := s.rpc.GetSubject(ctx, &sessionv1.GetSubjectRequest{Namespace: s.namespace, Subject: subject})
	return r.GetSubjectEpoch(), err
}

// RevokeSubjectOptions say which sessions to end. The zero value ends all.
type RevokeSubjectOptions struct {
	// ExceptID is one session to keep, usually the caller's own. Empty means none.
	ExceptID string
	// DeviceClass is the class of device whose sessions to end. Empty means all sessions.
	DeviceClass string
}

// RevokeSubject ends sessions of a subject, at a cost that does not depend on their number, and returns how many were
// ended.
func (s *Sessions) RevokeSubject(ctx context.Context, subject string, o RevokeSubjectOptions) (int64, error) {
	r, err := s.rpc.RevokeSubjectSessions(ctx, &sessionv1.RevokeSubjectSessionsRequest{
		Namespace:       s.namespace,
		Subject:         subject,
		ExceptSessionId: o.ExceptID,
		DeviceClass:     o.DeviceClass,
	})
	return r.GetRevokedCount(), err
}

// ListSubjectOptions say how to list sessions.
type ListSubjectOptions struct {
	// PageSize is at most how many sessions to ask for at a time, at most 200. Zero means 50.
	PageSize int32
	// Current is the caller's own session, to be marked as Current. The zero value means none.
	Current Target
	// DeviceClass is the class of device whose sessions to list. Empty means all sessions.
	DeviceClass string
}

// ListSubject walks the active sessions of a subject, those that end soonest first. A session whose idle timeout slides
// meanwhile may come twice. An error comes last.
func (s *Sessions) ListSubject(ctx context.Context, subject string, o ListSubjectOptions) iter.Seq2[*Session, error] {
	return pages(func(token string) ([]*Session, string, error) {
		r, err := s.rpc.ListSubjectSessions(ctx, &sessionv1.ListSubjectSessionsRequest{
			Namespace:           s.namespace,
			Subject:             subject,
			PageSize:            o.PageSize,
			PageToken:           token,
			CurrentSessionId:    o.Current.id,
			CurrentSessionToken: o.Current.token,
			DeviceClass:         o.DeviceClass,
		})
		sessions := make([]*Session, len(r.GetSessions()))
		for i, m := range r.GetSessions() {
			sessions[i] = newSession(m)
		}
		return sessions, r.GetNextPageToken(), err
	})
}

func summaries(list []*sessionv1.SessionSummary) []SessionSummary {
	all := make([]SessionSummary, len(list))
	for i, m := range list {
		all[i] = SessionSummary{
			ID: m.GetSessionId(), Device: newDevice(m.GetDevice()), CreatedAt: at(m.GetCreatedAt()),
			LastActiveAt: at(m.GetLastActiveAt()), ExpiresAt: at(m.GetExpiresAt()),
		}
	}
	return all
}

func newDevice(d *sessionv1.Device) Device {
	return Device{IP: d.GetIp(), UserAgent: d.GetUserAgent(), Label: d.GetLabel(), Class: d.GetClass()}
}
