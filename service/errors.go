package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "larder"

// The errors that arise in this package rather than in the store.
var (
	errInvalidField = errors.New("a field of the request is invalid")
	errOverloaded   = errors.New("the server has too many calls in flight")
	errDraining     = errors.New("the server is shutting down")
	errNoMethod     = errors.New("the server does not implement this method")
	errPanic        = errors.New("the handler of the call failed unexpectedly")
	errInternal     = errors.New("internal error")
)

// An errorRow maps an error to what callers see. The message is the text of err itself, never that of an error that wraps
// it or caused it, so that no address, key or driver text reaches a caller.
type errorRow struct {
	err        error
	code       codes.Code
	reason     string        // ErrorInfo.reason, which programs match and which therefore never changes
	retryAfter time.Duration // RetryInfo.retry_delay; zero where a retry does not help
}

// errorTable is the complete mapping of errors to what callers see. The first row whose err matches by errors.Is applies.
var errorTable = []errorRow{
	{err: errInvalidField, code: codes.InvalidArgument, reason: "INVALID_FIELD"},
	{err: errMessageMalformed, code: codes.InvalidArgument, reason: "MESSAGE_MALFORMED"},
	{err: errMessageTooLarge, code: codes.ResourceExhausted, reason: "MESSAGE_TOO_LARGE"},
	{err: errAnswerTooLarge, code: codes.ResourceExhausted, reason: "ANSWER_TOO_LARGE"},
	{err: redis.ErrUnavailable, code: codes.Unavailable, reason: "REDIS_UNAVAILABLE", retryAfter: 500 * time.Millisecond},
	{err: redis.ErrOutcomeUnknown, code: codes.Unavailable, reason: "WRITE_OUTCOME_UNKNOWN", retryAfter: 500 * time.Millisecond},
	{err: redis.ErrOverloaded, code: codes.ResourceExhausted, reason: "REDIS_OVERLOADED", retryAfter: 500 * time.Millisecond},
	{err: errOverloaded, code: codes.ResourceExhausted, reason: "SERVER_OVERLOADED", retryAfter: 100 * time.Millisecond},
	{err: errDraining, code: codes.Unavailable, reason: "SERVER_SHUTTING_DOWN", retryAfter: 100 * time.Millisecond},
	{err: redis.ErrWrongType, code: codes.FailedPrecondition, reason: "WRONG_TYPE"},
	{err: redis.ErrNotCounter, code: codes.FailedPrecondition, reason: "NOT_A_COUNTER"},
	{err: redis.ErrOverflow, code: codes.OutOfRange, reason: "COUNTER_OVERFLOW"},
	{err: session.ErrVersionMismatch, code: codes.Aborted, reason: "SESSION_VERSION_MISMATCH"},
	{err: session.ErrSubjectEpochChanged, code: codes.Aborted, reason: "SUBJECT_EPOCH_CHANGED"},
	{err: session.ErrTooManyAttributes, code: codes.InvalidArgument, reason: "TOO_MANY_ATTRIBUTES"},
	{err: redis.ErrPageToken, code: codes.InvalidArgument, reason: "PAGE_TOKEN_INVALID"},
	{err: session.ErrEventsTrimmed, code: codes.OutOfRange, reason: "EVENTS_TRIMMED"},
	{err: lock.ErrNotHeld, code: codes.FailedPrecondition, reason: "LOCK_NOT_HELD"},
	{err: lock.ErrTooManyWaiters, code: codes.ResourceExhausted, reason: "TOO_MANY_WAITERS", retryAfter: time.Second},
	{err: cache.ErrTooManyFences, code: codes.FailedPrecondition, reason: "TOO_MANY_FENCES"},
	{err: cache.ErrTagged, code: codes.FailedPrecondition, reason: "TAGGED_ENTRY_MUST_EXPIRE"},
	{err: redis.ErrCorrupt, code: codes.DataLoss, reason: "ENTRY_CORRUPT"},
	{err: keyring.ErrKeyUnknown, code: codes.DataLoss, reason: "KEY_UNKNOWN"},
	{err: redis.ErrRefused, code: codes.Internal, reason: "REDIS_REFUSED"},
	{err: redis.ErrWrongMode, code: codes.Internal, reason: "REDIS_WRONG_MODE"},
	// The store returns these two only for the caller's own context, never for that of another caller it shared a read with.
	{err: context.Canceled, code: codes.Canceled, reason: "CANCELLED"},
	{err: context.DeadlineExceeded, code: codes.DeadlineExceeded, reason: "DEADLINE_EXCEEDED"},
	{err: errNoMethod, code: codes.Unimplemented, reason: "METHOD_UNKNOWN"},
	{err: errPanic, code: codes.Internal, reason: "PANIC"},
	{err: errInternal, code: codes.Internal, reason: "INTERNAL"},
}

// rowOf returns the row of err; if no row matches, known is false and row is the last one, INTERNAL.
func rowOf(err error) (row errorRow, known bool) {
	if len(fieldErrors(err)) > 0 {
		err = errInvalidField
	}
	for _, row = range errorTable {
		if errors.Is(err, row.err) {
			return row, true
		}
	}
	return row, false
}

// reason returns the reason of err, which items of a batch and metrics carry; "" for nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	row, _ := rowOf(err)
	return row.reason
}

// A failure is an error as the caller sees it, with its cause, which only the log shows.
type failure struct {
	status *status.Status
	reason string
	cause  error
}

func (f *failure) Error() string { return f.status.Err().Error() }

// GRPCStatus returns the status that grpc-go sends to the caller.
func (f *failure) GRPCStatus() *status.Status { return f.status }

// levelOf returns the level at which a call with a code is logged: error for what developers must look at, warning for
// what operators must, info for what only the caller can act on.
func levelOf(code codes.Code) logging.Level {
	switch code {
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return logging.LevelError
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return logging.LevelWarn
	default:
		return logging.LevelInfo
	}
}

// always returns a level for every code.
func always(level logging.Level) logging.CodeToLevel {
	return func(codes.Code) logging.Level { return level }
}

// forTheLog returns the cause of a failure as text that contains no part of the request: the store's description if it has
// one, otherwise the type of an error that the table does not know, because the text of a foreign error may quote its
// input. It returns "" for failures that the reason explains, such as mistakes of the caller.
func (f *failure) forTheLog() string {
	switch f.status.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.DataLoss, codes.Unknown:
	default:
		return ""
	}
	if cause := redis.Cause(f.cause); cause != f.cause.Error() {
		return cause
	}
	if _, known := rowOf(f.cause); known {
		return ""
	}
	return fmt.Sprintf("%T", f.cause)
}

// codeOf returns the code that the caller sees of an error; OK for nil.
func codeOf(err error) codes.Code { return status.Code(err) }

// fail returns what the caller sees of err. A status made by grpc-go itself keeps its code and message.
func fail(err error) *failure {
	row, known := rowOf(err)
	var made interface{ GRPCStatus() *status.Status }
	if !known && errors.As(err, &made) && made.GRPCStatus().Code() != codes.OK {
		return passed(made.GRPCStatus(), err)
	}
	message := row.err.Error()
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: row.reason}
	if mismatch := (*session.VersionMismatchError)(nil); errors.As(err, &mismatch) {
		info.Metadata = map[string]string{"current_version": strconv.FormatInt(mismatch.Version, 10)}
	}
	details := []protoadapt.MessageV1{info}
	if row.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(row.retryAfter)})
	}
	if fields := fieldErrors(err); len(fields) > 0 {
		bad := new(errdetails.BadRequest)
		for _, f := range fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: valid(f.Field), Description: valid(f.Description),
			})
		}
		details = append(details, bad)
		message = fmt.Sprintf("%s: %s", valid(fields[0].Field), valid(fields[0].Description))
		if more := len(fields) - 1; more > 0 {
			message += fmt.Sprintf(" (and %d more)", more)
		}
	}
	return &failure{status: withDetails(status.New(row.code, message), details...), reason: row.reason, cause: err}
}

// passed returns a status made by grpc-go, with the name of its code as the reason, such as NOT_FOUND, unless it has one.
func passed(st *status.Status, cause error) *failure {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return &failure{status: st, reason: info.Reason, cause: cause}
		}
	}
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: code.Code(st.Code()).String()}
	return &failure{status: withDetails(st, info), reason: info.Reason, cause: cause}
}

// withDetails adds details to a status. If they cannot be encoded the status is returned without them, because the caller
// needs its code most.
func withDetails(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if full, err := st.WithDetails(details...); err == nil {
		return full
	}
	return st
}

// fieldErrors returns the field errors that err consists of, none if it is another error.
func fieldErrors(err error) FieldErrors {
	var many FieldErrors
	if errors.As(err, &many) {
		return many
	}
	var one *FieldError
	if errors.As(err, &one) {
		return FieldErrors{one}
	}
	return nil
}

// valid replaces invalid UTF-8, which a name built from a request may contain and a protobuf string must not.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// unaryErrors maps the error of a unary handler to what the caller sees.
func unaryErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err == nil {
		return resp, nil
	}
	if errors.Is(err, redis.ErrOutcomeUnknown) && !redis.Retryable(err) {
		// The write may have been applied, and a repeated call would add a second time or fail on the caller's own write.
		// So clients that retry by themselves are told not to.
		stopRetries(ctx)
	}
	return nil, fail(err)
}

// streamErrors does the same for streams. A stream that the server ended to shut down gets errDraining rather than
// context.Canceled, which is for streams that the client ended.
func streamErrors(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(srv, ss)
	if err == nil {
		return nil
	}
	ended := errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled
	if ended && errors.Is(context.Cause(ss.Context()), errDraining) {
		err = errDraining
	}
	return fail(err)
}

// stopRetries tells the client not to retry this call by itself, with the trailer that gRPC's retry design (gRFC A6)
// defines.
func stopRetries(ctx context.Context) {
	// It fails only after the call has ended, when no client can retry it any more.
	_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1"))
}
