package client

import (
	"context"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// UpdateOptions say which attributes [Sessions.Update] changes. They name at least one attribute, and none twice. All
// other attributes keep their values.
type UpdateOptions struct {
	// Set are attributes to write.
	Set map[string]string
	// SetIfAbsent are attributes to write unless the session has an attribute of the same name.
	SetIfAbsent map[string]string
	// Increment are numbers to add to attributes. An absent attribute counts as zero.
	Increment map[string]int64
	// Delete are the names of attributes to delete. Absent ones are ignored.
	Delete []string
	// ExpectedVersion is the version that the session must have. If it has another, Update fails with
	// [ErrVersionMismatch], and [Error].CurrentVersion is the session's version. Zero means any.
	ExpectedVersion int64
}

// An UpdateResult says what [Sessions.Update] did.
type UpdateResult struct {
	// Version is the session's version after the update. It is unchanged if the update changed nothing.
	Version int64
	// Incremented are the new values of the attributes in UpdateOptions.Increment.
	Incremented map[string]int64
	// SetIfAbsent are the names of those attributes in UpdateOptions.SetIfAbsent that were absent and have been written,
	// sorted.
	SetIfAbsent []string
}

// Update changes attributes of an active session, either all of them or none, or returns [ErrInactive]. Concurrent
// updates of different attributes are all kept.
//
// Update fails with [ErrVersionMismatch], [ErrTooManyAttributes] (the session would exceed 64 attributes or 64 KiB),
// [ErrNotCounter] (an attribute to increment is not an integer) or [ErrOverflow]. It is never retried: after
// [ErrUnavailable] or [ErrOutcomeUnknown] the changes may or may not have been made.
func (s *Sessions) Update(ctx context.Context, target SessionTarget, o UpdateOptions) (UpdateResult, error) {
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
		return UpdateResult{}, err
	}
	if r.GetOutcome() != sessionv1.UpdateSessionOutcome_UPDATE_SESSION_OUTCOME_UPDATED {
		return UpdateResult{}, ErrInactive
	}
	return UpdateResult{Version: r.GetVersion(), Incremented: r.GetIncrementedAttributes(), SetIfAbsent: r.GetAttributesSetIfAbsent()}, nil
}
