package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berthcare/larder/store/ratelimit"
)

// RateLimits are the rules of rate limits of one namespace, by name. A namespace has the rules of [Section].Defaults as well; the
// fields that its own rule of the same name leaves out are taken from there.
type RateLimits map[string]RateLimit

// RateLimit is one rule; a nil or empty field is inherited or has the default that is given with it. [CheckRateLimit] says what
// the fields may be.
type RateLimit struct {
	// Algorithm says how usage is counted; empty means gcra.
	Algorithm ratelimit.Algorithm `yaml:"algorithm"`
	// Capacity is how much may be used in Period. It must be set.
	Capacity *int64 `yaml:"capacity"`
	// Period is the time in which Capacity may be used. It must be set.
	Period *time.Duration `yaml:"period"`
	// Burst is how much may be used at once after a pause, for gcra only; nil means Capacity.
	Burst *int64 `yaml:"burst"`
	// Alignment says when windows begin, for fixed_window only; empty means first_use.
	Alignment ratelimit.Alignment `yaml:"alignment"`
	// Penalize charges the limit also for calls that are denied; nil means no.
	Penalize *bool `yaml:"penalize"`
	// Shadow lets calls pass that the limit denies; nil means no.
	Shadow *bool `yaml:"shadow"`
	// OnFailure says what is decided when Redis does not decide in time; empty means fail_open.
	OnFailure ratelimit.FailurePolicy `yaml:"on_failure"`
	// RedisTimeout is how long Redis may take to decide; nil means 50 ms, the maximum.
	RedisTimeout *time.Duration `yaml:"redis_timeout"`
}

func (p RateLimit) over(d RateLimit) RateLimit {
	return RateLimit{
		Algorithm: cmp.Or(p.Algorithm, d.Algorithm), Capacity: cmp.Or(p.Capacity, d.Capacity), Period: cmp.Or(p.Period, d.Period),
		Burst: cmp.Or(p.Burst, d.Burst), Alignment: cmp.Or(p.Alignment, d.Alignment), Penalize: cmp.Or(p.Penalize, d.Penalize),
		Shadow: cmp.Or(p.Shadow, d.Shadow), OnFailure: cmp.Or(p.OnFailure, d.OnFailure),
		RedisTimeout: cmp.Or(p.RedisTimeout, d.RedisTimeout),
	}
}

// rule returns the rule as the store takes it.
func (p RateLimit) rule() ratelimit.Rule {
	return ratelimit.Rule{
		Algorithm: cmp.Or(p.Algorithm, ratelimit.GCRA), Capacity: valueOr(p.Capacity, 0), Period: valueOr(p.Period, 0), Burst: valueOr(p.Burst, 0),
		Alignment: p.Alignment, Penalize: valueOr(p.Penalize, false), Shadow: valueOr(p.Shadow, false),
		OnFailure: cmp.Or(p.OnFailure, ratelimit.FailOpen), RedisTimeout: valueOr(p.RedisTimeout, 0),
	}
}

// written returns the names of the fields that are set.
func (p RateLimit) written() map[string]bool {
	return map[string]bool{
		"algorithm": p.Algorithm != "", "capacity": p.Capacity != nil, "period": p.Period != nil, "burst": p.Burst != nil,
		"alignment": p.Alignment != "", "on_failure": p.OnFailure != "", "redis_timeout": p.RedisTimeout != nil,
	}
}

// rateLimitRules returns the rules of a namespace.
func rateLimitRules(p, d RateLimits) map[string]ratelimit.Rule {
	rules := make(map[string]ratelimit.Rule, len(p)+len(d))
	for name, written := range d {
		rules[name] = written.rule()
	}
	for name, written := range p {
		rules[name] = written.over(d[name]).rule()
	}
	return rules
}

// rateLimits checks the rules that are written for one namespace, over those of the defaults.
func (c *checker) rateLimits(p, d RateLimits) {
	section := c.prefix
	defer func() { c.prefix = section }()
	for _, name := range slices.Sorted(maps.Keys(p)) {
		c.prefix = section
		if !ValidNamespace(name) {
			c.add(name, "%s", NamespaceForm)
		}
		rule := p[name].over(d[name])
		written := p[name].written()
		for field, missing := range map[string]bool{"capacity": rule.Capacity == nil, "period": rule.Period == nil} {
			if missing {
				c.add(name, "must have %s", field)
			}
		}
		CheckRateLimit(rule.rule(), func(field, description string) {
			if written[field] {
				c.add(name+"."+field, "%s", description)
			} else {
				c.add(name, "has %s, which %s", field, description)
			}
		})
	}
}

// maxRefill is the maximum time in which a burst comes back.
const maxRefill = 10 * 365 * 24 * time.Hour

// CheckRateLimit checks a rule and calls fault for each field that is wrong, with what it must be.
func CheckRateLimit(r ratelimit.Rule, fault func(field, description string)) {
	within := func(field string, ok bool, least, most any) {
		if !ok {
			fault(field, fmt.Sprintf("must be at least %s and at most %s", shown(least), shown(most)))
		}
	}
	if !slices.Contains([]ratelimit.Algorithm{"", ratelimit.GCRA, ratelimit.SlidingWindow, ratelimit.FixedWindow}, r.Algorithm) {
		fault("algorithm", "must be gcra, sliding_window or fixed_window")
	}
	within("capacity", r.Capacity >= 0 && r.Capacity <= ratelimit.MaxCapacity, 0, int64(ratelimit.MaxCapacity))
	period := r.Period >= ratelimit.MinPeriod && r.Period <= ratelimit.MaxPeriod
	within("period", period, ratelimit.MinPeriod, ratelimit.MaxPeriod)
	switch {
	case r.Burst < 0 || r.Burst > ratelimit.MaxCapacity:
		within("burst", false, 1, int64(ratelimit.MaxCapacity))
	case r.Burst > 0 && r.Algorithm != "" && r.Algorithm != ratelimit.GCRA:
		fault("burst", "must be unset unless algorithm is gcra")
	case r.Burst > 0 && r.Capacity == 0:
		fault("burst", "must be unset if capacity is 0")
	case r.Burst > 0 && period && r.Capacity > 0 && float64(r.Burst)/float64(r.Capacity)*float64(r.Period) > float64(maxRefill):
		fault("burst", "must come back within "+Span(maxRefill))
	}
	switch {
	case !slices.Contains([]ratelimit.Alignment{"", ratelimit.FirstUse, ratelimit.Epoch, ratelimit.Calendar}, r.Alignment):
		fault("alignment", "must be first_use, epoch or calendar")
	case r.Alignment != "" && r.Algorithm != ratelimit.FixedWindow:
		fault("alignment", "must be unset unless algorithm is fixed_window")
	case r.Alignment == ratelimit.Calendar && period && !slices.Contains(ratelimit.Calendars, r.Period):
		fault("period", "must be 1s, 1m, 1h, 24h, 168h (a week), 720h (a month) or 8760h (a year) if alignment is calendar")
	}
	if !slices.Contains([]ratelimit.FailurePolicy{"", ratelimit.FailOpen, ratelimit.FailClosed, ratelimit.FailLocal}, r.OnFailure) {
		fault("on_failure", "must be fail_open, fail_closed or local")
	}
	within("redis_timeout", r.RedisTimeout == 0 || r.RedisTimeout >= time.Millisecond && r.RedisTimeout <= ratelimit.MaxRedisTimeout,
		time.Millisecond, ratelimit.MaxRedisTimeout)
}
