package ratelimit

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

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
	l.run(ctx, []*call{c})
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

// A call is one use of the script, or several in a cluster.
type call struct {
	namespace string
	charges   []Charge
	options   ConsumeOptions
	keys      []string // of the usage, one for each charge
	// record, about and keep are the key of the record of the request, what it says of it, and how long it lives.
	record, about string
	keep          time.Duration
	groups        [][]int // the charges of each slot

	sent    time.Time
	ticket  uint64 // of the denials
	answers []answer
}

// An answer is that of the script to one group.
type answer struct {
	numbers []int64
	err     error
}

// newCall prepares a call.
func (l *Limiter) newCall(namespace string, charges []Charge, o ConsumeOptions) (*call, error) {
	c := &call{namespace: namespace, charges: charges, options: o, keys: make([]string, len(charges))}
	subjects := 0
	for i := range charges {
		if err := charges[i].Rule.check(); err != nil {
			return nil, redis.Fail(redis.ErrInternal, err)
		}
		c.keys[i] = usageKey(namespace, &charges[i])
		if i == 0 || charges[i].Subject != charges[0].Subject {
			subjects++
		}
	}
	if subjects > 1 && l.redis.Mode() == redis.Cluster {
		at := make(map[string]int)
		for i := range charges {
			g, ok := at[charges[i].Subject]
			if !ok {
				g = len(c.groups)
				at[charges[i].Subject] = g
				c.groups = append(c.groups, nil)
			}
			c.groups[g] = append(c.groups[g], i)
		}
	} else {
		c.groups = [][]int{redis.Items(len(charges))}
	}
	if o.RequestID != "" {
		if subjects > 1 {
			return nil, redis.Fail(redis.ErrInternal, errSubjects)
		}
		c.about = c.digest(o.RequestID)
		c.record, c.keep = recordKey(namespace, charges[0].Subject, "c"+c.about), requestMemory
	}
	c.answers = make([]answer, len(c.groups))
	return c, nil
}

// consumeArgs is the number of arguments of the script for each charge.
const consumeArgs = 7

// script returns the keys and arguments of the script for a group.
func (l *Limiter) script(c *call, group []int) (keys, args []string) {
	mode, keep := c.options.Mode, ""
	if mode == "" {
		mode = All
	}
	keys, args = make([]string, 0, len(group)+1), make([]string, 0, 3+consumeArgs*len(group))
	if c.record != "" {
		keep = redis.Millis(c.keep)
	}
	args = append(args, string(mode), keep, c.about)
	for _, i := range group {
		ch := &c.charges[i]
		keys = append(keys, c.keys[i])
		args = append(args, letters[ch.Rule.Algorithm], ch.Rule.fullText(), strconv.FormatInt(ch.Rule.Capacity, 10),
			strconv.FormatInt(ch.Rule.Period.Microseconds(), 10), ch.Rule.align(l.redis.Now()),
			strconv.FormatInt(min(max(ch.Cost, -maxCost), maxCost), 10), flags(ch))
	}
	if c.record != "" {
		keys = append(keys, c.record)
	}
	return keys, args
}

// maxCost is more than any limit allows at once.
const maxCost = 2 * MaxCapacity

func flags(c *Charge) string {
	if !c.Rule.Shadow && !c.Rule.Penalize && !c.Peek {
		return ""
	}
	f := ""
	if c.Rule.Shadow {
		f = "s"
	}
	if c.Rule.Penalize {
		f += "p"
	}
	if c.Peek {
		f += "k"
	}
	return f
}

// effect says what a lost answer of the call means.
func (c *call) effect() redis.Effect {
	if c.record != "" {
		return redis.Writes
	}
	for i := range c.charges {
		if c.charges[i].Cost != 0 && !c.charges[i].Peek {
			return redis.WritesOnce
		}
	}
	return redis.Writes
}

// run asks Redis about calls, in one round trip for each shard.
func (l *Limiter) run(parent context.Context, calls []*call) {
	ctx, cancel := l.within(parent, calls)
	defer cancel()
	type part struct{ call, group int }
	var parts []part
	eff := redis.Writes
	now := time.Now()
	for n, c := range calls {
		c.sent, c.ticket = now, l.denials.ticket()
		eff = max(eff, c.effect())
		for g := range c.groups {
			parts = append(parts, part{n, g})
		}
	}
	if len(parts) == 1 {
		c := calls[0]
		keys, args := l.script(c, c.groups[0])
		reply, err := l.redis.Run(ctx, l.scripts.consume, eff, keys, args...)
		c.answers[0] = answered(reply, err)
		return
	}
	err := l.redis.RunScripts(ctx, redis.Items(len(parts)), redis.ScriptBatch{
		Script: l.scripts.consume, Effect: eff,
		Call: func(i int) (keys, args []string) {
			c := calls[parts[i].call]
			return l.script(c, c.groups[parts[i].group])
		},
		Read: func(i int, r rueidis.RedisResult) error {
			reply, err := r.ToMessage()
			if err != nil {
				return err
			}
			a := answered(reply, nil)
			calls[parts[i].call].answers[parts[i].group] = a
			return a.err
		},
		Fail: func(i int, err error) { calls[parts[i].call].answers[parts[i].group] = answer{err: err} },
	})
	for _, p := range parts {
		if a := &calls[p.call].answers[p.group]; a.numbers == nil && a.err == nil {
			if a.err = err; err == nil {
				a.err = redis.ErrInternal
			}
		}
	}
}

func answered(reply rueidis.RedisMessage, err error) answer {
	if err != nil {
		return answer{err: err}
	}
	numbers, err := reply.AsIntSlice()
	if err != nil || len(numbers) == 0 {
		return answer{err: redis.ErrInternal}
	}
	return answer{numbers: numbers}
}

// within returns a context that ends when the failure policies decide about the calls.
func (l *Limiter) within(ctx context.Context, calls []*call) (context.Context, context.CancelFunc) {
	var limit time.Duration // 0: none
	for _, c := range calls {
		for i := range c.charges {
			r := &c.charges[i].Rule
			if r.OnFailure == "" {
				continue
			}
			own := MaxRedisTimeout
			if r.RedisTimeout > 0 && r.RedisTimeout < own {
				own = r.RedisTimeout
			}
			if limit == 0 || own < limit {
				limit = own
			}
		}
	}
	if limit == 0 {
		return ctx, func() {}
	}
	end := time.Now().Add(limit)
	deadline, ok := ctx.Deadline()
	switch early := deadline.Add(-deadlineMargin); {
	case ok && (early.Before(end) || l.redis.Mode() == redis.Embedded):
		end = early
	case l.redis.Mode() == redis.Embedded: // it always answers, on a busy machine as late as its caller
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end)
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
			if c.options.Mode == Partial && c.charges[i].Rule.OnFailure == FailLocal {
				d.Granted = min(d.Granted, d.Results[i].Charged)
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
	switch {
	case r.Outcome == TooCostly:
		r.RetryAfter = Never
	case r.Outcome == Denied:
		r.RetryAfter = micros(n[5])
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
	l.run(context.WithoutCancel(ctx), []*call{returned})
	returned.forget(l.denials)
	for g := range returned.answers {
		if returned.answers[g].err != nil {
			l.counters.notReturned.Add(int64(len(returned.groups[g])))
		}
	}
}
