package session

import "context"

// ValidateSession returns the session of a token without any requirement; nil means that the session is not active.
func (s *Sessions) ValidateSession(ctx context.Context, namespace, token string, near bool, touch Touch) (*Session, error) {
	v, err := s.Validate(ctx, namespace, Validation{Token: token, Near: near, Touch: touch})
	return v.Session, err
}

// Sweep sweeps once, without the lease.
func (s *Sessions) Sweep(ctx context.Context) error { return s.sweepAll(ctx) }

// KeepEvents bounds the events of each partition.
func (s *Sessions) KeepEvents(most int64) { s.sweeper.maxEvents = most }
