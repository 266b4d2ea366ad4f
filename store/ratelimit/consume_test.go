package ratelimit_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// dump is what Redis holds of keys, to the last bit and millisecond.
func dump(t *testing.T, s *store.Store, keys ...string) (all []any) {
	t.Helper()
	for _, key := range keys {
		all = append(all, storetest.Command(t, s, "GET", key), storetest.Command(t, s, "PEXPIRETIME", key))
	}
	return all
}

// TestAllOrNothing: if one limit denies, none is charged, whatever their order; what the others would say is told.
func TestAllOrNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			wide, tight := charge("ann", string(a)+"-wide", perHour(a, 10), 2), charge("ann", string(a)+"-tight", perHour(a, 3), 2)
			if d := consume(t, s, namespace, plain, wide, tight); !d.Allowed || d.Results[0].Used != 2 || d.Results[1].Used != 2 {
				t.Errorf("%s: Consume = %+v, want both charged", a, d)
			}
			for _, charges := range [][]ratelimit.Charge{{wide, tight}, {tight, wide}} {
				d := consume(t, s, namespace, plain, charges...)
				if d.Allowed || d.Results[0].Used != 2 || d.Results[1].Used != 2 || d.Results[0].Charged+d.Results[1].Charged != 0 {
					t.Errorf("%s: Consume = %+v, want it denied and none charged", a, d)
				}
				for i, c := range charges {
					if want := map[string]ratelimit.Outcome{wide.Name: ratelimit.Allowed, tight.Name: ratelimit.Denied}[c.Name]; d.Results[i].Outcome != want {
						t.Errorf("%s: outcome of %s = %v, want %v", a, c.Name, d.Results[i].Outcome, want)
					}
				}
			}
		}
	})
}

// TestLimitsOfSeveralSubjects: limits of other subjects, which may be in other slots, are all or nothing as well.
func TestLimitsOfSeveralSubjects(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var charges []ratelimit.Charge
		for _, key := range storetest.Keys(8) {
			charges = append(charges, charge(key, "each", perHour(ratelimit.GCRA, 5), 2))
		}
		charges = append(charges, charge("everybody", "all", perHour(ratelimit.FixedWindow, 3), 2))
		if d := consume(t, s, namespace, plain, charges...); !d.Allowed || d.Granted != 2 {
			t.Errorf("Consume = %+v, want it allowed", d)
		}
		for i, c := range charges {
			charges[i].Rule = c.Rule
		}
		d := consume(t, s, namespace, plain, charges...)
		if d.Allowed || d.Granted != 0 || d.RetryAfter <= 0 {
			t.Errorf("Consume = %+v, want a denial", d)
		}
		for i, c := range charges {
			c.Cost = 0
			if used := consume(t, s, namespace, plain, c).Results[0].Used; used != 2 || d.Results[i].Used != 2 || d.Results[i].Charged != 0 {
				t.Errorf("used of %s = %d, told %d and charged %d, want 2, 2 and 0", c.Subject, used, d.Results[i].Used, d.Results[i].Charged)
			}
		}
		// As much as all allow is charged to all.
		for i := range charges {
			charges[i].Cost = 3
		}
		d = consume(t, s, namespace, ratelimit.ConsumeOptions{Mode: ratelimit.Partial}, charges...)
		if !d.Allowed || d.Granted != 1 {
			t.Errorf("Consume, partial = %+v, want 1 granted", d)
		}
		for i, c := range charges {
			c.Cost = 0
			if used := consume(t, s, namespace, plain, c).Results[0].Used; used != 3 || d.Results[i].Used != 3 {
				t.Errorf("used of %s = %d, told %d, want 3", c.Subject, used, d.Results[i].Used)
			}
		}
	})
}

