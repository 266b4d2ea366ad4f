package ratelimit_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/storetest"
)

// TestHotDeniedSubjectCostsRedisNothing: after a denial a replica asks Redis about the limit once in a second, however often it
// is called; what it answers meanwhile runs down.
func TestHotDeniedSubjectCostsRedisNothing(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	for _, a := range algorithms {
		c := charge("ann", string(a), perHour(a, 1), 1)
		consume(t, s, "n", plain, c)
		first := consume(t, s, "n", plain, c)
		begin := time.Now()
		const calls = 2000
		last := first
		costs := storetest.Costs(t, server, func() {
			for range calls {
				d := consume(t, s, "n", plain, c)
				if d.Allowed || d.Results[0].Outcome != ratelimit.Denied || d.RetryAfter <= 0 || d.RetryAfter > last.RetryAfter {
					t.Fatalf("%s: Consume = %+v after %+v, want a denial with less time left", a, d, last)
				}
				last = d
			}
		})
		if most := int64(time.Since(begin)/time.Second) + 1; costs["evalsha"] > most {
			t.Errorf("%s: %d calls in %v cost %v, want at most %d scripts", a, calls, time.Since(begin), costs, most)
		}
	}
	if stats := s.RateLimits.Stats(); stats.LocalDenials < 1000 {
		t.Errorf("local denials = %d, want most of the calls", stats.LocalDenials)
	}
}

// TestDenialIsKeptForWhatItSays: a denial answers no call that may be allowed: of another cost, under another rule, of another
// limit; nor one that would change something.
func TestDenialIsKeptForWhatItSays(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	rule := perHour(ratelimit.GCRA, 5)
	deny := func(subject string) ratelimit.Charge {
		consume(t, s, "n", plain, charge(subject, "api", rule, 3))
		c := charge(subject, "api", rule, 3)
		if d := consume(t, s, "n", plain, c); d.Allowed || d.Local {
			t.Fatalf("Consume = %+v, want a denial by Redis", d)
		}
		if d := consume(t, s, "n", plain, c); d.Allowed || !d.Local {
			t.Fatalf("Consume = %+v, want a local denial", d)
		}
		return c
	}
	for name, test := range map[string]struct {
		call    func(c ratelimit.Charge) (ratelimit.Decision, error)
		allowed bool
		local   bool
	}{
		"a higher cost": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			c.Cost = 4
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, false, false},
		"a lower cost": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			c.Cost = 2
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, true, false},
		"partial": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, ratelimit.ConsumeOptions{Mode: ratelimit.Partial})
		}, true, false},
		"a changed rule": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			c.Rule.Capacity = 6
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, true, false},
		"a rule that penalizes": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			c.Rule.Penalize = true
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, false, false},
		"each": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, ratelimit.ConsumeOptions{Mode: ratelimit.Each})
		}, false, false},
		"beside another limit": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c, charge(c.Subject, "other", rule, 3)}, plain)
		}, false, false},
		"after a refund": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			back := c
			back.Cost = 1
			if _, err := s.RateLimits.Refund(t.Context(), "n", []ratelimit.Charge{back}, plain); err != nil {
				return ratelimit.Decision{}, err
			}
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, true, false},
		"after a reset": {func(c ratelimit.Charge) (ratelimit.Decision, error) {
			if _, err := s.RateLimits.Reset(t.Context(), "n", c.Subject, []string{c.Name}); err != nil {
				return ratelimit.Decision{}, err
			}
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, plain)
		}, true, false},
	} {
		d, err := test.call(deny(name))
		if err != nil || d.Allowed != test.allowed || d.Local != test.local {
			t.Errorf("%s: Consume = %+v, %v, want allowed: %v, local: %v", name, d, err, test.allowed, test.local)
		}
	}

	// A limit in shadow denies nothing from memory either, and what other limits have said to a denied call is told again.
	shadow, enforced := charge("cid", "shadow", perHour(ratelimit.GCRA, 1), 1), charge("cid", "real", perHour(ratelimit.GCRA, 2), 1)
	shadow.Rule.Shadow = true
	for i := range 4 {
		d := consume(t, s, "n", plain, shadow, enforced)
		if d.Allowed != (i < 2) || d.Local != (i == 3) || d.Results[1].Used != int64(min(i+1, 2)) || d.Results[0].Used != 1 {
			t.Errorf("%d: Consume = %+v, want it allowed twice, and denied from memory in the end", i, d)
		}
	}
}

