package rls

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// An Outcome is what is counted of the hits on a rule. A hit may have several.
type Outcome int

// The outcomes. The first six are those of envoyproxy/ratelimit.
const (
	// Total are all hits.
	Total Outcome = iota
	// Within are those that fit.
	Within
	// Near are those above the near ratio of the limit and not above the limit.
	Near
	// Over are those above the limit.
	Over
	// OverLocal are those above the limit that were denied from memory.
	OverLocal
	// Shadowed are those that passed only because the rule is in shadow_mode.
	Shadowed
	// NotCharged are those that fit and are not counted, because another rule denies the request.
	NotCharged
	// Refunded are those that were taken back by is_negative_hits.
	Refunded
	// FailedOpen and FailedClosed are those that the failure policy allowed or denied, because Redis did not answer.
	FailedOpen
	FailedClosed
	outcomes
)

// String returns the outcome as metrics name it.
func (o Outcome) String() string {
	return [...]string{
		"total", "within_limit", "near_limit", "over_limit", "over_limit_with_local_cache", "shadow_mode", "not_charged", "refunded",
		"failed_open", "failed_closed",
	}[o]
}

// Outcomes returns all outcomes.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomes)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

// counts are the hits on one rule.
type counts struct {
	domain, path string
	hits         [outcomes]atomic.Uint64
}

func (c *counts) add(o Outcome, hits uint64) {
	if hits > 0 {
		c.hits[o].Add(hits)
	}
}

// Stats counts hits by rule, across configurations. The zero value is ready.
type Stats struct {
	mu     sync.Mutex
	byPath map[string]*counts

	globalShadow, unknownDomains atomic.Uint64
}

// Adopt makes the rules of a configuration count here, and forgets those that it does not have. It must be called before
// the configuration is used.
func (s *Stats) Adopt(c *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := make(map[string]*counts)
	of := func(domain, path string) *counts {
		if now[path] == nil {
			now[path] = cmp.Or(s.byPath[path], &counts{domain: domain, path: path})
		}
		return now[path]
	}
	for _, r := range c.rules {
		r.counts = of(r.Domain, r.Path)
	}
	for domain, l := range c.domains {
		l.overrides = of(domain, domain+"."+OverridePath)
	}
	s.byPath = now
}

// UnknownDomain counts a request of a domain that has no rules.
func (s *Stats) UnknownDomain() { s.unknownDomains.Add(1) }

// UnknownDomains returns the number of requests of domains that have no rules.
func (s *Stats) UnknownDomains() uint64 { return s.unknownDomains.Load() }

// GlobalShadow returns the number of requests that passed only because of Options.Shadow.
func (s *Stats) GlobalShadow() uint64 { return s.globalShadow.Load() }

// Each calls do with the hits on each rule, by outcome, of outcomes that there were.
func (s *Stats) Each(do func(domain, path string, o Outcome, hits uint64)) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.byPath))
	s.mu.Unlock()
	for _, c := range all {
		for o := range c.hits {
			if hits := c.hits[o].Load(); hits > 0 {
				do(c.domain, c.path, Outcome(o), hits)
			}
		}
	}
}

// count counts the hits of one descriptor.
func (p *Plan) count(l line, r Result) {
	c := l.rule.counts
	if c == nil {
		return
	}
	c.add(Total, l.hits)
	switch {
	case p.Charges[l.charge].Refund:
		c.add(Refunded, l.hits)
	case r.Degraded && r.Over && !l.rule.Shadow:
		c.add(FailedClosed, l.hits)
	case r.Degraded:
		c.add(FailedOpen, l.hits)
	case !r.Over && !r.Charged:
		c.add(NotCharged, l.hits)
	default:
		p.countLimit(c, l, r)
	}
}

// countLimit counts hits as other implementations do: those of one request that reach across the limit are in part near it
// and in part over it.
func (p *Plan) countLimit(c *counts, l line, r Result) {
	limit := l.rule.Capacity()
	near := uint64(float64(limit) * cmp.Or(p.options.NearRatio, DefaultNearRatio))
	before := min(r.Used, limit)
	if !r.Over {
		c.add(Within, l.hits)
		if after := before + l.hits; after > near {
			c.add(Near, after-max(near, before))
		}
		return
	}
	if before == limit || r.Local {
		c.add(Over, l.hits)
	} else {
		c.add(Over, before+l.hits-limit)
		c.add(Near, limit-max(near, before))
	}
	if r.Local {
		c.add(OverLocal, l.hits)
	}
	if l.rule.Shadow {
		c.add(Shadowed, l.hits)
	}
}