// TestDeniedChangesNoKey: nor does a peek, a cost of 0 or a refund of nothing. Only a rule that penalizes is charged.
func TestDeniedChangesNoKey(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			c, unused := charge("ann", string(a), perHour(a, 3), 2), charge("ann", string(a)+"-unused", perHour(a, 9), 2)
			consume(t, s, namespace, plain, c)
			keys := []string{ratelimit.UsageKey(namespace, c), ratelimit.UsageKey(namespace, unused)}
			before := dump(t, s, keys...)
			zero, peek, more := c, c, c
			zero.Cost, peek.Peek, more.Cost = 0, true, 4
			none := unused
			none.Cost = -1
			for i, charges := range [][]ratelimit.Charge{{c, unused}, {unused, c}, {zero}, {peek}, {more}, {none}} {
				o := plain
				if i == 5 {
					o.Mode = ratelimit.Each
				}
				consume(t, s, namespace, o, charges...)
				if diff := cmp.Diff(before, dump(t, s, keys...)); diff != "" {
					t.Errorf("%s: Consume of %+v changed what Redis holds (-before +after):\n%s", a, charges, diff)
				}
			}
			c.Rule.Penalize = true
			if d := consume(t, s, namespace, plain, c); d.Allowed || d.Results[0].Charged != 1 || d.Results[0].Remaining != 0 {
				t.Errorf("%s: Consume with penalize = %+v, want a denial that uses up what is left", a, d)
			}
		}
	})
}

// TestChangedRuleActsAtOnce: what is stored is what was used and not the limit.
func TestChangedRuleActsAtOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			c := charge("ann", string(a), perHour(a, 5), 1)
			for range 6 {
				consume(t, s, namespace, plain, c)
			}
			for _, change := range []struct {
				capacity, remaining int64
				period              time.Duration
				allowed             bool
			}{
				{10, 4, time.Hour, true}, {6, 0, time.Hour, false}, {7, 0, time.Hour, true}, {2, 0, time.Hour, false}, {20, 12, 2 * time.Hour, true},
			} {
				c.Rule.Capacity, c.Rule.Period = change.capacity, change.period
				d := consume(t, s, namespace, plain, c)
				// A bucket that was made smaller has spilled.
				spilled := a == ratelimit.GCRA && change.capacity == 20
				if d.Allowed != change.allowed || d.Results[0].Remaining != change.remaining && !spilled {
					t.Errorf("%s: Consume under %d in %v = %+v, want allowed: %v, %d left", a, change.capacity, change.period, d, change.allowed, change.remaining)
				}
			}
		}
	})
}

// TestShortenedPeriodActsAtOnce: what was used under a rule of a longer period keeps nobody waiting for longer than is told.
func TestShortenedPeriodActsAtOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			for _, alignment := range []ratelimit.Alignment{ratelimit.FirstUse, ratelimit.Epoch} {
				c := charge("ann", string(a)+"-"+string(alignment), perHour(a, 5), 1)
				if c.Rule.Alignment = alignment; a != ratelimit.FixedWindow {
					c.Rule.Alignment = ""
				}
				for range 6 {
					consume(t, s, namespace, plain, c)
				}
				c.Rule.Period = 200 * time.Millisecond
				begin := time.Now()
				d := consume(t, s, namespace, plain, c)
				for time.Since(begin) < 5*time.Second && !d.Allowed {
					<-time.After(min(d.RetryAfter, time.Second))
					d = consume(t, s, namespace, plain, c)
				}
				if !d.Allowed {
					t.Errorf("%s, %s: Consume %v after the period was shortened to %v = %+v, want it allowed", a, alignment, time.Since(begin), c.Rule.Period, d)
				}
			}
		}
	})
}

