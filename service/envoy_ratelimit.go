package service

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/berthcare/larder/service/edge/rls"
	"github.com/berthcare/larder/store/ratelimit"
)

// EnvoyRateLimits configures envoy.service.ratelimit.v3.RateLimitService.
type EnvoyRateLimits struct {
	rls.Options
	// Failure is what rules without a policy of their own answer while Redis does not; empty means that the call fails, so
	// that the caller decides.
	Failure rls.FailurePolicy
	// RedisTimeout is how long Redis may take before the failure policy decides; at most, and by default, 50 ms. If the
	// deadline of the call is sooner, the policy decides 3 ms before the deadline.
	RedisTimeout time.Duration
}

// envoyNamespace is the namespace of the counters. No caller can name it, because it is none that the API accepts.
const envoyNamespace = "_envoy"

// An envoyRateLimit answers Envoy's rate limit protocol from the counters of the store.
type envoyRateLimit struct {
	envoy.UnimplementedRateLimitServiceServer

	options EnvoyRateLimits
	limiter *ratelimit.Limiter // set when the service is registered
	now     func() time.Time
	config  atomic.Pointer[rls.Config]
	loaded  atomic.Int64 // Unix time
	stats   rls.Stats
}

func newEnvoyRateLimit(o EnvoyRateLimits) *envoyRateLimit {
	e := &envoyRateLimit{options: o}
	e.config.Store(new(rls.Config))
	return e
}

// use sets the counters, and the clock that tells when windows end.
func (e *envoyRateLimit) use(limiter *ratelimit.Limiter, now func() time.Time) *envoyRateLimit {
	e.limiter, e.now = limiter, now
	return e
}

// ShouldRateLimit decides about a request by the rules of its descriptors. It counts the request on all of them or, if it
// is denied, on none, in one script for each slot.
func (e *envoyRateLimit) ShouldRateLimit(ctx context.Context, req *envoy.RateLimitRequest) (*envoy.RateLimitResponse, error) {
	plan, err := e.config.Load().Plan(req, &e.options.Options)
	if invalid := (*rls.InvalidError)(nil); errors.As(err, &invalid) {
		return nil, &FieldError{invalid.Field, invalid.Description}
	}
	if plan.UnknownDomain {
		e.stats.UnknownDomain()
	}
	var results []rls.Result
	var charges []ratelimit.Charge
	var decision ratelimit.Decision
	if len(plan.Charges) > 0 {
		charges = e.charges(plan)
		if decision, err = e.limiter.Consume(ctx, envoyNamespace, charges, ratelimit.ConsumeOptions{Mode: e.mode()}); err != nil {
			return nil, err
		}
		results = make([]rls.Result, len(charges))
		for i, r := range decision.Results {
			results[i] = rls.Result{
				Over: r.Outcome != ratelimit.Allowed, Charged: r.Charged > 0 || charges[i].Cost == 0,
				Used: uint64(max(r.Used-max(r.Charged, 0), 0)), Reset: r.ResetAfter, Local: decision.Local, Degraded: r.Degraded,
			}
		}
	}
	answer, denied := plan.Answer(results, e.now(), &e.stats)
	if denied && decision.Allowed && e.mode() == ratelimit.All {
		// The request is over its quotas, which deny only together, as the script cannot know.
		e.giveBack(ctx, charges, decision.Results)
	}
	return answer, nil
}

func (e *envoyRateLimit) mode() ratelimit.Mode {
	if e.options.ChargeAll {
		return ratelimit.Each
	}
	return ratelimit.All
}

// charges returns what the store must charge for a plan.
func (e *envoyRateLimit) charges(plan *rls.Plan) []ratelimit.Charge {
	charges := make([]ratelimit.Charge, len(plan.Charges))
	for i, c := range plan.Charges {
		failure := c.Rule.Failure
		if failure == "" {
			failure = e.options.Failure
		}
		charges[i] = ratelimit.Charge{
			Subject: c.Subject,
			Name:    strconv.FormatInt(int64(c.Rule.Period/time.Second), 10) + "s", // the limit itself may change
			Cost:    int64(c.Hits),                                                 //nolint:gosec // at most 2^53
			Rule: ratelimit.Rule{
				Algorithm: ratelimit.Algorithm(c.Rule.Algorithm), Capacity: int64(c.Rule.RequestsPerUnit), Period: c.Rule.Period,
				Burst: int64(c.Rule.Burst), Alignment: ratelimit.Epoch, Shadow: !c.Enforced,
				OnFailure: ratelimit.FailurePolicy(failure), RedisTimeout: e.options.RedisTimeout,
			},
		}
		if c.Refund {
			charges[i].Cost = -charges[i].Cost
		}
	}
	return charges
}

// giveBack gives back what a request was charged that is denied after all. If that fails, the request stays counted.
func (e *envoyRateLimit) giveBack(ctx context.Context, charges []ratelimit.Charge, results []ratelimit.Result) {
	var back []ratelimit.Charge
	for i, r := range results {
		if r.Charged > 0 && !r.Degraded {
			charges[i].Cost = r.Charged
			back = append(back, charges[i])
		}
	}
	if len(back) > 0 {
		_, _ = e.limiter.Refund(ctx, envoyNamespace, back, ratelimit.ConsumeOptions{})
	}
}

// serveConfig lists the rules in force.
func (e *envoyRateLimit) serveConfig(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(e.config.Load().Dump())) // fails only if the client is gone
}

// SetEnvoyRateLimits puts a configuration in force for requests that begin from now on. [Options] must have
// EnvoyRateLimits. Each server needs a configuration of its own.
func (s *Server) SetEnvoyRateLimits(c *rls.Config) {
	s.envoy.stats.Adopt(c)
	s.envoy.config.Store(c)
	s.envoy.loaded.Store(time.Now().Unix())
}
