package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The ways in which a call can fail. Match them with errors.Is; errors.As with an *Error tells the rest. A call whose
// context ended also matches context.Canceled or context.DeadlineExceeded.
var (
	// ErrUnavailable means that Larder or its Redis could not be reached, or broke off. A write that was under way when a
	// connection broke may have been applied; one refused with the reason REDIS_UNAVAILABLE was not.
	ErrUnavailable error = &kind{text: "larder: unavailable", code: codes.Unavailable, reasons: []string{"REDIS_UNAVAILABLE"}}
	// ErrOutcomeUnknown means that a write was sent to Redis and its answer was lost: it may or may not have been applied.
	ErrOutcomeUnknown error = &kind{text: "larder: outcome of the write unknown", reasons: []string{"WRITE_OUTCOME_UNKNOWN"}}
	// ErrOverloaded means that Larder or Redis has too much to do; nothing was written. Send less.
	ErrOverloaded error = &kind{text: "larder: overloaded", reasons: []string{"SERVER_OVERLOADED", "REDIS_OVERLOADED"}}
	// ErrInvalid means that an argument was invalid; Error.Field names it.
	ErrInvalid error = &kind{text: "larder: invalid argument", code: codes.InvalidArgument, reasons: []string{"INVALID_FIELD", "PAGE_TOKEN_INVALID", "TOO_MANY_ATTRIBUTES"}}
	// ErrPageToken means that a resume token was not one that this call had returned. It is an ErrInvalid too.
	ErrPageToken error = &kind{text: "larder: invalid page token", reasons: []string{"PAGE_TOKEN_INVALID"}}
	// ErrVersionMismatch means that the session has another version than the expected one; nothing was written.
	ErrVersionMismatch error = &kind{text: "larder: session version mismatch", reasons: []string{"SESSION_VERSION_MISMATCH"}}
	// ErrSubjectEpochChanged means that sessions of the subject were revoked since its epoch was asked for; there is no new
	// session.
	ErrSubjectEpochChanged error = &kind{text: "larder: subject epoch changed", reasons: []string{"SUBJECT_EPOCH_CHANGED"}}
	// ErrTooManyAttributes means that the session would exceed its limits; nothing was written. It is an ErrInvalid too.
	ErrTooManyAttributes error = &kind{text: "larder: too many session attributes", reasons: []string{"TOO_MANY_ATTRIBUTES"}}
	// ErrWrongType means that the Redis key holds something else than a string; nothing was written.
	ErrWrongType error = &kind{text: "larder: wrong type", reasons: []string{"WRONG_TYPE"}}
	// ErrNotCounter means that the key or the attribute holds something else than an integer; nothing was written.
	ErrNotCounter error = &kind{text: "larder: not a counter", reasons: []string{"NOT_A_COUNTER"}}
	// ErrOverflow means that the counter would leave the range of 64 bits; nothing was written.
	ErrOverflow error = &kind{text: "larder: counter overflow", reasons: []string{"COUNTER_OVERFLOW"}}
	// ErrTagged means that the entry has tags and so must expire; nothing was written.
	ErrTagged error = &kind{text: "larder: tagged entry must expire", reasons: []string{"TAGGED_ENTRY_MUST_EXPIRE"}}
	// ErrCorrupt means that the stored bytes cannot be read; deleting or overwriting the entry mends it.
	ErrCorrupt error = &kind{text: "larder: corrupt entry", reasons: []string{"ENTRY_CORRUPT"}}
	// ErrKeyUnknown means that the stored data was encrypted with a key that the server's keyring does not hold. Larder's
	// operator has to put that key back.
	ErrKeyUnknown error = &kind{text: "larder: encrypted with an unknown key", reasons: []string{"KEY_UNKNOWN"}}
	// ErrEventsTrimmed means that events which a watch has not told are gone: begin a new one without a token, and look at
	// what you hold.
	ErrEventsTrimmed error = &kind{text: "larder: events trimmed", reasons: []string{"EVENTS_TRIMMED"}}
	// ErrRefused means that Redis refused Larder's credentials or a command, or does not run in the mode that Larder was
	// told. Larder's operator has to mend that.
	ErrRefused error = &kind{text: "larder: redis refused", reasons: []string{"REDIS_REFUSED", "REDIS_WRONG_MODE"}}
	// ErrInternal means a fault in Larder itself.
	ErrInternal error = &kind{text: "larder: internal error", reasons: []string{"INTERNAL", "PANIC"}}
)

// What is wrong with a session where nothing failed: the errors that are not an *Error.
var (
	// ErrInactive means that no active session answers to the token or id: it never existed, has expired, was revoked, or
	// the token was superseded.
	ErrInactive = errors.New("larder: the session is not active")
	// ErrStepUpRequired means that the session is active and its level of assurance below the required one.
	ErrStepUpRequired = errors.New("larder: the session needs a higher level of assurance")
	// ErrReauthRequired means that the session is active and that its subject authenticated too long ago, or never.
	ErrReauthRequired = errors.New("larder: the session needs a fresh authentication")
	// ErrNotAnonymous means that the session has a subject already and cannot be promoted.
	ErrNotAnonymous = errors.New("larder: the session has a subject already")
	// ErrAnonymous means that the session has no subject who could have authenticated.
	ErrAnonymous = errors.New("larder: the session is anonymous")
	// ErrUnprocessed means that the answer of a batch had grown too large; ask for that item again.
	ErrUnprocessed = errors.New("larder: left out of a batch that was too large")
)

// A kind is a class of errors: all with one of its reasons, and all with its code if it has one.
type kind struct {
	text    string
	code    codes.Code
	reasons []string
}

func (k *kind) Error() string { return k.text }

// An Error is why a call failed. Status.FromError and a gRPC handler that returns it see the server's status unchanged.
type Error struct {
	// Code is the gRPC code; codes.Unknown for one item of a batch, of which only the reason is told.
	Code codes.Code
	// Reason is Larder's own word for what happened, such as REDIS_UNAVAILABLE. It is empty when the error was made on the
	// way: by gRPC, a proxy or the context.
	Reason string
	// Message is for people. It holds no values and no tokens.
	Message string
	// Field is the first invalid field as the request names it, such as "tags[3]"; empty unless the error is ErrInvalid.
	Field string
	// Violations are all invalid fields.
	Violations []Violation
	// RetryAfter is how long the server asks to wait before the same call is made again; zero means that it does not say.
	RetryAfter time.Duration
	// CurrentVersion is the version that the session has, where the error is ErrVersionMismatch.
	CurrentVersion int64

	status *status.Status
}

// A Violation is one invalid field.
type Violation struct {
	// Field is its path in the request.
	Field string
	// Description says what is wrong with it.
	Description string
}

func (e *Error) Error() string {
	text := "larder: " + e.Code.String()
	switch {
	case e.Reason == "":
	case e.Code == codes.Unknown: // the item of a batch, whose code is not told
		text = "larder: " + e.Reason
	default:
		text += " " + e.Reason
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is reports whether the error is of a kind, such as ErrUnavailable.
func (e *Error) Is(target error) bool {
	k, ok := target.(*kind)
	return ok && (k.code == e.Code || slices.Contains(k.reasons, e.Reason))
}

// Unwrap returns context.Canceled or context.DeadlineExceeded where the code, or the reason of a batch's item, says so,
// and else nil.
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

// GRPCStatus returns the status that the server sent, with its details.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(e.Code, e.Message)
	}
	return e.status
}

// typed turns the error of a call into an *Error. The end of a stream is none.
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
				e.CurrentVersion, _ = strconv.ParseInt(d.GetMetadata()["current_version"], 10, 64) // zero if it is not told
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if len(e.Violations) > 0 {
		e.Field = e.Violations[0].Field
	}
	return e
}

// invalid is the error for options that cannot even be put into a request.
func invalid(field, description string) error {
	return &Error{
		Code:       codes.InvalidArgument,
		Reason:     "INVALID_FIELD",
		Message:    field + ": " + description,
		Field:      field,
		Violations: []Violation{{Field: field, Description: description}},
	}
}

// contextStatus is the error of a call that its context ended.
func contextStatus(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }
