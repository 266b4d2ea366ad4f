package policy

import (
	"fmt"
	"sync/atomic"
)

// Policies keeps the policy in force. It is safe for concurrent use.
type Policies struct {
	limits  Limits
	current atomic.Pointer[Ruleset]
}

// New returns Policies under limits, of which zero ones mean their defaults. Until Set is called no policy narrows them.
func New(l Limits) *Policies {
	p := &Policies{limits: l.WithDefaults()}
	p.current.Store(p.ruleset(&Policy{}))
	return p
}

// Set puts a policy in force for requests that look up [Policies.Current] from now on. It returns a [*FieldError], and keeps
// the policy that was in force, if [Policy.Check] rejects the new one.
func (p *Policies) Set(policy *Policy) error {
	if err := policy.Check(p.limits); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	p.current.Store(p.ruleset(policy))
	return nil
}

// Current returns the rules in force. A request takes them once, so that it is under one policy from beginning to end;
// the lookup costs one atomic load and no allocation.
func (p *Policies) Current() *Ruleset { return p.current.Load() }

// Limits returns the limits, with defaults filled in. Callers must not change them.
func (p *Policies) Limits() *Limits { return &p.limits }

// Named reports whether the policy in force has an entry for a namespace. Only such namespaces may become labels of
// metrics, because callers can invent any number of others.
func (p *Policies) Named(namespace string) bool {
	_, ok := p.Current().namespaces[namespace]
	return ok
}

func (p *Policies) ruleset(policy *Policy) *Ruleset {
	entries, sessions, limits, tokens := &policy.Cache, &policy.Sessions, &policy.RateLimits, &policy.Tokens
	rules := func(ns string) *Rules {
		return &Rules{
			Cache:      p.limits.cacheRules(entries.Namespaces[ns].over(entries.Defaults)),
			Sessions:   p.limits.sessionRules(sessions.Namespaces[ns].over(sessions.Defaults)),
			RateLimits: rateLimitRules(limits.Namespaces[ns], limits.Defaults),
			Tokens:     tokenRules(tokens.Namespaces[ns].over(tokens.Defaults)),
		}
	}
	s := &Ruleset{defaults: rules(""), namespaces: make(map[string]*Rules)} // no namespace has the name ""
	for ns := range entries.Namespaces {
		s.namespaces[ns] = rules(ns)
	}
	for ns := range sessions.Namespaces {
		s.namespaces[ns] = rules(ns)
	}
	for ns := range limits.Namespaces {
		s.namespaces[ns] = rules(ns)
	}
	for ns := range tokens.Namespaces {
		s.namespaces[ns] = rules(ns)
	}
	return s
}

// Ruleset is the [Rules] of every namespace under one policy. It never changes.
type Ruleset struct {
	defaults   *Rules
	namespaces map[string]*Rules
}

// Defaults returns the rules of namespaces without an entry in the policy.
func (s *Ruleset) Defaults() *Rules { return s.defaults }

// Of returns the rules of a namespace, whether the policy has an entry for it or not. Callers must not change them.
func (s *Ruleset) Of(namespace string) *Rules {
	if r := s.namespaces[namespace]; r != nil {
		return r
	}
	return s.defaults
}
