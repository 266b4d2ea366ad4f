package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The kinds of failure of a call. Match them with [errors.Is]; [errors.As] with an [*Error] gives the details. The error
// of a call whose context ended also matches [context.Canceled] or [context.DeadlineExceeded].
var (
	// ErrUnavailable means that the client could not reach Larder, that Larder could not reach Redis, or that the
	// connection broke. If a connection broke during a write, the write may have been applied; a write refused with the
	// reason REDIS_UNAVAILABLE was not.
	ErrUnavailable error = &kind{text: "larder: unavailable", code: codes.Unavailable, reasons: []string{"REDIS_UNAVAILABLE"}}
	// ErrOutcomeUnknown means that Larder sent a write to Redis and lost the answer: the write may or may not have been
	// applied.
	ErrOutcomeUnknown error = &kind{text: "larder: outcome of the write unknown", reasons: []string{"WRITE_OUTCOME_UNKNOWN"}}
	// ErrOverloaded means that Larder or Redis has too many calls in flight; nothing was written. Send fewer calls.
	ErrOverloaded error = &kind{text: "larder: overloaded", reasons: []string{"SERVER_OVERLOADED", "REDIS_OVERLOADED"}}
	// ErrInvalid means that an argument was invalid; [Error].Field names it.
	ErrInvalid error = &kind{text: "larder: invalid argument", code: codes.InvalidArgument, reasons: []string{"INVALID_FIELD", "MESSAGE_MALFORMED", "PAGE_TOKEN_INVALID", "TOO_MANY_ATTRIBUTES"}}
	// ErrTooLarge means that the request is larger than the server accepts, so that nothing was written, or that the answer of
	// a read would be larger than it sends: 4 MiB, or more where the server's limit of values needs it.
	ErrTooLarge error = &kind{text: "larder: message too large", reasons: []string{"MESSAGE_TOO_LARGE", "ANSWER_TOO_LARGE"}}
	// ErrPageToken means that a page token or a resume token was not returned by an earlier call of the same method with
	// the same arguments. Such an error is an [ErrInvalid] too.
	ErrPageToken error = &kind{text: "larder: invalid page token", reasons: []string{"PAGE_TOKEN_INVALID"}}
	// ErrVersionMismatch means that the session does not have the expected version; nothing was written.
	// [Error].CurrentVersion is the version that it has.
	ErrVersionMismatch error = &kind{text: "larder: session version mismatch", reasons: []string{"SESSION_VERSION_MISMATCH"}}
	// ErrSubjectEpochChanged means that sessions of the subject were revoked after its epoch was read; no session was
	// created.
	ErrSubjectEpochChanged error = &kind{text: "larder: subject epoch changed", reasons: []string{"SUBJECT_EPOCH_CHANGED"}}
	// ErrTooManyAttributes means that the session would exceed 64 attributes or 64 KiB; nothing was written. Such an error
	// is an [ErrInvalid] too.
	ErrTooManyAttributes error = &kind{text: "larder: too many session attributes", reasons: []string{"TOO_MANY_ATTRIBUTES"}}
	// ErrWrongType means that the Redis key is not a string; nothing was written.
	ErrWrongType error = &kind{text: "larder: wrong type", reasons: []string{"WRONG_TYPE"}}
	// ErrNotCounter means that the key or the attribute to increment is not an integer; nothing was written.
	ErrNotCounter error = &kind{text: "larder: not a counter", reasons: []string{"NOT_A_COUNTER"}}
	// ErrOverflow means that the sum would exceed 64 bits; nothing was written.
	ErrOverflow error = &kind{text: "larder: counter overflow", reasons: []string{"COUNTER_OVERFLOW"}}
	// ErrTagged means that the entry has tags and therefore must expire; nothing was written. The server remembers an
	// invalidated tag only for the maximum TTL.
	ErrTagged error = &kind{text: "larder: tagged entry must expire", reasons: []string{"TAGGED_ENTRY_MUST_EXPIRE"}}
	// ErrCorrupt means that the stored bytes are not in Larder's format. Delete or overwrite the entry.
	ErrCorrupt error = &kind{text: "larder: corrupt entry", reasons: []string{"ENTRY_CORRUPT"}}
	// ErrKeyUnknown means that the stored data was encrypted with a key that is not in the server's keyring. The operator
	// of Larder has to put that key back.
	ErrKeyUnknown error = &kind{text: "larder: encrypted with an unknown key", reasons: []string{"KEY_UNKNOWN"}}
	// ErrEventsTrimmed means that events after the resume token no longer exist. Start a new watch without a token and
	// read the sessions again.
	ErrEventsTrimmed error = &kind{text: "larder: events trimmed", reasons: []string{"EVENTS_TRIMMED"}}
	// ErrNotHeld means that the caller does not hold the lock that it wanted to renew: it has expired or was released.
	ErrNotHeld error = &kind{text: "larder: lock not held", reasons: []string{"LOCK_NOT_HELD"}}
	// ErrTooManyWaiters means that too many callers wait for the lock, or for locks altogether.
	ErrTooManyWaiters error = &kind{text: "larder: too many waiters", reasons: []string{"TOO_MANY_WAITERS"}}
	// ErrTooManyFences means that the key has fences of as many other locks as it may have; nothing was written.
	ErrTooManyFences error = &kind{text: "larder: too many fences", reasons: []string{"TOO_MANY_FENCES"}}
	// ErrRefused means that Redis refused Larder's credentials or a command, or does not run in the configured mode. The
	// operator of Larder has to correct that.
	ErrRefused error = &kind{text: "larder: redis refused", reasons: []string{"REDIS_REFUSED", "REDIS_WRONG_MODE"}}
	// ErrInternal means that Larder has a bug.
	ErrInternal error = &kind{text: "larder: internal error", reasons: []string{"INTERNAL", "PANIC"}}
)

