package store

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/keyring"
)

// The ways in which an operation can fail. Expected outcomes, such as a miss or a condition that did not hold, are
// results and not errors. Match them with errors.Is; the context's own errors are returned as they are.
var (
	// ErrUnavailable means that Redis could not be reached or was not ready, and that nothing was written.
	ErrUnavailable = errors.New("redis is unavailable")
	// ErrOutcomeUnknown means that a write was sent and its answer was lost: it may or may not have been applied.
	ErrOutcomeUnknown = errors.New("the write was sent and its answer was lost")
	// ErrOverloaded means that too many operations are in flight, or that Redis is out of memory; nothing was written.
	ErrOverloaded = errors.New("the store is overloaded")
	// ErrWrongType means that the key holds something else than a string; nothing was written.
	ErrWrongType = errors.New("the key holds a value of another type")
	// ErrNotCounter means that the key or the attribute holds something else than a plain 64-bit integer; nothing was
	// written.
	ErrNotCounter = errors.New("the key or the attribute does not hold a counter")
	// ErrOverflow means that the sum does not fit 64 bits; nothing was written.
	ErrOverflow = errors.New("the counter would leave the range of 64 bits")
	// ErrVersionMismatch means that the session has another version than the expected one; nothing was written. The error
	// is a *VersionMismatchError, which tells it.
	ErrVersionMismatch = errors.New("the session has another version")
	// ErrSubjectEpochChanged means that the subject's sessions, or those of the device class, were revoked since the
	// caller had asked for the subject's epoch; nothing was written.
	ErrSubjectEpochChanged = errors.New("the subject's sessions were revoked meanwhile")
	// ErrTooManyAttributes means that the session would exceed its limits with this update; nothing was written.
	ErrTooManyAttributes = errors.New("the session would exceed its limit of attributes")
	// ErrTagged means that an entry with tags would never expire, and so outlive what is remembered of invalidations;
	// nothing was written.
	ErrTagged = errors.New("an entry with tags must expire")
	// ErrCorrupt means that the stored bytes cannot be what Larder wrote, or were written by a later version.
	ErrCorrupt = errors.New("the stored entry cannot be read")
	// ErrPageToken means that the token of a page or of a walk was not one that this operation had returned.
	ErrPageToken = errors.New("the token is not one that was returned here")
	// ErrEventsTrimmed means that events after the place to resume from are gone.
	ErrEventsTrimmed = errors.New("events to resume from are gone")
	// ErrRefused means that Redis refused the credentials or a command; it is an operator's mistake.
	ErrRefused = errors.New("redis refused the credentials or the command")
	// ErrWrongMode means that Redis is not what the configured mode says; it is an operator's mistake.
	ErrWrongMode = errors.New("redis does not run in the configured mode")
)

// An opError is one of the errors above together with its cause, which is for the log alone: it may name addresses.
type opError struct {
	kind  error
	cause error
	// once is set where the same call must not be made again, because its answer would mislead.
	once bool
}

func (e *opError) Error() string { return e.kind.Error() }

func (e *opError) Unwrap() error { return e.kind }

// A VersionMismatchError is an ErrVersionMismatch.
type VersionMismatchError struct {
	// Version is the session's version.
	Version int64
}

// Error returns the text of ErrVersionMismatch.
func (e *VersionMismatchError) Error() string { return ErrVersionMismatch.Error() }

// Unwrap returns ErrVersionMismatch.
func (e *VersionMismatchError) Unwrap() error { return ErrVersionMismatch }

// Cause returns what made an operation fail, for the log of the server and never for a caller. It may name Redis
// addresses; it holds no keys, values or secrets.
func Cause(err error) string {
	var e *opError
	if errors.As(err, &e) && e.cause != nil {
		return e.cause.Error()
	}
	return err.Error()
}

