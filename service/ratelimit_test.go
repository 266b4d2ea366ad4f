package service

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/ratelimit"
)

func (a *api) limits() ratelimitv1.RateLimitServiceClient {
	return ratelimitv1.NewRateLimitServiceClient(a.conn)
}

// limitPolicy is a policy with rules of one namespace.
func limitPolicy(namespace string, rules policy.RateLimits) *policy.Policy {
	return &policy.Policy{RateLimits: policy.Section[policy.RateLimits]{Namespaces: map[string]policy.RateLimits{namespace: rules}}}
}

func (a *api) consume(t testing.TB, text string) *ratelimitv1.ConsumeResponse {
	t.Helper()
	r := new(ratelimitv1.ConsumeRequest)
	if err := prototext.Unmarshal([]byte(text), r); err != nil {
		t.Fatalf("%s = %v, want a request", text, err)
	}
	return must[*ratelimitv1.ConsumeResponse](t)(a.limits().Consume(t.Context(), r))
}

const (
	isAllowed = ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED
	isDenied  = ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_DENIED
)

// Rules of the policy are named by requests, act at once when they change, and are those of the namespace over the defaults.
func TestRateLimitRulesOfThePolicy(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	hour, minute := time.Hour, time.Minute
	p := limitPolicy("strict", policy.RateLimits{"login": {Capacity: new(int64(1))}, "own": {Capacity: new(int64(9)), Period: &minute}})
	p.RateLimits.Defaults = policy.RateLimits{"login": {Capacity: new(int64(2)), Period: &hour, OnFailure: ratelimit.FailClosed}}
	a.under(t, p)

	for _, tt := range []struct {
		namespace string
		outcomes  []ratelimitv1.ConsumeOutcome
	}{
		{"default", []ratelimitv1.ConsumeOutcome{isAllowed, isAllowed, isDenied}},
		{"strict", []ratelimitv1.ConsumeOutcome{isAllowed, isDenied}},
	} {
		for i, want := range tt.outcomes {
			r := a.consume(t, `namespace: "`+tt.namespace+`" subject: "ann" limits {rule: "login"}`)
			if r.Outcome != want || r.Limits[0].Name != "login" || r.Limits[0].Window.AsDuration() != time.Hour {
				t.Errorf("%s, %d: Consume = %v, want %v", tt.namespace, i, r, want)
			}
		}
	}
	_, err := a.limits().Consume(t.Context(), &ratelimitv1.ConsumeRequest{Subject: "ann", Limits: []*ratelimitv1.Limit{{Kind: &ratelimitv1.Limit_Rule{Rule: "own"}}}})
	if diff := cmp.Diff([]string{"limits[0].rule"}, violations(t, err)); diff != "" {
		t.Errorf("a rule of another namespace: invalid fields (-want +got):\n%s", diff)
	}

	// A changed rule acts at once, also on what was denied from memory.
	p.RateLimits.Defaults["login"] = policy.RateLimit{Capacity: new(int64(5)), Period: &hour}
	a.under(t, p)
	if r := a.consume(t, `subject: "ann" limits {rule: "login"}`); r.Outcome != isAllowed || r.Limits[0].Remaining != 2 {
		t.Errorf("Consume under the changed rule = %v, want it allowed with 2 left", r)
	}
	if r := a.consume(t, `namespace: "strict" subject: "ann" limits {rule: "login"}`); r.Outcome != isDenied {
		t.Errorf("Consume under the unchanged rule = %v, want it denied", r)
	}

	// A rule in a request is another limit, whatever its name.
	if r := a.consume(t, `subject: "ann" limits {inline {name: "login" capacity: 1 period {seconds: 60}}}`); r.Outcome != isAllowed || r.Limits[0].Used != 1 {
		t.Errorf("Consume of a rule in the request = %v, want it allowed", r)
	}
	// Reset without names forgets the rules of the policy.
	if r := must[*ratelimitv1.ResetResponse](t)(a.limits().Reset(t.Context(), &ratelimitv1.ResetRequest{Subject: "ann"})); !r.Reset_ {
		t.Errorf("Reset = %v, want something reset", r)
	}
	if r := a.consume(t, `subject: "ann" limits {rule: "login"}`); r.Limits[0].Used != 1 {
		t.Errorf("Consume after Reset = %v, want 1 used", r)
	}

	for labels, want := range map[string]float64{"strict/login/allowed": 1, "strict/login/denied": 2, "_other/login/allowed": 4, "_other/login/denied": 1, "_other/_inline/allowed": 1} {
		l := strings.Split(labels, "/")
		if got := metric(t, a.Server, "larder_ratelimit_decisions_total", "namespace", l[0], "rule", l[1], "outcome", l[2]); got != want {
			t.Errorf("decisions of %s = %v, want %v", labels, got, want)
		}
	}
}

// An answer has what a gateway needs, and says why a call is denied.
func TestConsumeAnswers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	const login = `limits {inline {name: "login" capacity: 4 burst: 2 period {seconds: 3600}}}`
	r := a.consume(t, `subject: "ann" `+login)
	l := r.Limits[0]
	remains(t, "available_after", &l.AvailableAfter, 15*time.Minute)
	remains(t, "reset_after", &l.ResetAfter, 15*time.Minute)
	partition := l.Partition
	if len(partition) != partitionBytes || strings.Contains(string(partition), "ann") {
		t.Errorf("partition = %x, want a hash of %d bytes", partition, partitionBytes)
	}
	want := `outcome: CONSUME_OUTCOME_ALLOWED granted: 1 limits {outcome: LIMIT_OUTCOME_ALLOWED name: "login" limit: 4 window {seconds: 3600} burst: 2 remaining: 1 used: 1 charged: 1}`
	l.Partition = nil
	wantText(t, r, want)

	r = a.consume(t, `subject: "ann" cost: 2 `+login+` limits {inline {capacity: 9 period {seconds: 60} shadow: true}}`)
	remains(t, "retry_after", &r.RetryAfter, 15*time.Minute)
	for _, l := range r.Limits {
		if !bytes.Equal(l.Partition, partition) {
			t.Errorf("partition = %x, want %x as before", l.Partition, partition)
		}
		l.Partition, l.AvailableAfter, l.ResetAfter, l.RetryAfter = nil, nil, nil, nil
	}
	wantText(t, r, `outcome: CONSUME_OUTCOME_DENIED denial_reason: DENIAL_REASON_LIMIT_EXCEEDED
		limits {outcome: LIMIT_OUTCOME_DENIED name: "login" limit: 4 window {seconds: 3600} burst: 2 remaining: 1 used: 1}
		limits {outcome: LIMIT_OUTCOME_ALLOWED limit: 9 window {seconds: 60} burst: 9 remaining: 9 shadow: true}`)

	r = a.consume(t, `subject: "ann" cost: 3 `+login)
	if r.DenialReason != ratelimitv1.DenialReason_DENIAL_REASON_COST_EXCEEDS_CAPACITY || r.RetryAfter != nil || r.Limits[0].RetryAfter != nil ||
		r.Limits[0].Outcome != ratelimitv1.LimitOutcome_LIMIT_OUTCOME_COST_EXCEEDS_CAPACITY {
		t.Errorf("Consume of more than the burst = %v, want COST_EXCEEDS_CAPACITY without retry_after", r)
	}
	if r = a.consume(t, `subject: "ann" cost: 2 allow_partial: true `+login); r.Outcome != isAllowed || r.Granted != 1 {
		t.Errorf("Consume, partial = %v, want 1 granted", r)
	}
	peek := must[*ratelimitv1.PeekResponse](t)(a.limits().Peek(t.Context(), &ratelimitv1.PeekRequest{Subject: "ann", Limits: []*ratelimitv1.Limit{{
		Kind: &ratelimitv1.Limit_Inline{Inline: &ratelimitv1.Rule{Name: "login", Capacity: 4, Burst: 2, Period: durationpb.New(time.Hour)}},
	}}}))
	if peek.Outcome != isDenied || peek.Limits[0].Used != 2 {
		t.Errorf("Peek = %v, want a denial", peek)
	}
}

func wantText(t *testing.T, got *ratelimitv1.ConsumeResponse, text string) {
	t.Helper()
	want := new(ratelimitv1.ConsumeResponse)
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		t.Fatalf("%s = %v, want an answer", text, err)
	}
	if diff := cmp.Diff(prototext.Format(want), prototext.Format(got)); diff != "" {
		t.Errorf("Consume (-want +got):\n%s", diff)
	}
}