// The errors about the state of a session. The call itself succeeded, so that none of them is an [*Error].
var (
	// ErrInactive means that the token or ID does not belong to an active session: it never did, or the session has
	// expired or was revoked, or the token was replaced.
	ErrInactive = errors.New("larder: the session is not active")
	// ErrStepUpRequired means that the session is active but its assurance level is below [ValidateOptions].MinAAL.
	ErrStepUpRequired = errors.New("larder: the session needs a higher level of assurance")
	// ErrReauthRequired means that the session is active but its subject authenticated longer than
	// [ValidateOptions].MaxAuthAge ago, or never.
	ErrReauthRequired = errors.New("larder: the session needs a fresh authentication")
	// ErrNotAnonymous means that the session already has a subject and cannot be promoted.
	ErrNotAnonymous = errors.New("larder: the session has a subject already")
	// ErrAnonymous means that the session is anonymous, so that nobody can authenticate again.
	ErrAnonymous = errors.New("larder: the session is anonymous")
	// ErrUnprocessed means that the session is active but was left out of a batch whose answer had reached its size limit.
	// Validate the token again.
	ErrUnprocessed = errors.New("larder: left out of a batch whose answer was too large")
)

// A kind matches the errors with one of its reasons and, unless code is zero, those with its code.
type kind struct {
	text    string
	code    codes.Code
	reasons []string
}

func (k *kind) Error() string { return k.text }

// An Error says why a call failed. A gRPC handler that returns it sends the server's status unchanged, and
// [status.FromError] finds that status.
type Error struct {
	// Code is the gRPC code. It is [codes.Unknown] for an item of a batch, for which the server sends only the reason.
	Code codes.Code
	// Reason is Larder's name for the failure, such as REDIS_UNAVAILABLE. Empty means that the error does not come from
	// Larder but from gRPC, a proxy or the context.
	Reason string
	// Message is for people. It never contains values or tokens.
	Message string
	// Field is the first invalid field, as the proto file names it, such as "tags[3]". Empty unless the error is
	// [ErrInvalid].
	Field string
	// Violations are all invalid fields.
	Violations []Violation
	// RetryAfter is how long the server asks to wait before a retry. Zero means that it does not say.
	RetryAfter time.Duration
	// CurrentVersion is the version of the session if the error is [ErrVersionMismatch]; zero otherwise.
	CurrentVersion int64

	status *status.Status
}

// A Violation is one invalid field.
type Violation struct {
	// Field is the path of the field in the request, as the proto file names it.
	Field string
	// Description says what the field must be.
	Description string
}

// Error returns the code, the reason and the message.
func (e *Error) Error() string {
	text := "larder: " + e.Code.String()
	switch {
	case e.Reason == "":
	case e.Code == codes.Unknown: // the item of a batch
		text = "larder: " + e.Reason
	default:
		text += " " + e.Reason
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is reports whether the error is of a kind, such as [ErrUnavailable]. It is for [errors.Is].
func (e *Error) Is(target error) bool {
	k, ok := target.(*kind)
	return ok && (k.code == e.Code || slices.Contains(k.reasons, e.Reason))
}

// Unwrap returns [context.Canceled] or [context.DeadlineExceeded] if the code, or the reason of a batch's item, says so,
// and nil otherwise.
func (e *Error) Unwrap() error {
	switch {
	case e.Code == codes.Canceled || e.Reason == "CANCELLED":
		return context.Canceled
	case e.Code == codes.DeadlineExceeded || e.Reason == "DEADLINE_EXCEEDED":
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// GRPCStatus returns the status that the server sent, with its details. It is for the gRPC library.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(e.Code, e.Message)
	}
	return e.status
}

// typed turns the error of a call into an [*Error]. The end of a stream is not an error.
func typed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return newError(err)
}

func newError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	st := status.Convert(err)
	e = &Error{Code: st.Code(), Message: st.Message(), status: st}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == "larder" {
				e.Reason = d.GetReason()
				e.CurrentVersion, _ = strconv.ParseInt(d.GetMetadata()["current_version"], 10, 64) // zero if it is absent
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Reason == "" && e.Code == codes.ResourceExhausted && strings.Contains(e.Message, "larger than max") {
		e.Reason = "MESSAGE_TOO_LARGE" // gRPC has refused to send or to receive the message
	}
	if len(e.Violations) > 0 {
		e.Field = e.Violations[0].Field
	}
	return e
}

// invalid returns the error for options that no request can express.
func invalid(field, description string) error {
	return invalidFields(Violation{Field: field, Description: description})
}

// invalidFields is invalid for several fields, at least one.
func invalidFields(fields ...Violation) error {
	return &Error{
		Code:       codes.InvalidArgument,
		Reason:     "INVALID_FIELD",
		Message:    fields[0].Field + ": " + fields[0].Description,
		Field:      fields[0].Field,
		Violations: fields,
	}
}

// contextStatus returns the error of a call whose context has ended.
func contextStatus(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }
