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
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "larder"

// The failures that begin in this package rather than in the store.
var (
	errInvalidField = errors.New("a field of the request is invalid")
	errOverloaded   = errors.New("the server has too many calls in flight")
	errDraining     = errors.New("the server is shutting down")
	errNoMethod     = errors.New("the server has no such method")
	errPanic        = errors.New("the server failed to handle the call")
	errInternal     = errors.New("internal error")
)

// An errorRow says what callers see of an error. The message is the text of err itself, never that of what wraps it or
// of what caused it, so that no address, key or driver text can reach a caller.
type errorRow struct {
	err        error
	code       codes.Code
	reason     string        // ErrorInfo.reason: what programs match, and never changes
	retryAfter time.Duration // RetryInfo.retry_delay, where waiting may help
}

// errorTable is the whole mapping of errors to what callers see; the first row that matches wins.
var errorTable = []errorRow{
	{err: errInvalidField, code: codes.InvalidArgument, reason: "INVALID_FIELD"},
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
	{err: cache.ErrTagged, code: codes.FailedPrecondition, reason: "TAGGED_ENTRY_MUST_EXPIRE"},
	{err: redis.ErrCorrupt, code: codes.DataLoss, reason: "ENTRY_CORRUPT"},
	{err: keyring.ErrKeyUnknown, code: codes.DataLoss, reason: "KEY_UNKNOWN"},
	{err: redis.ErrRefused, code: codes.Internal, reason: "REDIS_REFUSED"},
	{err: redis.ErrWrongMode, code: codes.Internal, reason: "REDIS_WRONG_MODE"},
	// Handlers return these two only when they are the caller's own: the store tells them from those of other callers.
	{err: context.Canceled, code: codes.Canceled, reason: "CANCELLED"},
	{err: context.DeadlineExceeded, code: codes.DeadlineExceeded, reason: "DEADLINE_EXCEEDED"},
	{err: errNoMethod, code: codes.Unimplemented, reason: "METHOD_UNKNOWN"},
	{err: errPanic, code: codes.Internal, reason: "PANIC"},
	{err: errInternal, code: codes.Internal, reason: "INTERNAL"},
}

// rowOf returns the row of err: the last one, INTERNAL, if the table does not know it.
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

// reason returns the reason of err, for the items of a batch; "" for nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	row, _ := rowOf(err)
	return row.reason
}

// A failure is an error as the caller sees it, together with what it came from, which is for the log alone.
type failure struct {
	status *status.Status
	reason string
	cause  error
}

func (f *failure) Error() string { return f.status.Err().Error() }

// GRPCStatus is how grpc finds the status of an error.
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

// forTheLog says what made a call fail, in words that hold no part of the request: those of the store if it knows some,
// else the type of the error, because the text of a foreign error may quote its input. Callers' mistakes need none.
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

// fail returns what the caller sees of err. A status that grpc itself made passes, with a reason if it has none.
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

// passed gives a status made by grpc the name of its code as the reason, such as NOT_FOUND.
func passed(st *status.Status, cause error) *failure {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return &failure{status: st, reason: info.Reason, cause: cause}
		}
	}
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: code.Code(st.Code()).String()}
	return &failure{status: withDetails(st, info), reason: info.Reason, cause: cause}
}

// withDetails adds details, of which losing them would be the lesser harm.
func withDetails(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if full, err := st.WithDetails(details...); err == nil {
		return full
	}
	return st
}

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

// valid keeps a name built from a request's bytes fit for a protobuf string.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// unaryErrors turns what a handler returned into what the caller sees.
func unaryErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err == nil {
		return resp, nil
	}
	if errors.Is(err, redis.ErrOutcomeUnknown) && !redis.Retryable(err) {
		// Making the call again would mislead the caller, so clients that retry by themselves are told not to.
		stopRetries(ctx)
	}
	return nil, fail(err)
}

// streamErrors does the same for streams, and tells a stream that the server ended from one that the client ended.
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

// stopRetries asks the client, as gRPC's retry design (A6) defines it, not to retry this call by itself.
func stopRetries(ctx context.Context) {
	// It fails only after the call has ended, when nobody listens any more.
	_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1"))
}
