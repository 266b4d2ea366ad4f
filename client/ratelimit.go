package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

// RateLimits decides whether something may be done now, by how much of it was done before, for the subjects of one namespace: users,
// IP addresses, sessions, API keys. All replicas of Larder together keep to a limit.
//
// That a call is denied is no error: look at [RateLimitDecision].Allowed. Every error is an [*Error] unless a method says otherwise.
//
// RateLimits is safe for concurrent use. [Client] holds that of [Options].Namespace.
type RateLimits struct {
	rpc       ratelimitv1.RateLimitServiceClient
	namespace string
}

// In returns the RateLimits of another namespace, over the same connections. Empty means "default". The server checks the name
// as for [Cache.In].
func (l *RateLimits) In(namespace string) *RateLimits {
	return &RateLimits{rpc: l.rpc, namespace: namespace}
}

// A RateLimit is one limit of a call: the rule of the server's policy that Rule names, or Inline.
type RateLimit struct {
	// Rule is the name of a rule in the server's policy.
	Rule string
	// Inline is a rule of the call itself; Rule must then be empty.
	Inline *RateLimitRule
	// Subject is who is limited, if it is another than the subject of the call, such as all users together.
	Subject string
}

// A RateLimitRule says how much may be used in which time.
type RateLimitRule struct {
	// Name tells the limits of a subject apart that are made by rules of calls. It may be empty; two of one call need different names.
	Name string
	// Algorithm says how usage is counted. Empty means [GCRA].
	Algorithm RateLimitAlgorithm
	// Capacity is how much may be used in one Period: 0 to 2^40. Zero lets nothing pass.
	Capacity int64
	// Period is the time in which Capacity may be used: 1 ms to 8784 h (366 days).
	Period time.Duration
	// Burst is how much may be used at once after a pause, for [GCRA] only. Zero means Capacity.
	Burst int64
	// Alignment says when windows begin, for [FixedWindow] only. Empty means [AlignFirstUse].
	Alignment RateLimitAlignment
	// Penalize charges the limit also for calls that are denied, until it is used up.
	Penalize bool
	// Shadow lets calls pass that the limit denies, and reports what it would have done.
	Shadow bool
	// OnFailure says what is decided when Redis does not decide in time. Empty means [FailOpen].
	OnFailure FailurePolicy
	// RedisTimeout is how long Redis may take to decide: 1 ms to 50 ms. Zero means 50 ms.
	RedisTimeout time.Duration
}

// A RateLimitAlgorithm says how usage is counted.
type RateLimitAlgorithm string

// The algorithms of [RateLimitRule].
const (
	// GCRA is the generic cell rate algorithm, a bucket that drains: Burst may be used at once after a pause, and what was used
	// comes back evenly, Capacity in each Period.
	GCRA RateLimitAlgorithm = "GCRA"
	// SlidingWindow counts in windows of one Period, of which the previous one counts for the share of it that is less than a
	// Period ago.
	SlidingWindow RateLimitAlgorithm = "SLIDING_WINDOW"
	// FixedWindow lets Capacity pass in each window of one Period.
	FixedWindow RateLimitAlgorithm = "FIXED_WINDOW"
)

// A RateLimitAlignment says when the windows of [FixedWindow] begin.
type RateLimitAlignment string

// The alignments of [RateLimitRule].
const (
	// AlignFirstUse begins a window with the first call after the previous window.
	AlignFirstUse RateLimitAlignment = "FIRST_USE"
	// AlignEpoch begins windows at multiples of the Period since 1970-01-01 00:00 UTC.
	AlignEpoch RateLimitAlignment = "EPOCH"
	// AlignCalendar begins windows with the seconds, minutes, hours, days, weeks (from Monday), months and years of UTC. Period
	// must be one of those, where 720 h stands for a month and 8760 h for a year.
	AlignCalendar RateLimitAlignment = "CALENDAR"
)

// A FailurePolicy says what a limit decides when Redis does not decide in time.
type FailurePolicy string

// The policies of [RateLimitRule].
const (
	// FailOpen allows the call.
	FailOpen FailurePolicy = "FAIL_OPEN"
	// FailClosed denies the call.
	FailClosed FailurePolicy = "FAIL_CLOSED"
	// FailLocal decides by a bucket in the memory of the replica that answers, with the limit divided by the expected number of
	// replicas.
	FailLocal FailurePolicy = "LOCAL"
)

// ConsumeOptions are the options of [RateLimits.Consume] and [RateLimits.Reserve].
type ConsumeOptions struct {
	// Cost is what is charged to each limit: 0 to 2^40; nil means 1. Zero charges nothing.
	Cost *int64
	// AllowPartial charges less than Cost if the limits do not allow all of it but at least 1.
	AllowPartial bool
	// RequestID names the call, at most 128 bytes: a repetition with the same subject, limits and cost within a minute gets the
	// same answer and charges nothing. Empty means that repeating the call charges again.
	RequestID string
}