// TestOneKeyUnderTwoRules: two charges of one call may count in one key, as descriptors of Envoy do of which one brings a limit of
// its own. Each keeps to its own capacity.
func TestOneKeyUnderTwoRules(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range []ratelimit.Algorithm{ratelimit.FixedWindow, ratelimit.SlidingWindow} {
			high, low := charge("ann", string(a), perHour(a, 100), 1), charge("ann", string(a), perHour(a, 2), 1)
			for i, charges := range [][]ratelimit.Charge{{high, low}, {high, low}, {low, high}} {
				d := consume(t, s, namespace, plain, charges...)
				wide, tight := d.Results[0], d.Results[1]
				if i == 2 {
					tight, wide = wide, tight
				}
				want := ratelimit.Denied
				if i == 0 {
					want = ratelimit.Allowed
				}
				if d.Allowed != (i == 0) || tight.Outcome != want || wide.Outcome != ratelimit.Allowed || tight.Remaining != 0 || wide.Remaining != 98 {
					t.Errorf("%s: Consume %d = %+v, want the limit of 2 %v, that of 100 allowed, and 2 used", a, i, d, want)
				}
			}
		}
	})
}

// TestPartial: as much as is left is granted, and nothing left is a denial.
func TestPartial(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := ratelimit.ConsumeOptions{Mode: ratelimit.Partial}
		for _, a := range algorithms {
			wide, tight := charge("ann", string(a)+"-wide", perHour(a, 100), 7), charge("ann", string(a)+"-tight", perHour(a, 10), 7)
			for i, want := range []int64{7, 3, 0} {
				d := consume(t, s, namespace, o, wide, tight)
				if d.Granted != want || d.Allowed != (want > 0) || d.Results[0].Charged != want || d.Results[1].Charged != want {
					t.Errorf("%s, %d: Consume = %+v, want %d granted", a, i, d, want)
				}
			}
		}
	})
}

// TestShadow: a limit in shadow denies nothing, keeps no other limit from being charged, and says what it would have done.
func TestShadow(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		shadow, enforced := charge("ann", "shadow", perHour(ratelimit.GCRA, 1), 1), charge("ann", "real", perHour(ratelimit.GCRA, 3), 1)
		shadow.Rule.Shadow = true
		for i := range int64(4) {
			d := consume(t, s, namespace, plain, shadow, enforced)
			if d.Allowed != (i < 3) || d.Results[0].Used != 1 || d.Results[1].Used != min(i+1, 3) || (d.Results[0].Outcome == ratelimit.Allowed) != (i == 0) {
				t.Errorf("%d: Consume = %+v, want the limit in shadow to deny from the second call on and the real one from the fourth", i, d)
			}
		}
	})
}

// TestRefund: what is given back can be used again, and no more than was used is given back.
func TestRefund(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			c := charge("ann", string(a), perHour(a, 3), 3)
			consume(t, s, namespace, plain, c)
			c.Cost = 1
			if d := consume(t, s, namespace, plain, c); d.Allowed {
				t.Errorf("%s: Consume = %+v, want a denial", a, d)
			}
			c.Cost = 2
			d, err := s.RateLimits.Refund(t.Context(), namespace, []ratelimit.Charge{c}, plain)
			if err != nil || d.Results[0].Used != 1 || d.Results[0].Remaining != 2 {
				t.Errorf("%s: Refund = %+v, %v, want 1 used", a, d, err)
			}
			if d := consume(t, s, namespace, plain, c); !d.Allowed {
				t.Errorf("%s: Consume after Refund = %+v, want it allowed", a, d)
			}
			c.Cost = 100
			d, err = s.RateLimits.Refund(t.Context(), namespace, []ratelimit.Charge{c}, plain)
			if err != nil || d.Results[0].Used != 0 || d.Results[0].Remaining != 3 {
				t.Errorf("%s: Refund of more = %+v, %v, want nothing used", a, d, err)
			}
			if left := storetest.Command(t, s, "GET", ratelimit.UsageKey(namespace, c)); left != nil {
				t.Errorf("%s: Redis holds %q, want nothing", a, left)
			}
		}
	})
}

