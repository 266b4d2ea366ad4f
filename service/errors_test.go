package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	const driverText = "dial tcp 10.1.2.3:6379: connect: connection refused, key user:7"
	tests := []struct {
		name string
		err  error
		want answer
	}{
		{"InvalidField", &FieldError{"key", "must not be empty"}, answer{codes.InvalidArgument, "INVALID_FIELD", false}},
		{"InvalidFields", FieldErrors{{"key", "must not be empty"}}, answer{codes.InvalidArgument, "INVALID_FIELD", false}},
		{"MessageMalformed", errMessageMalformed, answer{codes.InvalidArgument, "MESSAGE_MALFORMED", false}},
		{"MessageTooLarge", errMessageTooLarge, answer{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", false}},
		{"AnswerTooLarge", errAnswerTooLarge, answer{codes.ResourceExhausted, "ANSWER_TOO_LARGE", false}},
		{"Unavailable", redis.ErrUnavailable, answer{codes.Unavailable, "REDIS_UNAVAILABLE", true}},
		{"OutcomeUnknown", redis.ErrOutcomeUnknown, answer{codes.Unavailable, "WRITE_OUTCOME_UNKNOWN", true}},
		{"StoreOverloaded", redis.ErrOverloaded, answer{codes.ResourceExhausted, "REDIS_OVERLOADED", true}},
		{"ServerOverloaded", errOverloaded, answer{codes.ResourceExhausted, "SERVER_OVERLOADED", true}},
		{"Draining", errDraining, answer{codes.Unavailable, "SERVER_SHUTTING_DOWN", true}},
		{"WrongType", redis.ErrWrongType, answer{codes.FailedPrecondition, "WRONG_TYPE", false}},
		{"NotCounter", redis.ErrNotCounter, answer{codes.FailedPrecondition, "NOT_A_COUNTER", false}},
		{"Overflow", redis.ErrOverflow, answer{codes.OutOfRange, "COUNTER_OVERFLOW", false}},
		{"VersionMismatch", session.ErrVersionMismatch, answer{codes.Aborted, "SESSION_VERSION_MISMATCH", false}},
		{"SubjectEpochChanged", session.ErrSubjectEpochChanged, answer{codes.Aborted, "SUBJECT_EPOCH_CHANGED", false}},
		{"TooManyAttributes", session.ErrTooManyAttributes, answer{codes.InvalidArgument, "TOO_MANY_ATTRIBUTES", false}},
		{"NotHeld", lock.ErrNotHeld, answer{codes.FailedPrecondition, "LOCK_NOT_HELD", false}},
		{"TooManyWaiters", lock.ErrTooManyWaiters, answer{codes.ResourceExhausted, "TOO_MANY_WAITERS", true}},
		{"TooManyFences", cache.ErrTooManyFences, answer{codes.FailedPrecondition, "TOO_MANY_FENCES", false}},
		{"Tagged", cache.ErrTagged, answer{codes.FailedPrecondition, "TAGGED_ENTRY_MUST_EXPIRE", false}},
		{"PageToken", redis.ErrPageToken, answer{codes.InvalidArgument, "PAGE_TOKEN_INVALID", false}},
		{"EventsTrimmed", session.ErrEventsTrimmed, answer{codes.OutOfRange, "EVENTS_TRIMMED", false}},
		{"Corrupt", redis.ErrCorrupt, answer{codes.DataLoss, "ENTRY_CORRUPT", false}},
		{"KeyUnknown", keyring.ErrKeyUnknown, answer{codes.DataLoss, "KEY_UNKNOWN", false}},
		{"Refused", redis.ErrRefused, answer{codes.Internal, "REDIS_REFUSED", false}},
		{"WrongMode", redis.ErrWrongMode, answer{codes.Internal, "REDIS_WRONG_MODE", false}},
		{"Canceled", context.Canceled, answer{codes.Canceled, "CANCELLED", false}},
		{"DeadlineExceeded", context.DeadlineExceeded, answer{codes.DeadlineExceeded, "DEADLINE_EXCEEDED", false}},
		{"NoMethod", errNoMethod, answer{codes.Unimplemented, "METHOD_UNKNOWN", false}},
		{"Panic", errPanic, answer{codes.Internal, "PANIC", false}},
		{"Internal", errInternal, answer{codes.Internal, "INTERNAL", false}},
		{"AnythingElse", errors.New("something"), answer{codes.Internal, "INTERNAL", false}},
		{"Status", status.Error(codes.NotFound, "no such thing"), answer{codes.NotFound, "NOT_FOUND", false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := run(t, failing(fmt.Errorf("%s: %w", driverText, tt.err)), Options{})
			_, unary := s.cache.Get(t.Context(), &cachev1.GetRequest{})
			walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{})
			if err != nil {
				t.Fatalf("DeleteMatching = %v, want a stream", err)
			}
			_, stream := walk.Recv()
			for _, err := range []error{unary, stream} {
				wantAnswer(t, err, tt.want)
				if text := status.Convert(err).Message(); text == "" || strings.Contains(text, "10.1.2.3") || strings.Contains(text, "user:7") {
					t.Errorf("message = %q, want one without address and key", text)
				}
			}
			if tt.want.Code != codes.NotFound && reason(tt.err) != tt.want.Reason {
				t.Errorf("reason of an item = %q, want %q", reason(tt.err), tt.want.Reason)
			}
		})
	}

	for _, row := range errorTable {
		covered := false
		for _, tt := range tests {
			covered = covered || tt.want.Reason == row.reason && tt.want.Code == row.code
		}
		if !covered {
			t.Errorf("tests have no case of %s, want one", row.reason)
		}
	}
	if reason(nil) != "" {
		t.Errorf("reason(nil) = %q, want none", reason(nil))
	}
}

