package client

import (
	"context"
	"iter"
	"time"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A SessionSummary describes a session among the others of its subject.
type SessionSummary struct {
	// ID is the public handle, which is safe to log and to show.
	ID string
	// Device is what the end user's client said about itself when the session was created.
	Device Device
	// CreatedAt is when the session was created.
	CreatedAt time.Time
	// LastActiveAt is when the session was last active, as in [Session].
	LastActiveAt time.Time
	// ExpiresAt is when the session ends, or would have ended, if there is no further activity.
	ExpiresAt time.Time
}

// A LimitError means that the subject has as many sessions as it may, and that no session was created.
type LimitError struct {
	// Existing are the subject's sessions that count toward the limit, the least recently active one first, at most 200 of
	// them: for the user to choose one to revoke.
	Existing []SessionSummary
}

// Error returns a text that is the same for every subject.
func (*LimitError) Error() string { return "larder: the subject has reached its limit of sessions" }

// SubjectEpoch returns the epoch of a subject, a number that increases whenever sessions of the subject are revoked
// together. A login reads it before it checks the password and passes it to [Sessions.Create], so that a revocation in
// between is not missed. Zero means that there was none within the longest life of a session.
func (s *Sessions) SubjectEpoch(ctx context.Context, subject string) (int64, error) {
	r, err := s.rpc.GetSubject(ctx, &sessionv1.GetSubjectRequest{Namespace: s.namespace, Subject: subject})
	return r.GetSubjectEpoch(), err
}

// RevokeSubjectOptions say which sessions [Sessions.RevokeSubject] ends. The zero value ends all of them.
type RevokeSubjectOptions struct {
	// ExceptID is the ID of one session to keep, usually the caller's own. Empty means none.
	ExceptID string
	// DeviceClass is the device class whose sessions are ended. Empty means all sessions.
	DeviceClass string
}

// RevokeSubject ends the sessions of a subject and returns how many were active, as far as the subject's index knows.
// Its cost does not depend on their number. A login that is under way is stopped too if it passes
// [CreateOptions].IfSubjectEpoch.
func (s *Sessions) RevokeSubject(ctx context.Context, subject string, o RevokeSubjectOptions) (int64, error) {
	r, err := s.rpc.RevokeSubjectSessions(ctx, &sessionv1.RevokeSubjectSessionsRequest{
		Namespace:       s.namespace,
		Subject:         subject,
		ExceptSessionId: o.ExceptID,
		DeviceClass:     o.DeviceClass,
	})
	return r.GetRevokedCount(), err
}

// ListSubjectOptions are the options of [Sessions.ListSubject].
type ListSubjectOptions struct {
	// PageSize is the maximum number of sessions that one call to the server asks for, 1 to 200. Zero means 50, and more
	// than 200 means 200.
	PageSize int
	// Current names the caller's own session, whose [Session].Current is then true. The zero value names none.
	Current SessionTarget
	// DeviceClass is the device class whose sessions are listed. Empty means all sessions.
	DeviceClass string
}

// ListSubject yields the active sessions of a subject, the one that ends soonest first. A session that is active during
// the walk may be yielded twice. An error is yielded last, with a nil session.
func (s *Sessions) ListSubject(ctx context.Context, subject string, o ListSubjectOptions) iter.Seq2[*Session, error] {
	return pages(func(token string) ([]*Session, string, error) {
		r, err := s.rpc.ListSubjectSessions(ctx, &sessionv1.ListSubjectSessionsRequest{
			Namespace:           s.namespace,
			Subject:             subject,
			PageSize:            toInt32(o.PageSize),
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
			ID: m.GetSessionId(), Device: newDevice(m.GetDevice()), CreatedAt: timeOf(m.GetCreatedAt()),
			LastActiveAt: timeOf(m.GetLastActiveAt()), ExpiresAt: timeOf(m.GetExpiresAt()),
		}
	}
	return all
}

func newDevice(d *sessionv1.Device) Device {
	return Device{IP: d.GetIp(), UserAgent: d.GetUserAgent(), Label: d.GetLabel(), Class: d.GetClass()}
}