// TestReset: a subject begins anew, whatever the algorithm was.
func TestReset(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			c := charge("ann", "login", perHour(a, 1), 1)
			consume(t, s, namespace, plain, c)
			consume(t, s, namespace, plain, c)
		}
		for _, want := range []bool{true, false} {
			if reset, err := s.RateLimits.Reset(t.Context(), namespace, "ann", []string{"login", "other"}); err != nil || reset != want {
				t.Errorf("Reset = %v, %v, want %v", reset, err, want)
			}
		}
		for _, a := range algorithms {
			if d := consume(t, s, namespace, plain, charge("ann", "login", perHour(a, 1), 1)); !d.Allowed {
				t.Errorf("%s: Consume after Reset = %+v, want it allowed", a, d)
			}
		}
	})
}

// TestRequestID: a request that is repeated is answered as before and charged once; another request is another one.
func TestRequestID(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := ratelimit.ConsumeOptions{RequestID: "r"}
		c := charge("ann", "api", perHour(ratelimit.GCRA, 9), 2)
		first := consume(t, s, namespace, o, c)
		again := consume(t, s, namespace, o, c)
		if !again.Repeated || first.Repeated {
			t.Errorf("repeated = %v, then %v, want false and true", first.Repeated, again.Repeated)
		}
		again.Repeated = false
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("the repeated answer differs (-first +again):\n%s", diff)
		}
		c.Cost = 3
		if d := consume(t, s, namespace, o, c); d.Repeated || d.Results[0].Used != 5 {
			t.Errorf("Consume of another cost = %+v, want another request", d)
		}
		if d := consume(t, s, namespace, ratelimit.ConsumeOptions{RequestID: "s"}, c); d.Repeated || d.Results[0].Used != 8 {
			t.Errorf("Consume of another id = %+v, want another request", d)
		}
		for range 2 {
			if d, err := s.RateLimits.Refund(t.Context(), namespace, []ratelimit.Charge{c}, o); err != nil || d.Results[0].Used != 5 {
				t.Errorf("Refund = %+v, %v, want 5 used after each attempt", d, err)
			}
		}
	})
}

// TestBatchConsume: calls of a batch are decided one by one, in their order.
func TestBatchConsume(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var items []ratelimit.BatchItem
		for i := range 30 {
			c := charge(storetest.Keys(10)[i%10], "each", perHour(ratelimit.GCRA, 2), 1)
			items = append(items, ratelimit.BatchItem{Charges: []ratelimit.Charge{c}})
		}
		for i, r := range s.RateLimits.BatchConsume(t.Context(), namespace, items) {
			if r.Err != nil || r.Allowed != (i < 20) || r.Allowed && r.Results[0].Used != int64(i/10+1) {
				t.Errorf("item %d = %+v, want allowed: %v", i, r, i < 20)
			}
		}
	})
}

// TestKeysExpire: what means nothing any more is gone, and not before.
func TestKeysExpire(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, a := range algorithms {
			c := charge("ann", string(a), perHour(a, 3), 2)
			d := consume(t, s, namespace, plain, c)
			left := time.Duration(storetest.Command(t, s, "PTTL", ratelimit.UsageKey(namespace, c)).(int64)) * time.Millisecond
			if reset := d.Results[0].ResetAfter; left > reset+time.Millisecond || left < reset-20*time.Second {
				t.Errorf("%s: PTTL = %v, want about the time until nothing is used, %v", a, left, reset)
			}
			short := charge("bob", string(a), ratelimit.Rule{Algorithm: a, Capacity: 1, Period: 20 * time.Millisecond}, 1)
			consume(t, s, namespace, plain, short)
			if s.Redis.Mode() != redis.Embedded { // whose keys expire when somebody looks
				storetest.Eventually(t, "the key is gone", func() bool {
					return storetest.Command(t, s, "EXISTS", ratelimit.UsageKey(namespace, short)) == int64(0)
				})
			}
			storetest.Eventually(t, "allowed again", func() bool { return consume(t, s, namespace, plain, short).Allowed })
		}
	})
}
