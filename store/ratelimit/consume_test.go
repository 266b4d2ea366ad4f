package ratelimit_test

import (
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// perHour returns a rule of n in an hour, so that nothing comes back during a test.
func perHour(a ratelimit.Algorithm, n int64) ratelimit.Rule {
	return ratelimit.Rule{Algorithm: a, Capacity: n, Period: time.Hour, Alignment: ratelimit.FirstUse}
}

var algorithms = []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow, ratelimit.FixedWindow}

// charge returns a charge of a subject.
func charge(subject, name string, rule ratelimit.Rule, cost int64) ratelimit.Charge {
	return ratelimit.Charge{Subject: subject, Name: name, Rule: rule, Cost: cost}
}

// consume makes a call that must not fail.
func consume(tb testing.TB, s *store.Store, namespace string, o ratelimit.ConsumeOptions, charges ...ratelimit.Charge) ratelimit.Decision {
	tb.Helper()
	d, err := s.RateLimits.Consume(tb.Context(), namespace, charges, o)
	if err != nil {
		tb.Fatalf("Consume: error %v, want none: %s", err, redis.Cause(err))
	}
	return d
}

var plain ratelimit.ConsumeOptions

// TestConsume: a limit allows its capacity and no more, whatever the algorithm, and says what is left.
func TestConsume(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			rule := perHour(a, 3)
			for i := int64(1); i <= 3; i++ {
				d := consume(t, s, namespace, plain, charge("ann", string(a), rule, 1))
				r := d.Results[0]
				if !d.Allowed || d.Granted != 1 || r.Used != i || r.Remaining != 3-i || r.Charged != 1 || r.RetryAfter != 0 {
					t.Errorf("%s, %d: Consume = %+v, want 1 granted and %d used", a, i, d, i)
				}
				if r.ResetAfter <= 0 || r.ResetAfter > 2*time.Hour || r.AvailableAfter <= 0 || r.AvailableAfter > 2*time.Hour {
					t.Errorf("%s, %d: available after %v, reset after %v, want both within 2 h", a, i, r.AvailableAfter, r.ResetAfter)
				}
			}
			for range 2 {
				d := consume(t, s, namespace, plain, charge("ann", string(a), rule, 1))
				if d.Allowed || d.Granted != 0 || d.Results[0].Outcome != ratelimit.Denied || d.RetryAfter <= 0 || d.RetryAfter > 2*time.Hour || d.RetryAfter != d.Results[0].RetryAfter || d.Results[0].Charged != 0 {
					t.Errorf("%s: Consume = %+v, want a denial", a, d)
				}
			}
			if d := consume(t, s, namespace, plain, charge("bob", string(a), rule, 3)); !d.Allowed {
				t.Errorf("%s: Consume of another subject = %+v, want it allowed", a, d)
			}
			d := consume(t, s, namespace, plain, charge("cid", string(a), rule, 4))
			if d.Allowed || d.Results[0].Outcome != ratelimit.TooCostly || d.RetryAfter != ratelimit.Never {
				t.Errorf("%s: Consume of more than the capacity = %+v, want it denied for ever", a, d)
			}
		}
	})
}
