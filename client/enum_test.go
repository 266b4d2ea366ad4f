package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// names returns the names of the values of enums, by prefix and without it, sorted and each once, except the unspecified
// ones.
func names(t *testing.T, enums map[string]protoreflect.Enum) (all []string) {
	t.Helper()
	for prefix, enum := range enums {
		values := enum.Descriptor().Values()
		for i := range values.Len() {
			name, found := strings.CutPrefix(string(values.Get(i).Name()), prefix)
			if !found {
				t.Errorf("the enum value is named %s, want the prefix %s", values.Get(i).Name(), prefix)
			}
			if values.Get(i).Number() != 0 {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// constants returns the constants of one string type, sorted.
func constants[S ~string](values ...S) (all []string) {
	for _, v := range values {
		all = append(all, string(v))
	}
	slices.Sort(all)
	return all
}

// TestEveryEnumValueHasAConstant: whoever adds a value to the API has to add a constant to this package.
func TestEveryEnumValueHasAConstant(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		enums     map[string]protoreflect.Enum
		constants []string
	}{
		"Outcome": {
			map[string]protoreflect.Enum{
				"GET_OUTCOME_": cachev1.GetOutcome(0), "BATCH_GET_OUTCOME_": cachev1.BatchGetOutcome(0),
				"SET_OUTCOME_": cachev1.SetOutcome(0), "BATCH_SET_OUTCOME_": cachev1.BatchSetOutcome(0),
				"DELETE_OUTCOME_": cachev1.DeleteOutcome(0), "BATCH_DELETE_OUTCOME_": cachev1.BatchDeleteOutcome(0),
				"TOUCH_OUTCOME_": cachev1.TouchOutcome(0), "INCREMENT_OUTCOME_": cachev1.IncrementOutcome(0),
				"GET_OR_LEASE_OUTCOME_": cachev1.GetOrLeaseOutcome(0), "FILL_OUTCOME_": cachev1.FillOutcome(0),
				"READ_OUTCOME_":    cachev1.ReadOutcome(0),
				"CONSUME_OUTCOME_": ratelimitv1.ConsumeOutcome(0), "LIMIT_OUTCOME_": ratelimitv1.LimitOutcome(0),
				"DENIAL_REASON_": ratelimitv1.DenialReason(0), "SETTLE_OUTCOME_": ratelimitv1.SettleOutcome(0),
			},
			constants(
				client.Hit, client.Stale, client.Negative, client.Miss, client.NotModified, client.Pending, client.Unprocessed,
				client.Stored, client.NotStored, client.Deleted, client.NotDeleted, client.Touched, client.Unchanged,
				client.Incremented, client.Saturated, client.Rejected, client.LeaseExpired, client.Invalidated,
				client.Superseded, client.Failed,
				client.Allowed, client.Denied, client.LimitExceeded, client.CostExceedsCapacity, client.RedisUnavailable,
				client.Committed, client.Cancelled, client.NotReserved,
			),
		},
		"Source":    {map[string]protoreflect.Enum{"SOURCE_": cachev1.Source(0)}, constants(client.NearCache, client.Redis)},
		"TouchMode": {map[string]protoreflect.Enum{"TOUCH_MODE_": cachev1.TouchMode(0)}, constants(client.Overwrite, client.ExtendOnly, client.ShortenOnly)},
		"TTLPolicy": {map[string]protoreflect.Enum{"TTL_POLICY_": cachev1.TtlPolicy(0)}, constants(client.TTLOnCreate, client.TTLAlways, client.TTLKeep)},
		"InvalidationMode": {
			map[string]protoreflect.Enum{"INVALIDATION_MODE_": cachev1.InvalidationMode(0)},
			constants(client.Remove, client.MakeStale),
		},
		"WatchEventType": {
			map[string]protoreflect.Enum{"WATCH_EVENT_": cachev1.WatchEvent(0)},
			append(constants(client.NamespaceCleared), append([]string{"HEARTBEAT"}, constants(client.KeyInvalidated, client.WatchReset, client.TagInvalidated)...)...),
		},
		"RateLimitAlgorithm": {map[string]protoreflect.Enum{"ALGORITHM_": ratelimitv1.Algorithm(0)}, constants(client.GCRA, client.SlidingWindow, client.FixedWindow)},
		"RateLimitAlignment": {
			map[string]protoreflect.Enum{"ALIGNMENT_": ratelimitv1.Alignment(0)},
			constants(client.AlignFirstUse, client.AlignEpoch, client.AlignCalendar),
		},
		"FailurePolicy": {map[string]protoreflect.Enum{"FAILURE_POLICY_": ratelimitv1.FailurePolicy(0)}, constants(client.FailOpen, client.FailClosed, client.FailLocal)},
		"SessionTouch": {
			map[string]protoreflect.Enum{"TOUCH_": sessionv1.Touch(0)},
			constants(client.TouchAuto, client.TouchNever, client.TouchForce),
		},
		"TokenKind": {
			map[string]protoreflect.Enum{"TOKEN_KIND_": tokenv1.TokenKind(0)},
			constants(client.TokenLink, client.TokenCode, client.TokenRecovery),
		},
		"TokenAlphabet": {
			map[string]protoreflect.Enum{"CODE_ALPHABET_": tokenv1.CodeAlphabet(0)},
			constants(client.TokenDigits, client.TokenCrockford),
		},
		"SessionEventType": {
			map[string]protoreflect.Enum{"SESSION_EVENT_TYPE_": sessionv1.SessionEventType(0)},
			constants(
				client.SessionCreated, client.SessionRotated, client.SessionAttributesChanged, client.SessionPromoted,
				client.SessionReauthenticated, client.SessionRevoked, client.SessionExpiredIdle, client.SessionExpiredAbsolute,
				client.SessionTokenReuse, client.TokenIssued, client.TokenConsumed, client.TokenFailed, client.TokenLocked,
				client.TokenRevoked, client.TokenSubjectReset,
			),
		},
	} {
		if got := names(t, tt.enums); !slices.Equal(got, tt.constants) {
			t.Errorf("the constants of %s are %q, want those of the API, %q", name, tt.constants, got)
		}
	}
}

// TestUnknownConstantsAreRefused: a string that is not a constant of its type is an error without a call to the server.
func TestUnknownConstantsAreRefused(t *testing.T) {
	t.Parallel()
	b := serve(t, fail(errors.New("must not be called")))
	c := connect(t, client.Options{Target: b.addr})
	ctx := t.Context()
	for field, err := range map[string]error{
		"mode":           second(c.Cache.Touch(ctx, "k", client.TouchOptions{Mode: "UNSPECIFIED"})),
		"mode ":          c.Cache.InvalidateTags(ctx, "REMOVE", "tag"),
		"mode  ":         c.Cache.Clear(ctx, "delete"),
		"ttl_policy":     second(c.Cache.Increment(ctx, "k", 1, client.IncrementOptions{TTLPolicy: "NEVER"})),
		"touch":          second(c.Sessions.Validate(ctx, "t", client.ValidateOptions{Touch: "MAYBE"})),
		"items[1].touch": second(c.Sessions.BatchValidate(ctx, []client.ValidateItem{{Token: "t"}, {Options: client.ValidateOptions{Touch: "MAYBE"}}})),
		"algorithm":      second(c.RateLimits.Consume(ctx, "s", []client.RateLimit{{Inline: &client.RateLimitRule{Algorithm: "LEAKY"}}}, client.ConsumeOptions{})),
		"alignment":      second(c.RateLimits.Peek(ctx, "s", []client.RateLimit{{Inline: &client.RateLimitRule{Alignment: "MOON"}}}, nil)),
		"on_failure":     second(c.RateLimits.Refund(ctx, "s", []client.RateLimit{{Inline: &client.RateLimitRule{OnFailure: "PANIC"}}}, client.RefundOptions{})),
		"limits":         second(c.RateLimits.BatchConsume(ctx, []client.ConsumeItem{{Limits: []client.RateLimit{{Rule: "a", Inline: &client.RateLimitRule{}}}}})),
		"kind":           second(c.Tokens.Issue(ctx, "s", "p", "SMOKE", client.IssueOptions{})),
		"alphabet":       second(c.Tokens.Issue(ctx, "s", "p", client.TokenCode, client.IssueOptions{Alphabet: "RUNES"})),
		"types[1]":       end(c.Sessions.WatchEvents(ctx, client.WatchEventsOptions{Types: []client.SessionEventType{client.SessionCreated, "ENDED"}})),
	} {
		field = strings.TrimSpace(field)
		var e *client.Error
		if !errors.As(err, &e) || !errors.Is(err, client.ErrInvalid) || e.Field != field {
			t.Errorf("error = %v, want ErrInvalid of the field %s", err, field)
		}
	}
	if n := b.calls(); n != 0 {
		t.Errorf("the server got %d calls, want 0", n)
	}
}

// TestValuesOfALaterServer: enum values that this package does not know are Unrecognized in every string type.
func TestValuesOfALaterServer(t *testing.T) {
	t.Parallel()
	const later = 99
	b := &backend{answer: func(_ context.Context, req any) (any, error) {
		switch req.(type) {
		case *cachev1.GetRequest:
			return &cachev1.GetResponse{Outcome: later, Source: later}, nil
		case *cachev1.SetRequest:
			return &cachev1.SetResponse{Outcome: later}, nil
		default:
			return nil, fmt.Errorf("unexpected %T", req)
		}
	}}
	b.events = func(_ *sessionv1.WatchSessionEventsRequest, s grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error {
		return errors.Join(
			s.Send(&sessionv1.WatchSessionEventsResponse{Event: &sessionv1.SessionEvent{EventId: "1", Type: later}}),
			s.Send(&sessionv1.WatchSessionEventsResponse{Event: &sessionv1.SessionEvent{EventId: "2"}}), // a type that the server does not know either
			larderError(0xb, "EVENTS_TRIMMED"),
		)
	}
	c := connect(t, client.Options{Target: b.start(t, nil).addr})
	if e, err := c.Cache.Get(t.Context(), "k"); err != nil || e.Outcome != client.Unrecognized || e.Source != client.Unrecognized || e.Found() {
		t.Errorf("Get = %+v, %v; want outcome and source %s and no value", e, err, client.Unrecognized)
	}
	if w, err := c.Cache.Set(t.Context(), "k", nil, client.SetOptions{}); err != nil || w.Outcome != client.Unrecognized {
		t.Errorf("Set = %+v, %v; want outcome %s", w, err, client.Unrecognized)
	}
	events := 0
	for e, err := range c.Sessions.WatchEvents(t.Context(), client.WatchEventsOptions{ResumeToken: "r"}) {
		if err != nil {
			break
		}
		if events++; e.Type != client.Unrecognized {
			t.Errorf("event %s has the type %q, want %q", e.ID, e.Type, client.Unrecognized)
		}
	}
	if events != 2 {
		t.Errorf("%d events were yielded, want 2", events)
	}
}