// TestFailurePolicies: while Redis is away, each policy decides within its time, and what has nothing to decide fails.
func TestFailurePolicies(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	const rule = `subject: "ann" limits {inline {capacity: 2 period {seconds: 3600} on_failure: `
	a.consume(t, rule+`FAILURE_POLICY_FAIL_OPEN}}`)
	a.redis.Pause(t)
	defer a.redis.Resume(t)
	for name, want := range map[string]string{
		"UNSPECIFIED": "allowed allowed allowed", "FAIL_OPEN": "allowed allowed allowed", "FAIL_CLOSED": "denied denied denied", "LOCAL": "allowed allowed denied",
	} {
		var got []string
		for range 3 {
			start := time.Now()
			r := a.consume(t, rule+"FAILURE_POLICY_"+name+`}}`)
			if took := time.Since(start); took > time.Second { // 50 ms, and what a busy machine adds
				t.Errorf("%s: Consume took %v, want about 50 ms", name, took)
			}
			if !r.Degraded || !r.Limits[0].Degraded {
				t.Errorf("%s: Consume = %v, want it degraded", name, r)
			}
			got = append(got, map[ratelimitv1.ConsumeOutcome]string{isAllowed: "allowed", isDenied: "denied"}[r.Outcome])
			if name == "FAIL_CLOSED" && (r.DenialReason != ratelimitv1.DenialReason_DENIAL_REASON_REDIS_UNAVAILABLE || r.RetryAfter == nil) {
				t.Errorf("%s: Consume = %v, want REDIS_UNAVAILABLE and a retry_after", name, r)
			}
		}
		if joined := strings.Join(got, " "); joined != want {
			t.Errorf("%s: %s, want %s", name, joined, want)
		}
	}

	// Envoy gives 20 ms: the answer still arrives.
	answered := 0
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
		r, err := a.limits().Consume(ctx, &ratelimitv1.ConsumeRequest{Subject: "ann", Limits: []*ratelimitv1.Limit{{
			Kind: &ratelimitv1.Limit_Inline{Inline: &ratelimitv1.Rule{Capacity: 2, Period: durationpb.New(time.Hour)}},
		}}})
		cancel()
		switch {
		case err == nil && r.Degraded:
			answered++
		case status.Code(err) != codes.DeadlineExceeded:
			t.Errorf("Consume = %v, %v, want a degraded answer", r, err)
		}
	}
	if answered == 0 {
		t.Errorf("answers within the deadline = 0 of 50, want most")
	}
	for policy, least := range map[string]float64{"fail_open": 6, "fail_closed": 3, "local": 3} {
		if got := metric(t, a.Server, "larder_ratelimit_failures_total", "policy", policy); got < least {
			t.Errorf("failures of %s = %v, want at least %v", policy, got, least)
		}
	}
}

// Reservations through the API: an id is enough to end one.
func TestReserveAndCommit(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	limits := []*ratelimitv1.Limit{{Kind: &ratelimitv1.Limit_Inline{Inline: &ratelimitv1.Rule{Name: "tokens", Capacity: 100, Period: durationpb.New(time.Hour)}}}}
	reserve := func(cost int64) *ratelimitv1.ReserveResponse {
		return must[*ratelimitv1.ReserveResponse](t)(a.limits().Reserve(t.Context(), &ratelimitv1.ReserveRequest{Subject: "ann", Limits: limits, Cost: &cost}))
	}
	held := reserve(60)
	if held.Outcome != isAllowed || held.ReservationId == "" || held.Granted != 60 {
		t.Errorf("Reserve = %v, want a reservation of 60", held)
	}
	if r := reserve(60); r.Outcome != isDenied || r.ReservationId != "" || r.RetryAfter == nil {
		t.Errorf("Reserve = %v, want a denial", r)
	}
	cost := int64(10)
	for range 2 {
		end := must[*ratelimitv1.CommitResponse](t)(a.limits().Commit(t.Context(), &ratelimitv1.CommitRequest{ReservationId: held.ReservationId, Cost: &cost}))
		if end.Outcome != ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED || end.Limits[0].Name != "tokens" || end.Limits[0].Used != 10 || end.Limits[0].Remaining != 90 {
			t.Errorf("Commit = %v, want 10 used", end)
		}
	}
	if end := must[*ratelimitv1.CancelResponse](t)(a.limits().Cancel(t.Context(), &ratelimitv1.CancelRequest{ReservationId: held.ReservationId})); end.Outcome != ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED {
		t.Errorf("Cancel = %v, want it committed", end)
	}
	if end := must[*ratelimitv1.CancelResponse](t)(a.limits().Cancel(t.Context(), &ratelimitv1.CancelRequest{ReservationId: endedReservation})); end.Outcome != ratelimitv1.SettleOutcome_SETTLE_OUTCOME_NOT_RESERVED {
		t.Errorf("Cancel = %v, want NOT_RESERVED", end)
	}
}
