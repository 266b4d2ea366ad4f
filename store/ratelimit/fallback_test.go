package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// slack is what a busy machine adds to a time.
const slack = 500 * time.Millisecond

// TestFailurePolicies: while Redis is away, or hangs, each rule's policy decides within its time.
func TestFailurePolicies(t *testing.T) {
	t.Parallel()
	for fault, begin := range map[string]func(t *testing.T, server *redistest.Server){
		"away": func(_ *testing.T, server *redistest.Server) { server.Kill() },
		"hung": func(t *testing.T, server *redistest.Server) { server.Pause(t) },
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			s := storetest.Open(t, store.Options{
				Redis:      redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 5 * time.Second},
				RateLimits: ratelimit.Options{Replicas: 2},
			})
			consume(t, s, "n", plain, charge("ann", "api", perHour(ratelimit.GCRA, 10), 1))
			begin(t, server)

			rule := perHour(ratelimit.GCRA, 10)
			call := func(policy ratelimit.FailurePolicy, timeout, deadline time.Duration, cost int64, mode ratelimit.Mode) (ratelimit.Decision, time.Duration, error) {
				ctx := t.Context()
				if deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, deadline)
					defer cancel()
				}
				rule.OnFailure, rule.RedisTimeout = policy, timeout
				start := time.Now()
				d, err := s.RateLimits.Consume(ctx, "n", []ratelimit.Charge{charge("ann", "api", rule, cost)}, ratelimit.ConsumeOptions{Mode: mode})
				return d, time.Since(start), err
			}
			// Before the deadline, so that the answer still arrives; now and then, on a busy machine. Later the connection is given
			// up, and whatever asks for another fails at once.
			inTime := 0
			for range 50 {
				if d, took, err := call(ratelimit.FailOpen, 0, 20*time.Millisecond, 1, ""); err == nil && d.Degraded && took < 19*time.Millisecond {
					inTime++
				}
			}
			if inTime == 0 {
				t.Error("decisions before the deadline = 0 of 50, want most")
			}
			for _, times := range []struct{ timeout, deadline, most time.Duration }{
				{0, 0, 50 * time.Millisecond}, {5 * time.Millisecond, 0, 5 * time.Millisecond}, {0, 20 * time.Millisecond, 17 * time.Millisecond},
			} {
				d, took, err := call(ratelimit.FailOpen, times.timeout, times.deadline, 1, "")
				if err != nil || !d.Allowed || !d.Degraded || d.Granted != 1 || !d.Results[0].Degraded || took > times.most+slack {
					t.Errorf("fail open, %+v: Consume = %+v, %v in %v, want it allowed and degraded", times, d, err, took)
				}
				d, took, err = call(ratelimit.FailClosed, times.timeout, times.deadline, 1, "")
				if err != nil || d.Allowed || !d.Degraded || d.Results[0].Outcome != ratelimit.Unavailable || d.RetryAfter <= 0 || took > times.most+slack {
					t.Errorf("fail closed, %+v: Consume = %+v, %v in %v, want it denied and degraded", times, d, err, took)
				}
			}
			// The bucket of this replica has half of the limit.
			for i := range int64(7) {
				d, took, err := call(ratelimit.FailLocal, 5*time.Millisecond, 0, 1, "")
				if err != nil || d.Allowed != (i < 5) || !d.Degraded || d.Allowed && d.Results[0].Remaining != 4-i || !d.Allowed && d.RetryAfter <= 0 || took > slack {
					t.Errorf("local, %d: Consume = %+v, %v in %v, want 5 allowed", i, d, err, took)
				}
			}
			if d, _, err := call(ratelimit.FailOpen, 5*time.Millisecond, 0, 11, ""); err != nil || d.Allowed || d.RetryAfter != ratelimit.Never {
				t.Errorf("fail open: Consume of more than the capacity = %+v, %v, want it denied for ever", d, err)
			}
			if d, _, err := call(ratelimit.FailOpen, 5*time.Millisecond, 0, 11, ratelimit.Partial); err != nil || !d.Allowed || d.Granted != 10 {
				t.Errorf("fail open, partial: Consume of more than the capacity = %+v, %v, want 10 granted", d, err)
			}
			rule.Period = 2 * time.Hour // another rule
			if d, _, err := call(ratelimit.FailLocal, 5*time.Millisecond, 0, 11, ratelimit.Partial); err != nil || !d.Allowed || d.Granted != 5 {
				t.Errorf("local, partial: Consume of more than the capacity = %+v, %v, want 5 granted", d, err)
			}
			rule.Period = time.Minute // another rule
			if d, _, err := call(ratelimit.FailLocal, 5*time.Millisecond, 0, 9, ratelimit.Partial); err != nil || !d.Allowed || d.Granted != 5 {
				t.Errorf("local, partial: Consume = %+v, %v, want 5 granted", d, err)
			}
			if d, took, err := call("", 0, 300*time.Millisecond, 1, ""); err == nil || took > 300*time.Millisecond+slack {
				t.Errorf("without policy: Consume = %+v, %v in %v, want an error", d, err, took)
			}

			// A limit that fails closed keeps a local bucket from being charged; one in shadow denies nothing.
			local, closed := charge("bob", "local", rule, 1), charge("bob", "closed", rule, 1)
			local.Rule.OnFailure, closed.Rule.OnFailure = ratelimit.FailLocal, ratelimit.FailClosed
			if d := consume(t, s, "n", plain, local, closed); d.Allowed || d.Results[0].Charged != 0 || d.Results[0].Remaining != 5 {
				t.Errorf("Consume = %+v, want a denial that charges nothing", d)
			}
			closed.Rule.Shadow = true
			if d := consume(t, s, "n", plain, local, closed); !d.Allowed || d.Results[0].Charged != 1 {
				t.Errorf("Consume with a limit in shadow = %+v, want it allowed", d)
			}
			whole := closed
			whole.Cost, local.Cost, whole.Rule.Shadow, whole.Rule.OnFailure, local.Rule.Shadow = 9, 9, false, ratelimit.FailOpen, true
			for range 2 { // the bucket of the limit in shadow has 5, and then none
				d, err := s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{local, whole}, ratelimit.ConsumeOptions{Mode: ratelimit.Partial})
				if err != nil || !d.Allowed || d.Granted != 9 {
					t.Errorf("Consume, partial, with a local limit in shadow = %+v, %v, want all granted", d, err)
				}
			}
			local.Cost, local.Rule.Shadow = 1, false
			if d, id, err := s.RateLimits.Reserve(t.Context(), "n", []ratelimit.Charge{local}, time.Minute, plain); err != nil || !d.Degraded || id != "" {
				t.Errorf("Reserve = %+v, %q, %v, want a degraded answer without a reservation", d, id, err)
			}

			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if d, err := s.RateLimits.Consume(gone, "n", []ratelimit.Charge{local}, plain); !errors.Is(err, context.Canceled) {
				t.Errorf("Consume of a caller that has gone = %+v, %v, want %v", d, err, context.Canceled)
			}
			if stats := s.RateLimits.Stats(); stats.FailedOpen == 0 || stats.FailedClosed == 0 || stats.FailedLocal == 0 {
				t.Errorf("stats = %+v, want all policies counted", stats)
			}
		})
	}
}

