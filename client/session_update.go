package client

import (
	"context"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// UpdateOptions say what to change. They name at least one attribute, and none twice; those that are not named stay.
type UpdateOptions struct {
	// Set are attributes to write.
	Set map[string]string
	// SetIfAbsent are attributes to write where the session has none of that name.
	SetIfAbsent map[string]string
	// Increment are numbers to add to attributes, of which an absent one counts from zero.
	Increment map[string]int64
	// Delete are names of attributes to remove.
	Delete []string
	// ExpectedVersion is the version that the session must have, else the call fails with ErrVersionMismatch, and
	// Error.CurrentVersion tells the version that it has. Zero means any.
	ExpectedVersion int64
}

// An Updated session is one that has the attributes which were asked for.
type Updated struct {
	// Version is the session's version, the same as before if nothing had to be changed.
	Version int64
	// Incremented are the new values of the attributes that were added to.
	Incremented map[string]int64
	// SetIfAbsent are the names of those attributes that were absent and were written, in order.
	SetIfAbsent []string
}

// Update changes attributes of an active session, all or none, or returns ErrInactive. It fails with ErrVersionMismatch,
// ErrTooManyAttributes, ErrNotCounter and ErrOverflow. It is never retried.
func (s *Sessions) Update(ctx context.Context, target Target, o UpdateOptions) (Updated, error) {
	req := &sessionv1.UpdateSessionRequest{
		Namespace:             s.namespace,
		SetAttributes:         o.Set,
		SetAttributesIfAbsent: o.SetIfAbsent,
		IncrementAttributes:   o.Increment,
		DeleteAttributes:      o.Delete,
		ExpectedVersion:       o.ExpectedVersion,
	}
	switch {
	case target.token != "":
		req.Target = &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: target.token}
	case target.id != "":
		req.Target = &sessionv1.UpdateSessionRequest_SessionId{SessionId: target.id}
	}
	r, err := s.rpc.UpdateSession(ctx, req)
	if err != nil {
		return Updated{}, err
	}
	if r.GetOutcome() != sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED {
		return Updated{}, ErrInactive
	}
	return Updated{Version: r.GetVersion(), Incremented: r.GetIncrementedAttributes(), SetIfAbsent: r.GetAttributesSetIfAbsent()}, nil
}