func TestInvalidFieldsAreAllNamed(t *testing.T) {
	t.Parallel()
	s := run(t, failing(FieldErrors{{"items[3].key", "is \xff long"}, {"ttl", "must be positive"}}), Options{})
	_, err := s.cache.Get(t.Context(), &cachev1.GetRequest{})

	if got, want := status.Convert(err).Message(), "items[3].key: is \uFFFD long (and 1 more)"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
	var got []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				got = append(got, v.Field+" "+v.Description)
			}
		}
	}
	if diff := cmp.Diff([]string{"items[3].key is \uFFFD long", "ttl must be positive"}, got); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}

func TestStatusOfGRPCItself(t *testing.T) {
	t.Parallel()
	s := run(t, failing(nil), Options{})

	_, err := s.live.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "nobody"})
	wantAnswer(t, err, answer{Code: codes.NotFound, Reason: "NOT_FOUND"})
	_, err = s.cache.Touch(t.Context(), &cachev1.TouchRequest{})
	wantAnswer(t, err, answer{Code: codes.Unimplemented, Reason: "UNIMPLEMENTED"})
}

func TestAReasonThatAStatusHasIsKept(t *testing.T) {
	t.Parallel()
	made, err := status.New(codes.NotFound, "gone").WithDetails(&errdetails.ErrorInfo{Domain: "larder", Reason: "GONE"})
	if err != nil {
		t.Fatalf("WithDetails = %v, want nil", err)
	}
	s := run(t, failing(made.Err()), Options{})
	_, err = s.cache.Get(t.Context(), &cachev1.GetRequest{})
	wantAnswer(t, err, answer{Code: codes.NotFound, Reason: "GONE"})
	if n := len(status.Convert(err).Details()); n != 1 {
		t.Errorf("number of details = %d, want 1", n)
	}
}

// A write that may have been made, and would mislead if it were made again, must not be repeated by a client's retry policy.
func TestOutcomeUnknownStopsTheRetriesOfClients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want []string
	}{
		{redis.ErrOutcomeUnknown, []string{"-1"}},
		{redis.ErrUnavailable, nil},
	} {
		s := run(t, failing(tt.err), Options{})
		var trailer metadata.MD
		if _, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{}, grpc.Trailer(&trailer)); err == nil {
			t.Fatalf("Increment = nil, want %v", tt.err)
		}
		if diff := cmp.Diff(tt.want, trailer.Get("grpc-retry-pushback-ms")); diff != "" {
			t.Errorf("trailer after %v (-want +got):\n%s", tt.err, diff)
		}
	}
}
