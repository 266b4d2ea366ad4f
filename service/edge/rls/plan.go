package rls

import (
	"fmt"
	"slices"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

const (
	// maxDescriptors is the maximum number of descriptors of a request.
	maxDescriptors = 64
	// maxHits is the maximum number of hits of a descriptor that are counted exactly; more count as this many.
	maxHits = 1 << 53
)

// Options are the settings that are for all rules.
type Options struct {
	// Shadow lets every request pass, and still counts and reports what the rules say.
	Shadow bool
	// Quota treats every rule as one with quota_mode.
	Quota bool
	// ChargeAll counts a request on each of its descriptors by itself, also where another one denies the request, and also
	// what is over the limit. Without it, a request that is denied is counted nowhere.
	ChargeAll bool
	// NearRatio is the share of a limit above which hits count as near it; 0 means DefaultNearRatio.
	NearRatio float64
	// Headers adds headers to the answer. HeaderNames are their names.
	Headers     bool
	HeaderNames HeaderNames
	// DynamicMetadata adds the request, and the metadata of the rules that allow it, to the answer.
	DynamicMetadata bool
}

// DefaultNearRatio is the share of a limit above which hits count as near it.
const DefaultNearRatio = 0.8

// An InvalidError is a field of a request that cannot be decided about.
type InvalidError struct {
	// Field is the path of the field, and Description says what it must be.
	Field, Description string
}

// Error returns the field and what it must be.
func (e *InvalidError) Error() string { return e.Field + ": " + e.Description }

// A Charge is what a request adds to one counter.
type Charge struct {
	// Rule is the limit.
	Rule *Rule
	// Subject names the counter, with the period of the rule.
	Subject string
	// Hits are what is added, or taken away if Refund is set. 0 only looks.
	Hits   uint64
	Refund bool
	// Enforced charges deny the request if they do not fit. The others are counted if they fit, and never deny.
	Enforced bool
}

// A fate is what becomes of one descriptor of a request.
type fate int

// The fates. A descriptor whose rule is replaced passes like one without a rule.
const (
	noRule fate = iota
	unlimited
	counted
)

// A Plan is what must be counted for a request.
type Plan struct {
	// Charges are the counters, none of them twice.
	Charges []Charge
	// UnknownDomain is set if no rule is of the request's domain.
	UnknownDomain bool

	request *envoy.RateLimitRequest
	options *Options
	lines   []line
}

// A line is one descriptor of a request.
type line struct {
	fate   fate
	rule   *Rule  // nil for noRule
	charge int    // index in Charges, for counted
	hits   uint64 // of this descriptor, which may share a charge with another
	quota  bool
}

// Plan finds out what must be counted for a request. Its errors are of type [*InvalidError].
func (c *Config) Plan(request *envoy.RateLimitRequest, o *Options) (*Plan, error) {
	descriptors := request.GetDescriptors()
	switch {
	case request.GetDomain() == "":
		return nil, &InvalidError{"domain", "must not be empty"}
	case len(descriptors) == 0 || len(descriptors) > maxDescriptors:
		return nil, &InvalidError{"descriptors", fmt.Sprintf("must have 1 to %d items", maxDescriptors)}
	}
	for i, d := range descriptors {
		if limit := d.GetLimit(); limit != nil && lengths[Unit(limit.GetUnit())] == 0 {
			return nil, &InvalidError{fmt.Sprintf("descriptors[%d].limit.unit", i), "must be a defined unit"}
		}
	}
	p := &Plan{request: request, options: o, lines: make([]line, len(descriptors))}
	rules := c.domains[request.GetDomain()]
	if rules == nil {
		p.UnknownDomain = true
		return p, nil
	}
	shared := make([][]string, len(descriptors))
	for i, d := range descriptors {
		if limit := d.GetLimit(); limit != nil {
			p.lines[i].rule = override(request.GetDomain(), limit.GetRequestsPerUnit(), Unit(limit.GetUnit()))
			p.lines[i].rule.counts = rules.overrides
		} else {
			p.lines[i].rule, shared[i] = rules.find(d.GetEntries())
		}
	}
	p.replace()
	for i := range p.lines {
		p.add(i, shared[i])
	}
	return p, nil
}

// replace removes the rules that others of this request replace, also if those are unlimited.
func (p *Plan) replace() {
	var replaced []string
	for _, l := range p.lines {
		if l.rule != nil {
			replaced = append(replaced, l.rule.Replaces...)
		}
	}
	if len(replaced) == 0 {
		return
	}
	for i, l := range p.lines {
		if l.rule != nil && slices.Contains(replaced, l.rule.Name) {
			p.lines[i].rule = nil
		}
	}
}

// add plans one descriptor.
func (p *Plan) add(i int, shared []string) {
	l, d := &p.lines[i], p.request.GetDescriptors()[i]
	if l.quota = p.options.Quota; l.rule == nil {
		return
	}
	l.hits = max(uint64(p.request.GetHitsAddend()), 1)
	if own := d.GetHitsAddend(); own != nil {
		l.hits = min(own.GetValue(), maxHits)
	}
	l.quota = l.quota || l.rule.Quota
	if l.rule.Unlimited {
		l.fate = unlimited
		return
	}
	l.fate = counted
	c := Charge{
		Rule: l.rule, Subject: subject(p.request.GetDomain(), d.GetEntries(), shared), Hits: l.hits, Refund: d.GetIsNegativeHits(),
		Enforced: !l.rule.Shadow && !l.quota && !p.options.Shadow,
	}
	l.charge = slices.IndexFunc(p.Charges, func(other Charge) bool {
		return other.Subject == c.Subject && other.Refund == c.Refund && other.Rule.same(c.Rule)
	})
	if l.charge >= 0 { // the same descriptor twice
		same := &p.Charges[l.charge]
		same.Hits = min(same.Hits+c.Hits, maxHits)
		same.Enforced = same.Enforced || c.Enforced
		return
	}
	l.charge = len(p.Charges)
	p.Charges = append(p.Charges, c)
}

// same reports whether two rules are the same limit: one rule, or two overrides with equal numbers.
func (r *Rule) same(other *Rule) bool {
	return r == other || r.Path == other.Path && r.RequestsPerUnit == other.RequestsPerUnit && r.Unit == other.Unit && r.Period == other.Period
}

// Capacity is the most that a rule allows at once.
func (r *Rule) Capacity() uint64 {
	if r.Burst > 0 {
		return uint64(r.Burst)
	}
	return uint64(r.RequestsPerUnit)
}
