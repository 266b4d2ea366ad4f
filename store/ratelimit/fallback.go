package ratelimit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// unavailableRetry is after which time a caller may try again that was denied because Redis did not decide.
const unavailableRetry = 500 * time.Millisecond

// fallBack has the failure policies decide about the charges that Redis did not decide. It returns false if one has none.
func (l *Limiter) fallBack(c *call, failed []int, results []Result) bool {
	for _, i := range failed {
		if c.charges[i].Rule.OnFailure == "" {
			return false
		}
	}
	var local []int
	allowed := true
	for i := range results {
		if results[i].Outcome != 0 {
			allowed = allowed && (results[i].Outcome == Allowed || c.charges[i].Rule.Shadow)
		}
	}
	for _, i := range failed {
		ch, r := &c.charges[i], &results[i]
		r.Degraded = true
		switch {
		case ch.Cost <= 0 && ch.Rule.OnFailure != FailClosed:
			r.Outcome = Allowed
		case c.least(i) > ch.Rule.full():
			r.Outcome, r.RetryAfter = TooCostly, Never
		case ch.Rule.OnFailure == FailLocal:
			local = append(local, i)
			l.counters.bucket.Add(1)
			continue
		case ch.Rule.OnFailure == FailClosed:
			r.Outcome, r.RetryAfter = Unavailable, unavailableRetry
			l.counters.closed.Add(1)
		default:
			r.Outcome = Allowed
			l.counters.open.Add(1)
		}
		allowed = allowed && (r.Outcome == Allowed || ch.Rule.Shadow)
	}
	if local != nil {
		l.buckets.decide(c, local, results, allowed, l.options.Replicas)
	}
	return true
}

// least returns the least cost with which a charge is content.
func (c *call) least(i int) int64 {
	if c.options.Mode == Partial {
		return min(c.charges[i].Cost, 1)
	}
	return c.charges[i].Cost
}

// maxBuckets is the maximum number of buckets in each of two generations. Of more subjects, those that were not heard of for the
// longest time begin anew.
const maxBuckets = 10_000

// buckets are the limits of this process for rules that are kept locally while Redis does not decide.
type buckets struct {
	mu         sync.Mutex
	young, old map[string]*bucket
}

type bucket struct {
	rule Rule
	*rate.Limiter
}

// decide charges the buckets of charges that Redis did not decide: all or, if one denies or the others have not allowed the call,
// none.
func (b *buckets) decide(c *call, charges []int, results []Result, allowed bool, replicas int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, i := range charges {
		ch, r := &c.charges[i], &results[i]
		of := b.of(c.keys[i], &ch.Rule, replicas)
		cost := c.least(i)
		left := of.TokensAt(now)
		r.Outcome = Allowed
		if missing := float64(cost) - left; missing > 0 {
			r.Outcome = Denied
			r.RetryAfter = seconds(missing / float64(of.Limit()))
			if cost > int64(of.Burst()) {
				r.Outcome, r.RetryAfter = TooCostly, Never
			}
		}
		allowed = allowed && (r.Outcome == Allowed || ch.Rule.Shadow)
	}
	for _, i := range charges {
		ch, r := &c.charges[i], &results[i]
		of := b.of(c.keys[i], &ch.Rule, replicas)
		if r.Outcome == Allowed && !ch.Peek && (allowed || c.options.Mode == Each) {
			cost := ch.Cost
			if c.options.Mode == Partial {
				cost = min(cost, int64(of.TokensAt(now)))
			}
			if of.AllowN(now, int(cost)) {
				r.Charged = cost
			}
		}
		left := max(of.TokensAt(now), 0)
		full := float64(of.Burst())
		r.Remaining, r.Used = int64(left), int64(full)-int64(left)
		if r.Used > 0 {
			r.AvailableAfter = seconds((float64(int64(left)+1) - left) / float64(of.Limit()))
			r.ResetAfter = seconds((full - left) / float64(of.Limit()))
		}
	}
}

// of returns the bucket of a limit.
func (b *buckets) of(key string, rule *Rule, replicas int) *bucket {
	found, ok := b.young[key]
	if !ok {
		if found, ok = b.old[key]; ok {
			b.add(key, found)
		}
	}
	if !ok || found.rule != *rule {
		perSecond := float64(rule.Capacity) / rule.Period.Seconds() / float64(replicas)
		found = &bucket{*rule, rate.NewLimiter(rate.Limit(perSecond), max(int(rule.full())/replicas, 1))}
		b.add(key, found)
	}
	return found
}

func (b *buckets) add(key string, added *bucket) {
	if len(b.young) >= maxBuckets {
		b.old, b.young = b.young, nil
	}
	if b.young == nil {
		b.young = make(map[string]*bucket)
	}
	b.young[key] = added
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, (10*365*24*time.Hour).Seconds()) * float64(time.Second))
}
