package ratelimit_test

import (
	"math/big"

	"github.com/berthcare/larder/store/ratelimit"
)

// A model keeps limits in Go, in fractions that are exact, as the definitions of the algorithms say. Times are in microseconds.
type model struct {
	now    int64
	limits map[string]usage // by subject, name and algorithm
}

// A usage is what is used of one limit. It changes by what replaces it, so that a copy stays what it is.
type usage interface {
	// seen returns the usage as of a time under a rule.
	seen(r ratelimit.Rule, now int64) usage
	// used is rounded up.
	used() int64
	add(n int64) usage
	// after is the time until at most target is used, found by bisection.
	after(target int64) int64
	// mark is when something was charged; give gives back what is left of it.
	mark() mark
	give(n int64, m mark) usage
	// moved reports whether it was found in a window that ends later than that of a rule, in which it is seen then.
	moved(r ratelimit.Rule, seen usage) bool
}

type mark struct {
	level *big.Rat
	at    int64
}

func full(r ratelimit.Rule) int64 {
	if r.Algorithm == ratelimit.GCRA && r.Burst > 0 {
		return r.Burst
	}
	return r.Capacity
}

func key(c ratelimit.Charge) string { return c.Subject + "/" + c.Name + "/" + string(c.Rule.Algorithm) }

// of returns the usage of a charge's limit now.
func (m *model) of(c ratelimit.Charge) usage {
	if u := m.limits[key(c)]; u != nil {
		return u.seen(c.Rule, m.now)
	}
	switch c.Rule.Algorithm {
	case ratelimit.FixedWindow:
		return (&fixed{}).seen(c.Rule, m.now)
	case ratelimit.SlidingWindow:
		return (&sliding{}).seen(c.Rule, m.now)
	default:
		return (&bucket{level: new(big.Rat)}).seen(c.Rule, m.now)
	}
}

// A said is what the model says of one charge.
type said struct {
	outcome                 ratelimit.Outcome
	charged, used           int64
	available, reset, retry int64
	usage                   usage
}

// consume decides a call as Limiter.Consume does; charges are of different limits.
func (m *model) consume(mode ratelimit.Mode, charges []ratelimit.Charge) (results []said, allowed bool, granted int64) {
	allowed, granted = true, charges[0].Cost
	before := make([]usage, len(charges))
	results = make([]said, len(charges))
	for i, c := range charges {
		before[i] = m.of(c)
		if room := full(c.Rule) - before[i].used(); mode == ratelimit.Partial && !c.Rule.Shadow {
			granted = min(granted, room)
		}
	}
	if mode == ratelimit.Partial {
		granted = max(granted, min(charges[0].Cost, 1))
	}
	costs := make([]int64, len(charges))
	for i, c := range charges {
		costs[i] = c.Cost
		if mode == ratelimit.Partial {
			costs[i] = min(costs[i], granted)
		}
		r := &results[i]
		switch r.outcome = ratelimit.Allowed; {
		case costs[i] > full(c.Rule):
			r.outcome = ratelimit.TooCostly
		case costs[i] >= 0 && before[i].used()+costs[i] > full(c.Rule):
			r.outcome = ratelimit.Denied
		}
		allowed = allowed && (r.outcome == ratelimit.Allowed || c.Rule.Shadow)
	}
	for i, c := range charges {
		r := &results[i]
		room := max(full(c.Rule)-before[i].used(), 0)
		switch {
		case c.Peek || c.Cost == 0:
		case c.Cost < 0:
			r.charged = c.Cost
		case r.outcome == ratelimit.Allowed && (allowed || mode == ratelimit.Each):
			r.charged = costs[i]
		case mode == ratelimit.Each && c.Rule.Algorithm == ratelimit.GCRA:
			r.charged = min(c.Cost, room)
		case mode == ratelimit.Each:
			r.charged = c.Cost
		case !allowed && c.Rule.Penalize && r.outcome != ratelimit.TooCostly:
			r.charged = min(c.Cost, room)
		}
		after := before[i]
		if old := m.limits[key(c)]; old != nil && c.Cost > 0 && !c.Peek && old.moved(c.Rule, after) {
			m.limits[key(c)] = after
		}
		if r.charged != 0 && (r.charged > 0 || after.used() > 0) {
			after = after.add(r.charged)
			m.limits[key(c)] = after
		}
		r.charged = max(r.charged, 0)
		r.usage = after
		retryCost := c.Cost
		if mode == ratelimit.Partial {
			retryCost = min(retryCost, 1)
		}
		r.tell(c.Rule, retryCost)
	}
	if !allowed && mode != ratelimit.Each {
		granted = 0
	}
	return results, allowed, granted
}