// A RateLimitDecision says whether a call is allowed, and what is left of its limits.
type RateLimitDecision struct {
	// Outcome is [Allowed] or [Denied], or [Failed] in a batch.
	Outcome Outcome
	// Allowed reports whether Outcome is [Allowed].
	Allowed bool
	// Reason says why the call is denied: [LimitExceeded], [CostExceedsCapacity] or [RedisUnavailable].
	Reason Outcome
	// Granted is what was charged to each limit.
	Granted int64
	// RetryAfter is the time after which the limits would allow the call, if nothing else were charged. Zero means now, or never
	// if Reason is [CostExceedsCapacity].
	RetryAfter time.Duration
	// Degraded means that Redis did not decide in time, and that the failure policy of at least one limit did.
	Degraded bool
	// Limits are the limits, in the order of the call.
	Limits []RateLimitStatus
}

// A RateLimitStatus says what one limit says to a call, and what is left of it.
type RateLimitStatus struct {
	// Outcome is the limit's own decision: [Allowed], [Denied], [CostExceedsCapacity] or [RedisUnavailable].
	Outcome Outcome
	// Name is the name of the rule.
	Name string
	// Limit is the capacity of the rule, which may be used in one Window, and Burst what may be used at once.
	Limit, Burst int64
	// Window is the period of the rule.
	Window time.Duration
	// Remaining is how much may be used now, Used how much is used, and Charged what this call has charged.
	Remaining, Used, Charged int64
	// AvailableAfter is the time until Remaining grows, and ResetAfter that until nothing is used.
	AvailableAfter, ResetAfter time.Duration
	// RetryAfter is the time after which this limit would allow the cost. Zero means now or never.
	RetryAfter time.Duration
	// Shadow means that the Outcome does not count.
	Shadow bool
	// Degraded means that Redis did not decide in time, and that the rule's failure policy did.
	Degraded bool
	// Partition is a hash of namespace and subject, 8 bytes.
	Partition []byte
}

// Consume decides about a call and charges its limits: all of them, or none if one denies. It is never retried: after
// [ErrUnavailable] or [ErrOutcomeUnknown] the cost may or may not have been charged.
func (l *RateLimits) Consume(ctx context.Context, subject string, limits []RateLimit, o ConsumeOptions) (RateLimitDecision, error) {
	req := &ratelimitv1.ConsumeRequest{
		Namespace: l.namespace, Subject: subject, Cost: o.Cost, AllowPartial: o.AllowPartial, RequestId: o.RequestID,
	}
	var err error
	if req.Limits, err = limitsOf(limits); err != nil {
		return RateLimitDecision{}, err
	}
	r, err := l.rpc.Consume(ctx, req)
	if err != nil {
		return RateLimitDecision{}, err
	}
	return decision(r, r.GetGranted()), nil
}

// A ConsumeItem is one call of [RateLimits.BatchConsume].
type ConsumeItem struct {
	// Subject, Limits and Options are those of [RateLimits.Consume].
	Subject string
	Limits  []RateLimit
	Options ConsumeOptions
}

// BatchConsume decides about 1 to 100 calls, each by itself. The decision of a call that could not be decided has the outcome
// [Failed]; it was not charged, unless its answer was lost.
func (l *RateLimits) BatchConsume(ctx context.Context, items []ConsumeItem) ([]RateLimitDecision, error) {
	req := &ratelimitv1.BatchConsumeRequest{Namespace: l.namespace}
	for _, item := range items {
		limits, err := limitsOf(item.Limits)
		if err != nil {
			return nil, err
		}
		req.Items = append(req.Items, &ratelimitv1.BatchConsumeItem{
			Subject: item.Subject, Limits: limits, Cost: item.Options.Cost, AllowPartial: item.Options.AllowPartial, RequestId: item.Options.RequestID,
		})
	}
	r, err := l.rpc.BatchConsume(ctx, req)
	if err != nil {
		return nil, err
	}
	decisions := make([]RateLimitDecision, len(r.GetResults()))
	for i, result := range r.GetResults() {
		decisions[i] = decision(result, result.GetGranted())
	}
	return decisions, nil
}

// Peek says what Consume would answer, and charges nothing. Nil means a cost of 1.
func (l *RateLimits) Peek(ctx context.Context, subject string, limits []RateLimit, cost *int64) (RateLimitDecision, error) {
	sent, err := limitsOf(limits)
	if err != nil {
		return RateLimitDecision{}, err
	}
	r, err := l.rpc.Peek(ctx, &ratelimitv1.PeekRequest{Namespace: l.namespace, Subject: subject, Limits: sent, Cost: cost})
	if err != nil {
		return RateLimitDecision{}, err
	}
	return decision(r, 0), nil
}

// RefundOptions are the options of [RateLimits.Refund].
type RefundOptions struct {
	// Cost is what is given back to each limit: 1 to 2^40; nil means 1.
	Cost *int64
	// RequestID is as in [ConsumeOptions].
	RequestID string
}

