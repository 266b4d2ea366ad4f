package ratelimit_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// drawRule draws a rule: small numbers, whose edges are met often, or large ones, whose products pass 2^53.
func drawRule(t *rapid.T, label string) ratelimit.Rule {
	r := ratelimit.Rule{
		Algorithm: rapid.SampledFrom(algorithms).Draw(t, label+" algorithm"),
		Alignment: rapid.SampledFrom([]ratelimit.Alignment{ratelimit.FirstUse, ratelimit.Epoch}).Draw(t, label+" alignment"),
		Shadow:    rapid.IntRange(0, 5).Draw(t, label+" shadow") == 0,
		Penalize:  rapid.IntRange(0, 5).Draw(t, label+" penalize") == 0,
	}
	if rapid.IntRange(0, 3).Draw(t, label+" size") > 0 {
		r.Capacity = rapid.Int64Range(1, 12).Draw(t, label+" capacity")
		r.Period = time.Duration(rapid.Int64Range(1000, 20_000).Draw(t, label+" period")) * time.Microsecond
		r.Burst = rapid.Int64Range(0, 15).Draw(t, label+" burst")
	} else {
		r.Capacity = rapid.Int64Range(1, ratelimit.MaxCapacity).Draw(t, label+" capacity")
		r.Period = time.Duration(rapid.Int64Range(1000, ratelimit.MaxPeriod.Microseconds()).Draw(t, label+" period")) * time.Microsecond
		r.Burst = rapid.Int64Range(0, min(2*r.Capacity, ratelimit.MaxCapacity)).Draw(t, label+" burst")
	}
	return r
}

// drawCost draws a cost about as large as a rule allows.
func drawCost(t *rapid.T, r ratelimit.Rule) int64 {
	most := full(r)
	return rapid.OneOf(rapid.Int64Range(-most/2-1, most+1), rapid.Int64Range(0, min(most, 3)), rapid.SampledFrom([]int64{0, 1, most, most + 1})).Draw(t, "cost")
}

// TestScriptAgreesWithTheModel: whatever is charged, given back, reserved and settled, under rules that change, while time passes
// and is now and then set back, the scripts say to the microsecond what the definitions of the algorithms say.
func TestScriptAgreesWithTheModel(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, mode)
			if mode == redis.Standalone {
				server, _ := storetest.Alone(t)
				o.Redis.Addrs = []string{server.Addr}
			}
			o.RateLimits.NoLocalDenials = true
			s := storetest.Open(t, o)
			s.RateLimits.UseTimeKey()
			rapid.Check(t, func(rt *rapid.T) { agree(t, rt, s) })
		})
	}
}

