package service

import (
	"crypto/sha256"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	"github.com/berthcare/larder/store/ratelimit"
)

// A decision is a decision of the store as answers have it.
type decision struct {
	outcome    ratelimitv1.ConsumeOutcome
	reason     ratelimitv1.DenialReason
	retryAfter *durationpb.Duration
	limits     []*ratelimitv1.LimitStatus
}

// A limitAnswer is what is told of one limit, in one allocation.
type limitAnswer struct {
	status                          ratelimitv1.LimitStatus
	window, available, reset, retry durationpb.Duration
}

// set sets a duration, which is then part of the answer.
func set(to *durationpb.Duration, d time.Duration) *durationpb.Duration {
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second) //nolint:gosec // below 10^9
	return to
}

// limitOutcomes maps the outcomes of the store to those of the API.
var limitOutcomes = [...]ratelimitv1.LimitOutcome{
	ratelimit.Allowed:     ratelimitv1.LimitOutcome_LIMIT_OUTCOME_ALLOWED,
	ratelimit.Denied:      ratelimitv1.LimitOutcome_LIMIT_OUTCOME_DENIED,
	ratelimit.TooCostly:   ratelimitv1.LimitOutcome_LIMIT_OUTCOME_COST_EXCEEDS_CAPACITY,
	ratelimit.Unavailable: ratelimitv1.LimitOutcome_LIMIT_OUTCOME_REDIS_UNAVAILABLE,
}

// decisionView returns a decision as answers have it.
func decisionView(namespace string, charges []ratelimit.Charge, d *ratelimit.Decision) decision {
	v := decision{outcome: ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED, limits: make([]*ratelimitv1.LimitStatus, len(charges))}
	answers := make([]limitAnswer, len(charges))
	var partition []byte
	for i := range charges {
		c, r, a := &charges[i], &d.Results[i], &answers[i]
		if i == 0 || c.Subject != charges[i-1].Subject {
			partition = partitionOf(namespace, c.Subject)
		}
		s := &a.status
		s.Outcome, s.Name = limitOutcomes[r.Outcome], nameOf(c.Name)
		s.Limit, s.Burst, s.Remaining, s.Used, s.Charged = c.Rule.Capacity, c.Rule.Capacity, r.Remaining, r.Used, r.Charged
		if c.Rule.Burst > 0 {
			s.Burst = c.Rule.Burst
		}
		s.Window, s.AvailableAfter, s.ResetAfter = set(&a.window, c.Rule.Period), set(&a.available, r.AvailableAfter), set(&a.reset, r.ResetAfter)
		if r.RetryAfter > 0 {
			s.RetryAfter = set(&a.retry, r.RetryAfter)
		}
		s.Shadow, s.Degraded, s.Partition = c.Rule.Shadow, r.Degraded, partition
		v.limits[i] = s
	}
	if d.Allowed {
		return v
	}
	v.outcome, v.reason = ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_DENIED, denialReason(charges, d)
	if d.RetryAfter > 0 {
		v.retryAfter = durationpb.New(d.RetryAfter)
	}
	return v
}

// denialReason returns why a call was denied: the reason that lasts longest of those of its limits.
func denialReason(charges []ratelimit.Charge, d *ratelimit.Decision) ratelimitv1.DenialReason {
	reason := ratelimitv1.DenialReason_DENIAL_REASON_REDIS_UNAVAILABLE
	for i := range d.Results {
		switch {
		case charges[i].Rule.Shadow:
		case d.Results[i].Outcome == ratelimit.TooCostly:
			return ratelimitv1.DenialReason_DENIAL_REASON_COST_EXCEEDS_CAPACITY
		case d.Results[i].Outcome == ratelimit.Denied:
			reason = ratelimitv1.DenialReason_DENIAL_REASON_LIMIT_EXCEEDED
		}
	}
	return reason
}

// partitionBytes is the length of the hash that tells subjects apart.
const partitionBytes = 8

// partitionOf returns the hash of a subject.
func partitionOf(namespace, subject string) []byte {
	var room [320]byte // for most subjects
	sum := sha256.Sum256(append(append(append(room[:0], namespace...), 0), subject...))
	return append([]byte(nil), sum[:partitionBytes]...)
}

// settleOutcome returns what became of a reservation that was to end in one way.
func settleOutcome(o ratelimit.SettleOutcome, asked ratelimitv1.SettleOutcome) ratelimitv1.SettleOutcome {
	switch {
	case o == ratelimit.NotReserved:
		return ratelimitv1.SettleOutcome_SETTLE_OUTCOME_NOT_RESERVED
	case o == ratelimit.Settled:
		return asked
	case asked == ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED:
		return ratelimitv1.SettleOutcome_SETTLE_OUTCOME_CANCELLED
	default:
		return ratelimitv1.SettleOutcome_SETTLE_OUTCOME_COMMITTED
	}
}

// settledView returns what is left of the limits of a reservation.
func settledView(namespace string, settled *ratelimit.Settlement) []*ratelimitv1.LimitStatus {
	limits := make([]*ratelimitv1.LimitStatus, len(settled.Results))
	answers := make([]limitAnswer, len(limits))
	for i := range settled.Results {
		r, a := &settled.Results[i], &answers[i]
		s := &a.status
		s.Name, s.Charged, s.Used, s.Remaining, s.Burst = nameOf(settled.Names[i]), r.Charged, r.Used, r.Remaining, settled.Full[i]
		s.AvailableAfter, s.ResetAfter = set(&a.available, r.AvailableAfter), set(&a.reset, r.ResetAfter)
		s.Partition = partitionOf(namespace, settled.Subject)
		limits[i] = s
	}
	return limits
}