// tell fills in what is told of a limit after the call.
func (r *said) tell(rule ratelimit.Rule, cost int64) {
	r.used, r.reset = r.usage.used(), r.usage.after(0)
	if r.used > 0 {
		r.available = r.usage.after(max(min(r.used, full(rule))-1, 0))
	}
	if r.outcome == ratelimit.Denied {
		r.retry = r.usage.after(full(rule) - cost)
	}
}

// A bucket is a bucket that drains evenly, by its rule's capacity in each period.
type bucket struct {
	level *big.Rat
	at    int64
	rule  ratelimit.Rule
}

func (b *bucket) period() int64 { return b.rule.Period.Microseconds() }

func (b *bucket) seen(r ratelimit.Rule, now int64) usage {
	n := &bucket{new(big.Rat).Set(b.level), now, r}
	if b.rule.Period == 0 || b.level.Sign() == 0 {
		n.level = new(big.Rat)
		return n
	}
	if b.rule.Period != r.Period {
		// Fractions are kept in units of the period: rounded up to those of the new one.
		whole := new(big.Int).Quo(b.level.Num(), b.level.Denom())
		part := new(big.Rat).Sub(b.level, new(big.Rat).SetInt(whole))
		scaled := part.Mul(part, new(big.Rat).SetInt64(n.period()))
		n.level = new(big.Rat).Add(new(big.Rat).SetInt(whole), big.NewRat(ceil(scaled), n.period()))
	}
	if old, rim := full(b.rule), full(r); old > rim {
		rimRat, oldRat := new(big.Rat).SetInt64(rim), new(big.Rat).SetInt64(old)
		if n.level.Cmp(oldRat) >= 0 { // a debt stays
			n.level.Add(n.level.Sub(n.level, oldRat), rimRat)
		} else if n.level.Cmp(rimRat) > 0 {
			n.level = rimRat
		}
	}
	if now > b.at {
		n.level.Sub(n.level, drained(r, now-b.at))
	}
	if n.level.Sign() < 0 {
		n.level = new(big.Rat)
	}
	return n
}

func drained(r ratelimit.Rule, elapsed int64) *big.Rat {
	d := new(big.Rat).SetInt64(elapsed)
	d.Mul(d, new(big.Rat).SetInt64(r.Capacity))
	return d.Quo(d, new(big.Rat).SetInt64(r.Period.Microseconds()))
}

// ceil rounds up.
func ceil(r *big.Rat) int64 {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64()
}

func (b *bucket) moved(ratelimit.Rule, usage) bool { return false }

func (b *bucket) used() int64 { return ceil(b.level) }

func (b *bucket) add(n int64) usage {
	level := new(big.Rat).Add(b.level, new(big.Rat).SetInt64(n))
	if level.Sign() < 0 {
		level = new(big.Rat)
	}
	return &bucket{level, b.at, b.rule}
}

func (b *bucket) after(target int64) int64 {
	over := new(big.Rat).Sub(b.level, new(big.Rat).SetInt64(target))
	if over.Sign() <= 0 {
		return 0
	}
	over.Mul(over, new(big.Rat).SetInt64(b.period()))
	return min(ceil(over.Quo(over, new(big.Rat).SetInt64(b.rule.Capacity))), maxTime)
}

// maxTime is the maximum time that is told, ten years.
const maxTime = 315360000000000

func (b *bucket) mark() mark {
	return mark{b.level, b.at}
}