// TestOneShardAway: limits of one shard are decided by their policies, and those of others by Redis; what was charged there is
// given back if the call is denied.
func TestOneShardAway(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}})
	cluster.Nodes[0].Pause(t)
	for _, policy := range []ratelimit.FailurePolicy{ratelimit.FailOpen, ratelimit.FailClosed} {
		var charges []ratelimit.Charge
		for _, key := range storetest.Keys(12) {
			c := charge(key, "each", perHour(ratelimit.GCRA, 10), 1)
			c.Rule.OnFailure = policy
			charges = append(charges, c)
		}
		// On a busy machine a healthy shard is late as well now and then.
		storetest.Eventually(t, "one shard is away and the others are not", func() bool {
			namespace := storetest.NewNamespace()
			d := consume(t, s, namespace, plain, charges...)
			away := 0
			for _, r := range d.Results {
				if r.Degraded {
					away++
				}
			}
			if !d.Degraded || away == 0 || away == len(charges) {
				return false
			}
			if d.Allowed != (policy == ratelimit.FailOpen) {
				t.Errorf("%s: Consume = %+v, want allowed: %v", policy, d, policy == ratelimit.FailOpen)
			}
			for i, r := range d.Results {
				c := charges[i]
				if c.Cost, c.Rule.OnFailure = 0, ""; r.Degraded {
					continue
				}
				want := map[bool]int64{true: 1, false: 0}[d.Allowed]
				if n := consume(t, s, namespace, plain, c).Results[0].Used; n != want || r.Used != want {
					t.Errorf("%s: used of %s = %d, told %d, want %d", policy, c.Subject, n, r.Used, want)
				}
			}
			return s.RateLimits.Stats().NotReturned == 0
		})
	}
}