// agree makes random calls and compares each with the model.
func agree(t *testing.T, rt *rapid.T, s *store.Store) {
	m := &model{now: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC).UnixMicro() + rapid.Int64Range(0, 1e9).Draw(rt, "start"), limits: make(map[string]usage)}
	namespace := storetest.NewNamespace()
	rules := make(map[string]ratelimit.Rule)
	var held []held
	steps := rapid.IntRange(1, 25).Draw(rt, "steps")
	for range steps {
		tick := rapid.OneOf(rapid.Int64Range(0, 3000), rapid.Int64Range(0, 50_000), rapid.Just[int64](0), rapid.Int64Range(0, 1e12), rapid.Int64Range(-3000, 0)).Draw(rt, "tick")
		m.now += tick
		storetest.Command(t, s, "SET", ratelimit.TimeKey, strconv.FormatInt(m.now, 10))
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID[string]).Draw(rt, "names")
		var charges []ratelimit.Charge
		for _, name := range names {
			if _, ok := rules[name]; !ok || rapid.IntRange(0, 4).Draw(rt, "change") == 0 {
				rules[name] = drawRule(rt, name)
			}
			charges = append(charges, ratelimit.Charge{
				Subject: rapid.SampledFrom([]string{"ann", "bob}x"}).Draw(rt, "subject"), Name: name, Rule: rules[name],
				Cost: drawCost(rt, rules[name]), Peek: rapid.IntRange(0, 7).Draw(rt, "peek") == 0,
			})
		}
		switch op := rapid.IntRange(0, 5).Draw(rt, "op"); {
		case op <= 3:
			o := ratelimit.ConsumeOptions{Mode: rapid.SampledFrom([]ratelimit.Mode{ratelimit.All, ratelimit.All, ratelimit.Partial, ratelimit.Each}).Draw(rt, "mode")}
			if o.Mode == ratelimit.Partial {
				for i := range charges {
					charges[i].Cost = max(charges[0].Cost, 0)
				}
			}
			d, err := s.RateLimits.Consume(context.Background(), namespace, charges, o)
			if err != nil {
				rt.Fatalf("Consume: error %v, want none: %s", err, redis.Cause(err))
			}
			results, allowed, granted := m.consume(o.Mode, charges)
			compare(rt, fmt.Sprintf("Consume %s %+v at %d", o.Mode, charges, m.now), d.Results, results)
			if o.Mode != ratelimit.Each && (d.Allowed != allowed || d.Granted != granted) {
				rt.Fatalf("Consume %s %+v = allowed %v, granted %d, want %v and %d", o.Mode, charges, d.Allowed, d.Granted, allowed, granted)
			}
		case op == 4:
			for i := range charges {
				charges[i].Subject, charges[i].Cost, charges[i].Peek = charges[0].Subject, max(charges[0].Cost, 0), false
			}
			d, id, err := s.RateLimits.Reserve(context.Background(), namespace, charges, time.Hour, plain)
			if err != nil {
				rt.Fatalf("Reserve: error %v, want none: %s", err, redis.Cause(err))
			}
			results, allowed, _ := m.consume(ratelimit.All, charges)
			compare(rt, fmt.Sprintf("Reserve %+v at %d", charges, m.now), d.Results, results)
			if d.Allowed != allowed || (id != "") != allowed {
				rt.Fatalf("Reserve = allowed %v, id %q, want %v", d.Allowed, id, allowed)
			}
			if allowed {
				held = append(held, newHeld(id, charges, results))
			}
		case len(held) > 0:
			n := rapid.IntRange(0, len(held)-1).Draw(rt, "reservation")
			used := drawUsed(rt, held[n])
			outcome, err := s.RateLimits.Commit(context.Background(), namespace, held[n].id, used)
			if err != nil || outcome.Outcome != ratelimit.Settled {
				rt.Fatalf("Commit = %+v, %v, want settled", outcome, err)
			}
			compare(rt, fmt.Sprintf("Commit of %d of %+v at %d", used, held[n].charges, m.now), outcome.Results, m.settle(held[n], used))
			held = append(held[:n], held[n+1:]...)
		}
	}
}

// A held is a reservation.
type held struct {
	id      string
	charges []ratelimit.Charge
	results []said
	marks   []mark
}

func newHeld(id string, charges []ratelimit.Charge, results []said) held {
	h := held{id: id, charges: charges, results: results}
	for _, r := range results {
		h.marks = append(h.marks, r.usage.mark())
	}
	return h
}

// drawUsed draws what was used in the end: all, less, more, or nothing.
func drawUsed(t *rapid.T, h held) int64 {
	cost := h.charges[0].Cost
	return rapid.OneOf(rapid.Int64Range(0, cost), rapid.Int64Range(cost, 2*cost+2), rapid.Just(cost), rapid.Just[int64](0)).Draw(t, "used")
}

// settle ends a reservation as Limiter.Commit does.
func (m *model) settle(h held, used int64) []said {
	results := make([]said, len(h.charges))
	for i, c := range h.charges {
		r := &results[i]
		r.charged, r.usage = h.results[i].charged, m.of(c)
		if h.results[i].outcome == ratelimit.Allowed && used != r.charged {
			if used > r.charged {
				r.usage = r.usage.add(used - r.charged)
			} else {
				r.usage = r.usage.give(r.charged-used, h.marks[i])
			}
			m.limits[key(c)] = r.usage
			r.charged = used
		}
		r.tell(c.Rule, 0)
	}
	return results
}

// compare compares what the script and the model say of each limit.
func compare(t *rapid.T, call string, got []ratelimit.Result, want []said) {
	t.Helper()
	for i, w := range want {
		wanted := ratelimit.Result{
			Outcome: w.outcome, Charged: w.charged, Used: w.used, Remaining: got[i].Remaining,
			AvailableAfter: time.Duration(w.available) * time.Microsecond, ResetAfter: time.Duration(w.reset) * time.Microsecond,
			RetryAfter: time.Duration(w.retry) * time.Microsecond,
		}
		if w.outcome == ratelimit.TooCostly {
			wanted.RetryAfter = ratelimit.Never
		}
		if diff := cmp.Diff(wanted, got[i]); diff != "" {
			t.Fatalf("%s: limit %d (-want +got):\n%s", call, i, diff)
		}
	}
}
