package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/client"
)

var kinds = map[string]error{
	"ErrUnavailable":         client.ErrUnavailable,
	"ErrOutcomeUnknown":      client.ErrOutcomeUnknown,
	"ErrOverloaded":          client.ErrOverloaded,
	"ErrInvalid":             client.ErrInvalid,
	"ErrPageToken":           client.ErrPageToken,
	"ErrTooLarge":            client.ErrTooLarge,
	"ErrVersionMismatch":     client.ErrVersionMismatch,
	"ErrTooManyAttributes":   client.ErrTooManyAttributes,
	"ErrWrongType":           client.ErrWrongType,
	"ErrNotCounter":          client.ErrNotCounter,
	"ErrOverflow":            client.ErrOverflow,
	"ErrTagged":              client.ErrTagged,
	"ErrCorrupt":             client.ErrCorrupt,
	"ErrKeyUnknown":          client.ErrKeyUnknown,
	"ErrNotHeld":             client.ErrNotHeld,
	"ErrTooManyWaiters":      client.ErrTooManyWaiters,
	"ErrTooManyFences":       client.ErrTooManyFences,
	"ErrRefused":             client.ErrRefused,
	"ErrInternal":            client.ErrInternal,
	"context.Canceled":       context.Canceled,
	"DeadlineExceeded":       context.DeadlineExceeded,
	"ErrInactive":            client.ErrInactive,
	"ErrStepUpRequired":      client.ErrStepUpRequired,
	"ErrReauthRequired":      client.ErrReauthRequired,
	"ErrNotAnonymous":        client.ErrNotAnonymous,
	"ErrAnonymous":           client.ErrAnonymous,
	"ErrUnprocessed":         client.ErrUnprocessed,
	"ErrSubjectEpochChanged": client.ErrSubjectEpochChanged,
}

func TestErrorsAreOfTheirKindAndNoOther(t *testing.T) {
	t.Parallel()
	tests := []struct {
		code   codes.Code
		reason string
		want   []string
	}{
		{codes.Unavailable, "REDIS_UNAVAILABLE", []string{"ErrUnavailable"}},
		{codes.Unavailable, "WRITE_OUTCOME_UNKNOWN", []string{"ErrUnavailable", "ErrOutcomeUnknown"}},
		{codes.Unknown, "WRITE_OUTCOME_UNKNOWN", []string{"ErrOutcomeUnknown"}},
		{codes.ResourceExhausted, "REDIS_OVERLOADED", []string{"ErrOverloaded"}},
		{codes.ResourceExhausted, "SERVER_OVERLOADED", []string{"ErrOverloaded"}},
		{codes.InvalidArgument, "INVALID_FIELD", []string{"ErrInvalid"}},
		{codes.InvalidArgument, "PAGE_TOKEN_INVALID", []string{"ErrInvalid", "ErrPageToken"}},
		{codes.InvalidArgument, "MESSAGE_MALFORMED", []string{"ErrInvalid"}},
		{codes.ResourceExhausted, "MESSAGE_TOO_LARGE", []string{"ErrTooLarge"}},
		{codes.ResourceExhausted, "ANSWER_TOO_LARGE", []string{"ErrTooLarge"}},
		{codes.Aborted, "SESSION_VERSION_MISMATCH", []string{"ErrVersionMismatch"}},
		{codes.Aborted, "SUBJECT_EPOCH_CHANGED", []string{"ErrSubjectEpochChanged"}},
		{codes.InvalidArgument, "TOO_MANY_ATTRIBUTES", []string{"ErrInvalid", "ErrTooManyAttributes"}},
		{codes.FailedPrecondition, "WRONG_TYPE", []string{"ErrWrongType"}},
		{codes.FailedPrecondition, "NOT_A_COUNTER", []string{"ErrNotCounter"}},
		{codes.OutOfRange, "COUNTER_OVERFLOW", []string{"ErrOverflow"}},
		{codes.FailedPrecondition, "TAGGED_ENTRY_MUST_EXPIRE", []string{"ErrTagged"}},
		{codes.DataLoss, "ENTRY_CORRUPT", []string{"ErrCorrupt"}},
		{codes.DataLoss, "KEY_UNKNOWN", []string{"ErrKeyUnknown"}},
		{codes.FailedPrecondition, "LOCK_NOT_HELD", []string{"ErrNotHeld"}},
		{codes.ResourceExhausted, "TOO_MANY_WAITERS", []string{"ErrTooManyWaiters"}},
		{codes.FailedPrecondition, "TOO_MANY_FENCES", []string{"ErrTooManyFences"}},
		{codes.Internal, "REDIS_REFUSED", []string{"ErrRefused"}},
		{codes.Internal, "REDIS_WRONG_MODE", []string{"ErrRefused"}},
		{codes.Internal, "PANIC", []string{"ErrInternal"}},
		{codes.Internal, "INTERNAL", []string{"ErrInternal"}},
		{codes.Unavailable, "SERVER_SHUTTING_DOWN", []string{"ErrUnavailable"}},
		{codes.Unknown, "CANCELLED", []string{"context.Canceled"}},
		{codes.Unknown, "DEADLINE_EXCEEDED", []string{"DeadlineExceeded"}},
		{codes.Canceled, "", []string{"context.Canceled"}},
		{codes.DeadlineExceeded, "", []string{"DeadlineExceeded"}},
		{codes.FailedPrecondition, "OF_A_LATER_SERVER", nil},
	}
	for _, tt := range tests {
		t.Run(tt.code.String()+tt.reason, func(t *testing.T) {
			t.Parallel()
			b := serve(t, fail(larderError(tt.code, tt.reason)))
			c := connect(t, client.Options{Target: b.addr, MaxAttempts: 1})
			_, err := c.Cache.Get(t.Context(), "k")
			var e *client.Error
			if !errors.As(err, &e) {
				t.Fatalf("Get = error of type %T, want *client.Error", err)
			}
			if e.Code != tt.code || e.Reason != tt.reason || e.Message != "told to fail" {
				t.Errorf("Get = error %v, %q, %q; want %v, %q, %q", e.Code, e.Reason, e.Message, tt.code, tt.reason, "told to fail")
			}
			var got []string
			for name, kind := range kinds {
				if errors.Is(fmt.Errorf("wrapped: %w", err), kind) {
					got = append(got, name)
				}
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
				t.Errorf("the error is of the kinds (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDetailsComeBack(t *testing.T) {
	t.Parallel()
	sent := larderError(codes.InvalidArgument, "INVALID_FIELD",
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "key", Description: "must not be empty"},
			{Field: "tags[3]", Description: "must be at most 128 bytes"},
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)},
	)
	b := serve(t, fail(sent))
	c := connect(t, client.Options{Target: b.addr})
	_, err := c.Cache.Get(t.Context(), "")
	var got *client.Error
	if !errors.As(err, &got) {
		t.Fatalf("Get = error of type %T, want *client.Error", err)
	}
	want := &client.Error{
		Code:    codes.InvalidArgument,
		Reason:  "INVALID_FIELD",
		Message: "told to fail",
		Field:   "key",
		Violations: []client.Violation{
			{Field: "key", Description: "must not be empty"},
			{Field: "tags[3]", Description: "must be at most 128 bytes"},
		},
		RetryAfter: 3 * time.Second,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(client.Error{})); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if want := "larder: InvalidArgument INVALID_FIELD: told to fail"; err.Error() != want {
		t.Errorf("Error() = %q, want %q", err, want)
	}
	if diff := cmp.Diff(status.Convert(sent).Proto(), status.Convert(err).Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("the status of the error (-want the server's +got):\n%s", diff)
	}
}

func TestVersionMismatchTellsTheVersion(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.Aborted, "no").WithDetails(&errdetails.ErrorInfo{
		Domain: "larder", Reason: "SESSION_VERSION_MISMATCH", Metadata: map[string]string{"current_version": "7"},
	})
	if err != nil {
		t.Fatalf("WithDetails = error %v, want none", err)
	}
	c := connect(t, client.Options{Target: serve(t, fail(st.Err())).addr})
	_, err = c.Sessions.Update(t.Context(), client.ByID("s1"), client.UpdateOptions{ExpectedVersion: 3})
	var e *client.Error
	if !errors.As(err, &e) || e.CurrentVersion != 7 || !errors.Is(err, client.ErrVersionMismatch) {
		t.Errorf("Update = error %+v, want ErrVersionMismatch with CurrentVersion 7", err)
	}
}

func TestReasonOfAnotherDomainIsNotLarders(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.PermissionDenied, "no").WithDetails(&errdetails.ErrorInfo{Domain: "mesh.example", Reason: "WRONG_TYPE"})
	if err != nil {
		t.Fatalf("WithDetails = error %v, want none", err)
	}
	b := serve(t, fail(st.Err()))
	c := connect(t, client.Options{Target: b.addr})
	if _, err := c.Cache.Get(t.Context(), "k"); errors.Is(err, client.ErrWrongType) {
		t.Errorf("Get = error %v, which is ErrWrongType; want none of Larder's kinds for the reason of another domain", err)
	}
}