// Refund gives back what was charged, down to nothing, and returns what is left. Other replicas may deny for up to 1 s what they
// have just denied. It is never retried, like Consume.
func (l *RateLimits) Refund(ctx context.Context, subject string, limits []RateLimit, o RefundOptions) ([]RateLimitStatus, error) {
	sent, err := limitsOf(limits)
	if err != nil {
		return nil, err
	}
	r, err := l.rpc.Refund(ctx, &ratelimitv1.RefundRequest{
		Namespace: l.namespace, Subject: subject, Limits: sent, Cost: o.Cost, RequestId: o.RequestID,
	})
	if err != nil {
		return nil, err
	}
	return statuses(r.GetLimits()), nil
}

// Reset forgets what a subject has used of limits, by the names of their rules, and reports whether there was anything. Without
// names it is all rules of the server's policy, and the rule of calls without a name. Other replicas may deny for up to 1 s what
// they have just denied.
func (l *RateLimits) Reset(ctx context.Context, subject string, names ...string) (bool, error) {
	r, err := l.rpc.Reset(ctx, &ratelimitv1.ResetRequest{Namespace: l.namespace, Subject: subject, Names: names})
	return r.GetReset_(), err
}

// limitsOf returns limits for a request.
func limitsOf(limits []RateLimit) ([]*ratelimitv1.Limit, error) {
	sent := make([]*ratelimitv1.Limit, len(limits))
	for i, limit := range limits {
		sent[i] = &ratelimitv1.Limit{Subject: limit.Subject}
		switch {
		case limit.Inline == nil:
			sent[i].Kind = &ratelimitv1.Limit_Rule{Rule: limit.Rule}
		case limit.Rule != "":
			return nil, invalid("limits", "a limit has both Rule and Inline")
		default:
			rule, err := inlineRule(limit.Inline)
			if err != nil {
				return nil, err
			}
			sent[i].Kind = &ratelimitv1.Limit_Inline{Inline: rule}
		}
	}
	return sent, nil
}

func inlineRule(r *RateLimitRule) (*ratelimitv1.Rule, error) {
	algorithm, err := number[ratelimitv1.Algorithm]("algorithm", r.Algorithm, "ALGORITHM_", ratelimitv1.Algorithm_value)
	if err != nil {
		return nil, err
	}
	alignment, err := number[ratelimitv1.Alignment]("alignment", r.Alignment, "ALIGNMENT_", ratelimitv1.Alignment_value)
	if err != nil {
		return nil, err
	}
	onFailure, err := number[ratelimitv1.FailurePolicy]("on_failure", r.OnFailure, "FAILURE_POLICY_", ratelimitv1.FailurePolicy_value)
	if err != nil {
		return nil, err
	}
	rule := &ratelimitv1.Rule{
		Name: r.Name, Algorithm: algorithm, Capacity: r.Capacity, Period: durationpb.New(r.Period), Burst: r.Burst, Alignment: alignment,
		Penalize: r.Penalize, Shadow: r.Shadow, OnFailure: onFailure,
	}
	if r.RedisTimeout != 0 {
		rule.RedisTimeout = durationpb.New(r.RedisTimeout)
	}
	return rule, nil
}

// A decided is the answer of several rpcs.
type decided interface {
	GetOutcome() ratelimitv1.ConsumeOutcome
	GetDenialReason() ratelimitv1.DenialReason
	GetRetryAfter() *durationpb.Duration
	GetDegraded() bool
	GetLimits() []*ratelimitv1.LimitStatus
}

// decision returns what an answer says about a call.
func decision(r decided, granted int64) RateLimitDecision {
	return RateLimitDecision{
		Outcome: Outcome(text(r.GetOutcome(), "CONSUME_OUTCOME_")),
		Allowed: r.GetOutcome() == ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED,
		Reason:  Outcome(text(r.GetDenialReason(), "DENIAL_REASON_")),
		Granted: granted, RetryAfter: r.GetRetryAfter().AsDuration(), Degraded: r.GetDegraded(), Limits: statuses(r.GetLimits()),
	}
}

func statuses(limits []*ratelimitv1.LimitStatus) []RateLimitStatus {
	all := make([]RateLimitStatus, len(limits))
	for i, s := range limits {
		all[i] = RateLimitStatus{
			Outcome: Outcome(text(s.GetOutcome(), "LIMIT_OUTCOME_")), Name: s.GetName(),
			Limit: s.GetLimit(), Burst: s.GetBurst(), Window: s.GetWindow().AsDuration(),
			Remaining: s.GetRemaining(), Used: s.GetUsed(), Charged: s.GetCharged(),
			AvailableAfter: s.GetAvailableAfter().AsDuration(), ResetAfter: s.GetResetAfter().AsDuration(), RetryAfter: s.GetRetryAfter().AsDuration(),
			Shadow: s.GetShadow(), Degraded: s.GetDegraded(), Partition: s.GetPartition(),
		}
	}
	return all
}
