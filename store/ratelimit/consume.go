package ratelimit

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"time"

	"github.com/berthcare/larder/store/redis"
)

//go:embed common.lua
var commonText string

//go:embed consume.lua
var consumeText string

// consumeScript also runs when Redis has no memory left: that must not lift limits.
var consumeScript = redis.NewFreeingScript("ratelimit_consume", commonText+consumeText, nil)

// ConsumeOptions are options of [Limiter.Consume].
type ConsumeOptions struct {
	// Mode says how the limits depend on each other; empty means [All].
	Mode Mode
	// RequestID, if set, names the request: a repetition with the same charges within a minute is answered as the first attempt
	// was, and charges nothing. The charges must then be of one subject.
	RequestID string
}

const (
	// requestMemory is how long the answer to a request with an id is kept.
	requestMemory = time.Minute
	// deadlineMargin is left of a caller's deadline when the failure policies decide, so that the answer still arrives.
	deadlineMargin = 3 * time.Millisecond
)

// errSubjects means that a call that must be about one subject is about several, which callers of this package check.
var errSubjects = errors.New("the charges are of several subjects")

// Consume decides about a call and charges its limits, in one script for each slot. In a cluster, charges of different subjects
// are made in parallel and given back if one is denied: meanwhile others may be denied because of them, and if Redis fails then
// they stay.
//
// If Redis does not decide within the shortest RedisTimeout of the rules, or 3 ms before the deadline of ctx, the failure policy
// of each rule decides. Without one, Consume returns the error. A charge that was given up may still be made.
func (l *Limiter) Consume(ctx context.Context, namespace string, charges []Charge, o ConsumeOptions) (Decision, error) {
	c, err := l.newCall(namespace, charges, o)
	if err != nil {
		return Decision{}, err
	}
	if d, ok := l.denials.decide(c); ok {
		l.counters.local.Add(1)
		return d, nil
	}
	l.run(ctx, c)
	return l.conclude(ctx, c)
}

// Refund gives back what was charged, down to nothing, and returns what is used then. Each charge's Cost is what is given back.
// Other replicas may deny for up to 1 s what they have just denied.
func (l *Limiter) Refund(ctx context.Context, namespace string, charges []Charge, o ConsumeOptions) (Decision, error) {
	back := slices.Clone(charges)
	for i := range back {
		back[i].Cost = -back[i].Cost
		back[i].Rule.OnFailure = "" // there is nothing to decide: the caller must hear of a failure
	}
	o.Mode = Each
	return l.Consume(ctx, namespace, back, o)
}

// errShort means that an answer of the script has not as many numbers as it must.
var errShort = errors.New("the script answered too little")

// numbersOfCall and numbersOfCharge are how many numbers the script returns for a call and for each charge.
const (
	numbersOfCall   = 3
	numbersOfCharge = 6
)

// conclude makes a decision of the answers. It is an error only if ctx was cancelled, or if Redis failed and a rule has no
// failure policy.
func (l *Limiter) conclude(ctx context.Context, c *call) (Decision, error) {
	d := Decision{Allowed: true, Results: make([]Result, len(c.charges))}
	var failed []int
	var failure error
	first := true
	for g, group := range c.groups {
		n := c.answers[g].numbers
		if n != nil && len(n) != numbersOfCall+numbersOfCharge*len(group) {
			n, c.answers[g].err = nil, redis.Fail(redis.ErrInternal, errShort)
		}
		if n == nil {
			failed, failure = append(failed, group...), c.answers[g].err
			continue
		}
		d.Repeated = n[0] == 1
		if first || n[2] < d.Granted {
			d.Granted = n[2]
		}
		first = false
		for k, i := range group {
			d.Results[i] = result(&c.charges[i], n[numbersOfCall+numbersOfCharge*k:])
		}
	}
	c.forget(l.denials)
	if failed != nil {
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			failure = err
		}
		if errors.Is(failure, context.Canceled) || !l.fallBack(c, failed, d.Results) {
			l.giveBack(ctx, c, &Decision{Results: d.Results})
			return Decision{}, failure
		}
		d.Degraded = true
		if first {
			d.Granted = c.charges[0].Cost
		}
		for _, i := range failed {
			switch rule := &c.charges[i].Rule; {
			case c.options.Mode != Partial || rule.Shadow:
			case rule.OnFailure == FailLocal:
				d.Granted = min(d.Granted, d.Results[i].Charged)
			default:
				d.Granted = min(d.Granted, rule.full())
			}
		}
	}
	d.judge(c)
	if len(c.groups) > 1 && c.options.Mode != Each {
		l.giveBack(ctx, c, &d)
	}
	if !d.Allowed && failed == nil {
		l.denials.keep(c, &d)
	}
	return d, nil
}

// forget drops the denials of limits of which the call has given back something.
func (c *call) forget(d *denials) {
	for i := range c.charges {
		if c.charges[i].Cost < 0 && !c.charges[i].Peek {
			d.forget(c.keys[i])
		}
	}
}

// judge makes the decision of the call from those of the limits.
func (d *Decision) judge(c *call) {
	for i := range d.Results {
		r := &d.Results[i]
		if r.Outcome == Allowed || c.charges[i].Rule.Shadow {
			continue
		}
		d.Allowed = false
		if d.RetryAfter != Never && (r.RetryAfter == Never || r.RetryAfter > d.RetryAfter) {
			d.RetryAfter = r.RetryAfter
		}
	}
	if !d.Allowed {
		d.Granted = 0
	}
}

// result reads what the script says of one charge.
func result(c *Charge, n []int64) Result {
	r := Result{
		Outcome: Outcome(n[0]), Charged: n[1], Used: n[2], Remaining: max(c.Rule.full()-n[2], 0),
		AvailableAfter: micros(n[3]), ResetAfter: micros(n[4]),
	}
	switch r.Outcome {
	case TooCostly:
		r.RetryAfter = Never
	case Denied:
		r.RetryAfter = micros(n[5])
	case Allowed, Unavailable:
	}
	return r
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// giveBack gives back what the groups of a call were charged beyond what it may keep: nothing if it was denied.
func (l *Limiter) giveBack(ctx context.Context, c *call, d *Decision) {
	var back []Charge
	for i := range d.Results {
		r, ch := &d.Results[i], c.charges[i]
		var most int64
		switch {
		case d.Allowed && c.options.Mode == Partial:
			most = min(d.Granted, ch.Cost)
		case d.Allowed, ch.Rule.Penalize:
			continue
		}
		surplus := r.Charged - max(most, 0)
		if r.Degraded || surplus <= 0 {
			continue
		}
		ch.Cost, ch.Rule.OnFailure = -surplus, FailOpen // which bounds the time
		back = append(back, ch)
		r.Charged -= surplus
		r.Used, r.Remaining = max(r.Used-surplus, 0), min(r.Remaining+surplus, ch.Rule.full())
	}
	if len(back) == 0 {
		return
	}
	returned, err := l.newCall(c.namespace, back, ConsumeOptions{Mode: Each})
	if err != nil {
		return
	}
	// Also if the caller has gone, what the call was charged must be given back.
	l.run(context.WithoutCancel(ctx), returned)
	returned.forget(l.denials)
	for g := range returned.answers {
		if returned.answers[g].err != nil {
			l.counters.notReturned.Add(int64(len(returned.groups[g])))
		}
	}
}
