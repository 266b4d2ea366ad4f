package client_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/client"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

// TestRateLimitHeaders: the examples of draft-ietf-httpapi-ratelimit-headers-11, each from an answer that means the same.
func TestRateLimitHeaders(t *testing.T) {
	t.Parallel()
	status := func(name string, limit int64, window time.Duration, remaining int64, available time.Duration) client.RateLimitStatus {
		return client.RateLimitStatus{Outcome: client.Allowed, Name: name, Limit: limit, Window: window, Remaining: remaining, AvailableAfter: available}
	}
	partitioned := func(s client.RateLimitStatus, partition string) client.RateLimitStatus {
		s.Partition = []byte(partition)
		return s
	}
	allowed := func(limits ...client.RateLimitStatus) client.RateLimitDecision {
		return client.RateLimitDecision{Outcome: client.Allowed, Allowed: true, Limits: limits}
	}
	shadow, unknown, local := status("shadow", 1, time.Second, 0, time.Second), status("unknown", 9, time.Minute, 0, 0), status("local", 9, time.Minute, 3, time.Second)
	shadow.Shadow, unknown.Degraded, local.Degraded = true, true, true
	denied := client.RateLimitDecision{Outcome: client.Denied, RetryAfter: 5 * time.Second, Limits: []client.RateLimitStatus{status("", 100, time.Minute, 0, 5*time.Second)}}
	never := denied
	never.RetryAfter, never.Reason = 0, client.CostExceedsCapacity
	for name, tt := range map[string]struct {
		decision             client.RateLimitDecision
		policy, limit, retry string
	}{
		// 3.2
		"one policy":       {allowed(status("default", 100, 10*time.Second, 100, 0)), `"default";q=100;w=10`, `"default";r=100`, ""},
		"several policies": {allowed(status("permin", 50, time.Minute, 50, 0), status("perhr", 1000, time.Hour, 1000, 0)), `"permin";q=50;w=60, "perhr";q=1000;w=3600`, `"permin";r=50, "perhr";r=1000`, ""},
		// 4.2
		"50 units for 30 seconds": {allowed(status("default", 100, time.Minute, 50, 30*time.Second)), `"default";q=100;w=60`, `"default";r=50;t=30`, ""},
		"partition keys": {
			allowed(partitioned(status("default", 1000, time.Minute, 999, 0), "trial121323"), partitioned(status("app", 500_000_000, time.Minute, 300_000_000, time.Minute), "App-999")),
			`"default";q=1000;w=60;pk=:dHJpYWwxMjEzMjM=:, "app";q=500000000;w=60;pk=:QXBwLTk5OQ==:`,
			`"default";r=999;pk=:dHJpYWwxMjEzMjM=:, "app";r=300000000;t=60;pk=:QXBwLTk5OQ==:`, "",
		},
		// B.1.1, B.1.2, B.1.3
		"exhausted":       {allowed(status("", 100, time.Minute, 0, 50*time.Second)), `"default";q=100;w=60`, `"default";r=0;t=50`, ""},
		"the daily limit": {allowed(status("dayLimit", 5000, 24*time.Hour, 100, 10*time.Hour)), `"dayLimit";q=5000;w=86400`, `"dayLimit";r=100;t=36000`, ""},
		"after 2 seconds": {allowed(status("basic", 100, time.Minute, 60, 58*time.Second)), `"basic";q=100;w=60`, `"basic";r=60;t=58`, ""},
		// B.1.4
		"throttled": {denied, `"default";q=100;w=60`, `"default";r=0;t=5`, "5"},
		// B.2.1
		"a fixed window": {allowed(status("fixedwindow", 100, time.Minute, 99, 50*time.Second)), `"fixedwindow";q=100;w=60`, `"fixedwindow";r=99;t=50`, ""},

		"one subject needs no partition":  {allowed(partitioned(status("a", 1, time.Second, 1, 0), "x"), partitioned(status("b", 1, time.Second, 1, 0), "x")), `"a";q=1;w=1, "b";q=1;w=1`, `"a";r=1, "b";r=1`, ""},
		"parts of seconds are rounded up": {allowed(status("a", 1, 1500*time.Millisecond, 0, time.Millisecond)), `"a";q=1;w=2`, `"a";r=0;t=1`, ""},
		"never":                           {never, `"default";q=100;w=60`, `"default";r=0;t=5`, ""},
		"shadow and degraded":             {allowed(shadow, unknown, local), `"unknown";q=9;w=60, "local";q=9;w=60`, `"local";r=3;t=1`, ""},
		"nothing":                         {client.RateLimitDecision{}, "", "", ""},
	} {
		want := make(http.Header)
		for field, value := range map[string]string{"RateLimit-Policy": tt.policy, "RateLimit": tt.limit, "Retry-After": tt.retry} {
			if value != "" {
				want.Set(field, value)
			}
		}
		if diff := cmp.Diff(want, client.RateLimitHeaders(tt.decision)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRateLimitCalls: each method sends what it is given, and returns what is answered.
func TestRateLimitCalls(t *testing.T) {
	t.Parallel()
	said := &ratelimitv1.LimitStatus{
		Outcome: ratelimitv1.LimitOutcome_LIMIT_OUTCOME_DENIED, Name: "n", Limit: 5, Window: durationpb.New(time.Minute), Burst: 6, Remaining: 1, Used: 2, Charged: 3,
		AvailableAfter: durationpb.New(4), ResetAfter: durationpb.New(5), RetryAfter: durationpb.New(6), Shadow: true, Degraded: true, Partition: []byte("12345678"),
	}
	told := client.RateLimitStatus{
		Outcome: client.Denied, Name: "n", Limit: 5, Window: time.Minute, Burst: 6, Remaining: 1, Used: 2, Charged: 3,
		AvailableAfter: 4, ResetAfter: 5, RetryAfter: 6, Shadow: true, Degraded: true, Partition: []byte("12345678"),
	}
	decision := client.RateLimitDecision{
		Outcome: client.Denied, Reason: client.LimitExceeded, Granted: 7, RetryAfter: time.Second, Degraded: true, Limits: []client.RateLimitStatus{told},
	}
	outcome, reason, limits := ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_DENIED, ratelimitv1.DenialReason_DENIAL_REASON_LIMIT_EXCEEDED, []*ratelimitv1.LimitStatus{said}
	retry := durationpb.New(time.Second)
	b := serve(t, func(_ context.Context, req any) (any, error) {
		switch req.(type) {
		case *ratelimitv1.ConsumeRequest:
			return &ratelimitv1.ConsumeResponse{Outcome: outcome, DenialReason: reason, Granted: 7, RetryAfter: retry, Degraded: true, Limits: limits}, nil
		case *ratelimitv1.BatchConsumeRequest:
			return &ratelimitv1.BatchConsumeResponse{Results: []*ratelimitv1.BatchConsumeResult{{Outcome: outcome, DenialReason: reason, Granted: 7, RetryAfter: retry, Degraded: true, Limits: limits}}}, nil
		case *ratelimitv1.PeekRequest:
			return &ratelimitv1.PeekResponse{Outcome: outcome, DenialReason: reason, RetryAfter: retry, Degraded: true, Limits: limits}, nil
		case *ratelimitv1.RefundRequest:
			return &ratelimitv1.RefundResponse{Limits: limits}, nil
		case *ratelimitv1.ReserveRequest:
			return &ratelimitv1.ReserveResponse{Outcome: outcome, DenialReason: reason, Granted: 7, RetryAfter: retry, Degraded: true, Limits: limits, ReservationId: "r"}, nil
		case *ratelimitv1.CommitRequest:
			return &ratelimitv1.CommitResponse{Outcome: ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED, Limits: limits}, nil
		case *ratelimitv1.CancelRequest:
			return &ratelimitv1.CancelResponse{Outcome: ratelimitv1.SettleOutcome_SETTLE_OUTCOME_NOT_RESERVED}, nil
		default:
			return &ratelimitv1.ResetResponse{Reset_: true}, nil
		}
	})
	c := connect(t, client.Options{Target: b.addr, Namespace: "other"}).RateLimits.In("n")
	rules := []client.RateLimit{{Rule: "login"}, {Subject: "all", Inline: &client.RateLimitRule{
		Name: "x", Algorithm: client.FixedWindow, Capacity: 1, Period: time.Second, Burst: 2, Alignment: client.AlignCalendar, Penalize: true, Shadow: true,
		OnFailure: client.FailLocal, RedisTimeout: time.Millisecond,
	}}}
	sent := []*ratelimitv1.Limit{{Kind: &ratelimitv1.Limit_Rule{Rule: "login"}}, {Subject: "all", Kind: &ratelimitv1.Limit_Inline{Inline: &ratelimitv1.Rule{
		Name: "x", Algorithm: ratelimitv1.Algorithm_ALGORITHM_FIXED_WINDOW, Capacity: 1, Period: durationpb.New(time.Second), Burst: 2,
		Alignment: ratelimitv1.Alignment_ALIGNMENT_CALENDAR, Penalize: true, Shadow: true, OnFailure: ratelimitv1.FailurePolicy_FAILURE_POLICY_LOCAL,
		RedisTimeout: durationpb.New(time.Millisecond),
	}}}}
	cost := int64(7)
	peeked, options := decision, client.ConsumeOptions{Cost: &cost, AllowPartial: true, RequestID: "id"}
	peeked.Granted = 0
	ctx := t.Context()
	check := func(what string, want proto.Message, answer, wantAnswer any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: error %v, want none", what, err)
		}
		if got := b.last(t); !proto.Equal(got, want) {
			t.Errorf("%s sent %v, want %v", what, got, want)
		}
		if diff := cmp.Diff(wantAnswer, answer); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	d, err := c.Consume(ctx, "ann", rules, options)
	check("Consume", &ratelimitv1.ConsumeRequest{Namespace: "n", Subject: "ann", Limits: sent, Cost: &cost, AllowPartial: true, RequestId: "id"}, d, decision, err)
	all, err := c.BatchConsume(ctx, []client.ConsumeItem{{Subject: "ann", Limits: rules, Options: options}})
	check("BatchConsume", &ratelimitv1.BatchConsumeRequest{Namespace: "n", Items: []*ratelimitv1.BatchConsumeItem{{Subject: "ann", Limits: sent, Cost: &cost, AllowPartial: true, RequestId: "id"}}},
		all, []client.RateLimitDecision{decision}, err)
	d, err = c.Peek(ctx, "ann", rules, &cost)
	check("Peek", &ratelimitv1.PeekRequest{Namespace: "n", Subject: "ann", Limits: sent, Cost: &cost}, d, peeked, err)
	left, err := c.Refund(ctx, "ann", rules, client.RefundOptions{Cost: &cost, RequestID: "id"})
	check("Refund", &ratelimitv1.RefundRequest{Namespace: "n", Subject: "ann", Limits: sent, Cost: &cost, RequestId: "id"}, left, []client.RateLimitStatus{told}, err)
	r, err := c.Reserve(ctx, "ann", rules, time.Minute, options)
	check("Reserve", &ratelimitv1.ReserveRequest{Namespace: "n", Subject: "ann", Limits: sent, Cost: &cost, Ttl: durationpb.New(time.Minute), AllowPartial: true, RequestId: "id"},
		r, client.Reservation{RateLimitDecision: decision, ID: "r"}, err)
	end, err := c.Commit(ctx, "r", &cost)
	check("Commit", &ratelimitv1.CommitRequest{Namespace: "n", ReservationId: "r", Cost: &cost}, end, client.Settlement{Outcome: client.Committed, Limits: []client.RateLimitStatus{told}}, err)
	end, err = c.Cancel(ctx, "r")
	check("Cancel", &ratelimitv1.CancelRequest{Namespace: "n", ReservationId: "r"}, end, client.Settlement{Outcome: client.NotReserved, Limits: []client.RateLimitStatus{}}, err)
	reset, err := c.Reset(ctx, "ann", "login", "x")
	check("Reset", &ratelimitv1.ResetRequest{Namespace: "n", Subject: "ann", Names: []string{"login", "x"}}, reset, true, err)
}
