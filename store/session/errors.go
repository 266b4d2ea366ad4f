package session

import (
	"errors"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// The errors of sessions. Package redis has those that all features share.
var (
	// ErrVersionMismatch means that the session does not have the expected version; nothing was written. The error is a
	// [*VersionMismatchError], which holds the current version.
	ErrVersionMismatch = errors.New("the session has another version")
	// ErrSubjectEpochChanged means that the sessions of the subject or of the device class were revoked after the caller
	// read the subject's epoch; nothing was written.
	ErrSubjectEpochChanged = errors.New("the subject's sessions were revoked meanwhile")
	// ErrTooManyAttributes means that the session would exceed [MaxAttributes] or [MaxAttributeBytes]; nothing was written.
	ErrTooManyAttributes = errors.New("the session would exceed its limit of attributes")
	// ErrEventsTrimmed means that Redis no longer has some of the events that follow the resume token.
	ErrEventsTrimmed = errors.New("events to resume from are gone")
)

// A VersionMismatchError is an [ErrVersionMismatch] with the current version of the session.
type VersionMismatchError struct {
	// Version is the current version.
	Version int64
}

// Error returns the text of [ErrVersionMismatch].
func (e *VersionMismatchError) Error() string { return ErrVersionMismatch.Error() }

// Unwrap returns [ErrVersionMismatch].
func (e *VersionMismatchError) Unwrap() error { return ErrVersionMismatch }

// unreadable turns an error of the keyring into an error of the store.
func unreadable(err error) error {
	if errors.Is(err, keyring.ErrKeyUnknown) {
		return redis.Fail(keyring.ErrKeyUnknown, err)
	}
	return redis.Fail(redis.ErrCorrupt, err)
}