// give gives back what of the level at the mark has not drained yet, at most n: what was used before drains first.
func (b *bucket) give(n int64, m mark) usage {
	back := new(big.Rat).Sub(m.level, drained(b.rule, max(b.at-m.at, 0)))
	if all := new(big.Rat).SetInt64(n); back.Cmp(all) > 0 {
		back = all
	}
	if back.Sign() <= 0 {
		return b
	}
	level := new(big.Rat).Sub(b.level, back)
	if level.Sign() < 0 {
		level = new(big.Rat)
	}
	return &bucket{level, b.at, b.rule}
}

// A fixed window counts from start to stop.
type fixed struct{ count, start, stop, now int64 }

func (f *fixed) seen(r ratelimit.Rule, now int64) usage {
	period := r.Period.Microseconds()
	n := &fixed{start: now, stop: now + period, now: now}
	if r.Alignment == ratelimit.Epoch {
		n.start = now / period * period
		n.stop = n.start + period
	}
	if running := f.count > 0 && f.stop > now && f.start <= n.stop; running {
		n.count = f.count
		if r.Alignment == ratelimit.FirstUse && f.start+period > now {
			n.start, n.stop = f.start, f.start+period
		}
	}
	return n
}

func (f *fixed) moved(_ ratelimit.Rule, seen usage) bool {
	n, ok := seen.(*fixed)
	return ok && n.count > 0 && f.start <= n.start && f.stop > n.stop
}

func (f *fixed) used() int64 { return f.count }

func (f *fixed) add(n int64) usage { return &fixed{max(f.count+n, 0), f.start, f.stop, f.now} }

func (f *fixed) after(target int64) int64 {
	if f.count <= target {
		return 0
	}
	return f.stop - f.now
}

func (f *fixed) mark() mark { return mark{at: f.start} }

func (f *fixed) give(n int64, m mark) usage {
	if m.at != f.start {
		return f
	}
	return f.add(-n)
}

// A sliding window counts in windows of a period, and the previous one for the share of it within the last period.
type sliding struct{ count, previous, start, period, now int64 }

func (s *sliding) seen(r ratelimit.Rule, now int64) usage {
	period := r.Period.Microseconds()
	n := &sliding{start: now / period * period, period: period, now: now}
	switch {
	case s.period == 0, s.count == 0 && s.previous == 0:
	case s.period != period:
		old := s.shifted(now)
		n.count = old.used()
	case s.start == n.start+period: // a clock was set back
		return &sliding{s.count, s.previous, s.start, period, s.start}
	default:
		if old := s.shifted(now); old.start == n.start {
			n.count, n.previous = old.count, old.previous
		}
	}
	return n
}

func (s *sliding) moved(r ratelimit.Rule, seen usage) bool {
	return seen.used() > 0 && s.period > r.Period.Microseconds()
}

// shifted returns the window after as many windows as have passed.
func (s *sliding) shifted(now int64) *sliding {
	switch n := *s; {
	case now < s.start:
		n.now = s.start
		return &n
	case now < s.start+s.period:
		n.now = now
		return &n
	case now < s.start+2*s.period:
		return &sliding{0, s.count, s.start + s.period, s.period, now}
	default:
		return &sliding{0, 0, now, s.period, now}
	}
}

func (s *sliding) used() int64 {
	share := new(big.Rat).SetFrac64(s.start+s.period-s.now, s.period)
	return s.count + ceil(share.Mul(share, new(big.Rat).SetInt64(s.previous)))
}

func (s *sliding) add(n int64) usage {
	a := *s
	if a.count += n; a.count < 0 {
		a.previous, a.count = max(a.previous+a.count, 0), 0
	}
	return &a
}

// after finds the first moment at which no more than target is used, which is within two windows.
func (s *sliding) after(target int64) int64 {
	low, high := int64(0), 2*s.period
	for low < high {
		if middle := (low + high) / 2; s.shifted(s.now+middle).used() <= target {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

func (s *sliding) mark() mark { return mark{at: s.start} }

func (s *sliding) give(n int64, m mark) usage {
	a := *s
	switch m.at {
	case s.start:
		a.count = max(a.count-n, 0)
	case s.start - s.period:
		a.previous = max(a.previous-n, 0)
	}
	return &a
}
