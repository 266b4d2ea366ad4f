package bench

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

// hotSubjects is the number of subjects that are denied: few, as those who go on when they are denied.
const hotSubjects = 100

// consume charges a limit that allows it: each call is one script in Redis.
func consume(ctx context.Context, c *caller) (int, error) {
	return c.consume(ctx, c.keys[c.choose()], "allowed", 1_000_000_000, ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED)
}

// consumeDenied charges a limit that denies it, which Larder remembers for up to a second.
func consumeDenied(ctx context.Context, c *caller) (int, error) {
	return c.consume(ctx, c.keys[c.choose()%hotSubjects], "denied", 0, ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_DENIED)
}

func (c *caller) consume(ctx context.Context, subject, name string, capacity int64, want ratelimitv1.ConsumeOutcome) (int, error) {
	r, err := c.ratelimit.Consume(ctx, &ratelimitv1.ConsumeRequest{
		Namespace: c.namespace, Subject: subject,
		Limits: []*ratelimitv1.Limit{{Kind: &ratelimitv1.Limit_Inline{Inline: &ratelimitv1.Rule{
			// Expiry removes what a run leaves.
			Name: name, Algorithm: ratelimitv1.Algorithm_ALGORITHM_GCRA, Capacity: capacity, Period: durationpb.New(time.Minute),
			OnFailure: ratelimitv1.FailurePolicy_FAILURE_POLICY_FAIL_CLOSED,
		}}}},
	})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != want || r.GetDegraded() {
		return 0, fmt.Errorf("Consume returned %v, degraded %v, want %v by Redis", r.GetOutcome(), r.GetDegraded(), want)
	}
	return 1, nil
}

// A floorRateLimit implements the rpcs of larder.ratelimit.v1.RateLimitService that the workloads call.
type floorRateLimit struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
}

// Consume returns an answer as long as those of Larder, which depends on the capacity alone.
func (floorRateLimit) Consume(_ context.Context, r *ratelimitv1.ConsumeRequest) (*ratelimitv1.ConsumeResponse, error) {
	rule := r.GetLimits()[0].GetInline()
	if rule.GetCapacity() == 0 {
		return floorDenied, nil
	}
	return floorAllowed, nil
}

var (
	floorAllowed = &ratelimitv1.ConsumeResponse{
		Outcome: ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_ALLOWED, Granted: 1,
		Limits: []*ratelimitv1.LimitStatus{{
			Outcome: ratelimitv1.LimitOutcome_LIMIT_OUTCOME_ALLOWED, Name: "allowed", Limit: 1_000_000_000, Burst: 1_000_000_000, Remaining: 999_999_999,
			Used: 1, Charged: 1, Window: durationpb.New(time.Minute), AvailableAfter: durationpb.New(time.Microsecond),
			ResetAfter: durationpb.New(time.Microsecond), Partition: make([]byte, 8),
		}},
	}
	floorDenied = &ratelimitv1.ConsumeResponse{
		Outcome: ratelimitv1.ConsumeOutcome_CONSUME_OUTCOME_DENIED, DenialReason: ratelimitv1.DenialReason_DENIAL_REASON_COST_EXCEEDS_CAPACITY,
		Limits: []*ratelimitv1.LimitStatus{{
			Outcome: ratelimitv1.LimitOutcome_LIMIT_OUTCOME_COST_EXCEEDS_CAPACITY, Name: "denied", Window: durationpb.New(time.Minute),
			AvailableAfter: new(durationpb.Duration), ResetAfter: new(durationpb.Duration), Partition: make([]byte, 8),
		}},
	}
)
