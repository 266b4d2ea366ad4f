package session

import (
	"errors"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// The errors of sessions, beside those of package redis.
var (
	// ErrVersionMismatch means that the session has another version than the expected one; nothing was written. The error
	// is a [*VersionMismatchError], which has the version.
	ErrVersionMismatch = errors.New("the session has another version")
	// ErrSubjectEpochChanged means that the subject's sessions, or those of the device class, were revoked since the caller
	// has read the subject's epoch; nothing was written.
	ErrSubjectEpochChanged = errors.New("the subject's sessions were revoked meanwhile")
	// ErrTooManyAttributes means that the session would exceed [MaxAttributes] or [MaxAttributeBytes]; nothing was written.
	ErrTooManyAttributes = errors.New("the session would exceed its limit of attributes")
	// ErrEventsTrimmed means that events after the resume token are gone.
	ErrEventsTrimmed = errors.New("events to resume from are gone")
)

// A VersionMismatchError is an [ErrVersionMismatch].
type VersionMismatchError struct {
	// Version is the session's version.
	Version int64
}

// Error returns the text of [ErrVersionMismatch].
func (e *VersionMismatchError) Error() string { return ErrVersionMismatch.Error() }

// Unwrap returns [ErrVersionMismatch].
func (e *VersionMismatchError) Unwrap() error { return ErrVersionMismatch }

// unreadable turns an error of the keyring into one of the store.
func unreadable(err error) error {
	if errors.Is(err, keyring.ErrKeyUnknown) {
		return redis.Fail(keyring.ErrKeyUnknown, err)
	}
	return redis.Fail(redis.ErrCorrupt, err)
}