func TestTwoChoicesWhereOneIsAllowedAreInvalid(t *testing.T) {
	t.Parallel()
	b := serve(t, fail(errors.New("must not be called")))
	c := connect(t, client.Options{Target: b.addr})
	soon := time.Now().Add(time.Minute)
	tests := []struct {
		name, field string
		err         error
	}{
		{"SetTTLAndNever", "expiry", second(c.Cache.Set(t.Context(), "k", nil, client.SetOptions{TTL: 1, Never: true}))},
		{"SetTTLAndExpireTime", "expiry", second(c.Cache.Set(t.Context(), "k", nil, client.SetOptions{TTL: 1, ExpireTime: soon}))},
		{"SetTwoConditions", "precondition", second(c.Cache.Set(t.Context(), "k", nil, client.SetOptions{IfAbsent: true, IfMatch: "e"}))},
		{"Touch", "expiry", second(c.Cache.Touch(t.Context(), "k", client.TouchOptions{ExpireTime: soon, Never: true}))},
		{"Increment", "expiry", second(c.Cache.Increment(t.Context(), "k", 1, client.IncrementOptions{TTL: 1, Never: true}))},
		{"BatchSetExpiry", "items[1].expiry", second(c.Cache.BatchSet(t.Context(), []client.SetItem{{}, {Options: client.SetOptions{TTL: 1, Never: true}}}))},
		{"BatchSetCondition", "items[0].precondition", second(c.Cache.BatchSet(t.Context(), []client.SetItem{{Options: client.SetOptions{IfPresent: true}}}))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var e *client.Error
			if !errors.As(tt.err, &e) || !errors.Is(tt.err, client.ErrInvalid) || e.Field != tt.field {
				t.Errorf("error = %+v, want ErrInvalid of the field %s", tt.err, tt.field)
			}
			if got := status.Code(tt.err); got != codes.InvalidArgument {
				t.Errorf("status.Code = %v, want InvalidArgument", got)
			}
		})
	}
	if n := b.calls(); n != 0 {
		t.Errorf("the server got %d calls, want 0", n)
	}
}