// Retryable reports whether the operation that failed with err may be made again by a caller for whom repeating it is
// safe: nothing was written, or writing it twice is the same as writing it once.
func Retryable(err error) bool {
	var e *opError
	if !errors.As(err, &e) {
		return false
	}
	return errors.Is(e.kind, ErrUnavailable) || errors.Is(e.kind, ErrOutcomeUnknown) && !e.once
}

// effect says what a lost answer means.
type effect int

const (
	reads  effect = iota // nothing can have been written
	writes               // the write may have been applied, and applying it again changes nothing
	once                 // the write may have been applied, and making the call again would mislead
)

// refusals begin the errors of Redis which mean that nothing was done, with what they mean to a caller.
var refusals = []struct {
	prefix string
	kind   error
}{
	{"LOADING", ErrUnavailable},
	{"MASTERDOWN", ErrUnavailable},
	{"CLUSTERDOWN", ErrUnavailable},
	{"TRYAGAIN", ErrUnavailable},
	{"READONLY", ErrUnavailable},
	{"NOREPLICAS", ErrUnavailable},
	{"BUSY", ErrUnavailable},
	{"MISCONF", ErrUnavailable},
	{"MOVED", ErrUnavailable},
	{"ASK", ErrUnavailable},
	{"UNBLOCKED", ErrUnavailable},
	{"OOM", ErrOverloaded},
	{"WRONGTYPE", ErrWrongType},
	{"NOAUTH", ErrRefused},
	{"WRONGPASS", ErrRefused},
	{"NOPERM", ErrRefused},
	{"The user executing the script", ErrRefused},
	{"LARDER_NOT_COUNTER", ErrNotCounter},
	{"LARDER_OVERFLOW", ErrOverflow},
	{"LARDER_SUBJECT_EPOCH_CHANGED", ErrSubjectEpochChanged},
	{"LARDER_TOO_MANY_ATTRIBUTES", ErrTooManyAttributes},
	{"LARDER_TAGGED", ErrTagged},
	{"LARDER_KEY_UNKNOWN", keyring.ErrKeyUnknown},
}

// classify turns the error of a command into one of the errors above, or into the context's own. A context error that is
// not the caller's own reached it from another caller through a shared connection, and means no more than a lost answer.
func classify(ctx context.Context, err error, eff effect) error {
	if err == nil {
		return nil
	}
	var own *opError
	if errors.As(err, &own) {
		return err
	}
	lost := ErrOutcomeUnknown
	if eff == reads {
		lost = ErrUnavailable
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	var re *rueidis.RedisError
	if errors.As(err, &re) {
		text := strings.TrimPrefix(re.Error(), "ERR ")
		// Redis 7 wraps what a script's command answered, and miniredis what a script raised: the code comes first or
		// not far behind it.
		for _, r := range refusals {
			if strings.HasPrefix(text, r.prefix) || strings.Contains(text, r.prefix+" ") {
				return &opError{kind: r.kind, cause: errors.New(r.prefix)}
			}
		}
		if strings.Contains(text, "would overflow") {
			return &opError{kind: ErrOverflow, cause: errors.New("overflow")}
		}
		// The rest of the text may repeat arguments.
		code, _, _ := strings.Cut(re.Error(), " ")
		return &opError{kind: errInternal, cause: errors.New("redis answered " + code)}
	}
	if notSent(err) {
		return &opError{kind: ErrUnavailable, cause: err}
	}
	return &opError{kind: lost, cause: err, once: eff == once}
}

// errInternal is a fault of Larder's own: no caller and no operator can mend it.
var errInternal = errors.New("internal store error")

// notSent reports errors which say that the command never left this process.
func notSent(err error) bool {
	return errors.Is(err, rueidis.ErrNoAddr) || errors.Is(err, errDial)
}

// unsealing turns an error of the keyring into one of this package.
func unsealing(err error) error {
	if errors.Is(err, keyring.ErrKeyUnknown) {
		return &opError{kind: keyring.ErrKeyUnknown, cause: err}
	}
	return &opError{kind: ErrCorrupt, cause: err}
}
