package ratelimit

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// A call is one use of the script, or several in a cluster.
type call struct {
	namespace string
	charges   []Charge
	options   ConsumeOptions
	keys      []string // of the usage, one for each charge
	// record, about and keep are the key of the record of the request, what it says of it, and how long it lives.
	record, about string
	keep          time.Duration
	// named means that the caller has named the request, so that only Redis knows whether it is a repetition.
	named  bool
	groups [][]int // the charges of each slot

	sent    time.Time
	ticket  uint64 // of the denials
	answers []answer

	// Room for what most calls need, so that they allocate it with the call.
	room struct {
		keys   [2]string
		answer [1]answer
		group  [1][]int
	}
}

// inOrder are the charges of a call that are all in one group.
var inOrder = redis.Items(64)

// An answer is that of the script to one group.
type answer struct {
	numbers []int64
	err     error
}

// newCall prepares a call.
func (l *Limiter) newCall(namespace string, charges []Charge, o ConsumeOptions) (*call, error) {
	c := &call{namespace: namespace, charges: charges, options: o, named: o.RequestID != ""}
	if c.keys = c.room.keys[:]; len(charges) > len(c.keys) {
		c.keys = make([]string, len(charges))
	}
	c.keys = c.keys[:len(charges)]
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
		c.groups = c.room.group[:]
		if c.groups[0] = inOrder[:min(len(charges), len(inOrder))]; len(charges) > len(inOrder) {
			c.groups[0] = redis.Items(len(charges))
		}
	}
	if o.RequestID != "" {
		if subjects > 1 {
			return nil, redis.Fail(redis.ErrInternal, errSubjects)
		}
		c.about = c.digest(o.RequestID)
		c.record, c.keep = recordKey(namespace, charges[0].Subject, "c"+c.about), requestMemory
	}
	if c.answers = c.room.answer[:]; len(c.groups) > 1 {
		c.answers = make([]answer, len(c.groups))
	}
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
			strconv.FormatInt(ch.Rule.Period.Microseconds(), 10), l.align(&ch.Rule),
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

// run asks Redis about calls, in one round trip, or in a cluster in parallel ones for each subject.
func (l *Limiter) run(parent context.Context, calls ...*call) {
	ctx, cancel := l.within(parent, calls)
	defer cancel()
	now := time.Now()
	if c := calls[0]; len(calls) == 1 && len(c.groups) == 1 {
		c.sent, c.ticket = now, l.denials.ticket()
		keys, args := l.script(c, c.groups[0])
		reply, err := l.redis.Run(ctx, l.scripts.consume, c.effect(), keys, args...)
		c.answers[0] = answered(reply, err)
		return
	}
	for _, c := range calls {
		c.sent, c.ticket = now, l.denials.ticket()
	}
	if l.redis.Mode() != redis.Cluster {
		l.runParts(ctx, partsOf(calls))
		return
	}
	// A shard that hangs must not keep the answers of the others: each slot has a round trip of its own. Those of one subject keep
	// their order.
	bySubject := make(map[string][]part)
	for _, p := range partsOf(calls) {
		subject := p.call.charges[p.call.groups[p.group][0]].Subject
		bySubject[subject] = append(bySubject[subject], p)
	}
	var running sync.WaitGroup
	places := make(chan struct{}, maxParallel)
	for _, parts := range bySubject {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			l.runParts(ctx, parts)
		})
	}
	running.Wait()
}

// maxParallel is the maximum number of round trips that a call makes at the same time.
const maxParallel = 64

// A part is one run of the script.
type part struct {
	call  *call
	group int
}

func partsOf(calls []*call) (parts []part) {
	for _, c := range calls {
		for g := range c.groups {
			parts = append(parts, part{c, g})
		}
	}
	return parts
}

// runParts runs the script for several groups in one round trip.
func (l *Limiter) runParts(ctx context.Context, parts []part) {
	eff := redis.Writes
	for _, p := range parts {
		eff = max(eff, p.call.effect())
	}
	err := l.redis.RunScripts(ctx, redis.Items(len(parts)), redis.ScriptBatch{
		Script: l.scripts.consume, Effect: eff,
		Call: func(i int) (keys, args []string) {
			return l.script(parts[i].call, parts[i].call.groups[parts[i].group])
		},
		Read: func(i int, r rueidis.RedisResult) error {
			reply, err := r.ToMessage()
			if err != nil {
				return err
			}
			a := answered(reply, nil)
			*parts[i].answer() = a
			return a.err
		},
		Fail: func(i int, err error) { *parts[i].answer() = answer{err: err} },
	})
	for _, p := range parts {
		if a := p.answer(); a.numbers == nil && a.err == nil {
			if a.err = err; err == nil {
				a.err = redis.ErrInternal
			}
		}
	}
}

func (p *part) answer() *answer { return &p.call.answers[p.group] }

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