// TestDenialEndsInTime: what was denied is allowed again as soon as Redis would allow it, and other replicas' refunds are seen
// within a second.
func TestDenialEndsInTime(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		both := storetest.Replicas(t, s)
		short := charge("ann", "short", ratelimit.Rule{Capacity: 1, Period: 50 * time.Millisecond}, 1)
		consume(t, s, namespace, plain, short)
		storetest.Eventually(t, "allowed again", func() bool { return consume(t, s, namespace, plain, short).Allowed })

		long := charge("bob", "long", perHour(ratelimit.GCRA, 1), 1)
		consume(t, s, namespace, plain, long)
		for range 2 {
			consume(t, both[0], namespace, plain, long)
		}
		if _, err := both[1].RateLimits.Reset(t.Context(), namespace, "bob", []string{"long"}); err != nil {
			t.Fatalf("Reset: error %v, want none", err)
		}
		begin := time.Now()
		storetest.Eventually(t, "allowed after another replica's Reset", func() bool { return consume(t, both[0], namespace, plain, long).Allowed })
		if took := time.Since(begin); took > 10*time.Second { // 1 s, and what a busy machine adds
			t.Errorf("allowed after %v, want about 1 s", took)
		}
	})
}

// TestRefundIsNotUndoneByADenialUnderWay: a denial that Redis gave before a refund, and that is read after it, is not kept.
func TestRefundIsNotUndoneByADenialUnderWay(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	for _, back := range []bool{false, true} {
		c := charge("ann"+strconv.FormatBool(back), "api", perHour(ratelimit.GCRA, 1), 1)
		consume(t, s, "n", plain, c)
		late := s.RateLimits.Late(t, "n", c)
		if back {
			if _, err := s.RateLimits.Refund(t.Context(), "n", []ratelimit.Charge{c}, plain); err != nil {
				t.Fatalf("Refund: error %v, want none", err)
			}
		}
		if d := late(); d.Allowed {
			t.Fatalf("the denial under way = %+v, want a denial", d)
		}
		if d := consume(t, s, "n", plain, c); d.Allowed != back || d.Local == back {
			t.Errorf("refunded: %v: Consume = %+v, want allowed: %v", back, d, back)
		}
	}
}

// TestARepeatedRequestIsNotDeniedFromMemory: a request that was allowed gets that answer again, also if the limit has denied
// others since.
func TestARepeatedRequestIsNotDeniedFromMemory(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	o := ratelimit.ConsumeOptions{RequestID: "r"}
	for name, call := range map[string]func(c ratelimit.Charge) (ratelimit.Decision, error){
		"Consume": func(c ratelimit.Charge) (ratelimit.Decision, error) {
			return s.RateLimits.Consume(t.Context(), "n", []ratelimit.Charge{c}, o)
		},
		"BatchConsume": func(c ratelimit.Charge) (ratelimit.Decision, error) {
			r := s.RateLimits.BatchConsume(t.Context(), "n", []ratelimit.BatchItem{{Charges: []ratelimit.Charge{c}, Options: o}})[0]
			return r.Decision, r.Err
		},
		"Reserve": func(c ratelimit.Charge) (ratelimit.Decision, error) {
			d, _, err := s.RateLimits.Reserve(t.Context(), "n", []ratelimit.Charge{c}, time.Minute, o)
			return d, err
		},
	} {
		c := charge(name, "api", perHour(ratelimit.GCRA, 1), 1)
		if d, err := call(c); err != nil || !d.Allowed {
			t.Fatalf("%s = %+v, %v, want it allowed", name, d, err)
		}
		if d := consume(t, s, "n", plain, c); d.Allowed {
			t.Fatalf("Consume of another = %+v, want a denial", d)
		}
		if d, err := call(c); err != nil || !d.Allowed || !d.Repeated || d.Local {
			t.Errorf("%s again = %+v, %v, want the answer to the first attempt", name, d, err)
		}
	}
}

// TestDenialsAreBounded: however many subjects are denied, the memory is bounded.
func TestDenialsAreBounded(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	var items []ratelimit.BatchItem
	for i := range 40_000 {
		c := charge("subject-"+strconv.Itoa(i), "api", ratelimit.Rule{Capacity: 0, Period: time.Hour}, 1)
		if items = append(items, ratelimit.BatchItem{Charges: []ratelimit.Charge{c}}); len(items) == 100 {
			for _, r := range s.RateLimits.BatchConsume(t.Context(), "n", items) {
				if r.Err != nil || r.Allowed {
					t.Fatalf("BatchConsume = %+v, want denials", r)
				}
			}
			items = nil
		}
	}
	if entries, bytes := s.RateLimits.Kept(); entries == 0 || bytes > ratelimit.MaxDenialBytes {
		t.Errorf("%d denials of %d bytes are kept, want some of at most %d bytes", entries, bytes, ratelimit.MaxDenialBytes)
	}
}
