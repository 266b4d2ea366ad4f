package service

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthcare/larder/store/session"
)

// Policy says what holds in which namespace. It refines the Limits and never widens them. The zero value changes nothing.
type Policy struct {
	// Cache is for CacheService.
	Cache PolicySection[CachePolicy]
	// Sessions is for SessionService.
	Sessions PolicySection[SessionPolicy]
}

// PolicySection is the policy of one service.
type PolicySection[P any] struct {
	// Defaults hold in every namespace, as far as its own policy does not say otherwise.
	Defaults P
	// Namespaces are the policies of single namespaces.
	Namespaces map[string]P
}

// CachePolicy is what holds for entries and counters. What is nil is as in the defaults, and what is nil there as in the
// Limits. What is inherited and does not fit what a namespace says itself is cut to fit.
type CachePolicy struct {
	// DefaultTTL is the ttl where a request names none: at least 1 ms, at most MaxTTL.
	DefaultTTL *time.Duration `yaml:"default_ttl"`
	// MaxTTL bounds ttl and stale_ttl together: at least 1 ms, at most that of the Limits.
	MaxTTL *time.Duration `yaml:"max_ttl"`
	// Jitter is the largest part of its ttl by which an entry is made to end early, 0 to 100 %; nil means 0. Each write
	// draws its own, so that what was written together is not loaded again together. It takes away and never adds, for a
	// ttl says how old data may get; stale_ttl is kept. An expire_time, never and counters mean what they say.
	Jitter *Percent `yaml:"jitter"`
	// MaxValueBytes bounds a value: at least 1, at most that of the Limits.
	MaxValueBytes *int `yaml:"max_value_bytes"`
	// NearCache says whether reads may be answered from memory; nil means yes. If not, every read is one at PRIMARY.
	NearCache *bool `yaml:"near_cache"`
	// DefaultStaleTTL is the stale_ttl where a request names none, as far as MaxTTL leaves room for it; nil means 0.
	DefaultStaleTTL *time.Duration `yaml:"default_stale_ttl"`
	// AllowStale says whether stale values are served where a request does not say; nil means yes.
	AllowStale *bool `yaml:"allow_stale"`
	// Encrypt says whether values are encrypted in Redis, which needs a keyring; nil means no. Counters are not.
	Encrypt *bool `yaml:"encrypt"`
}

// SessionPolicy is what holds for sessions, with nil as in a CachePolicy.
type SessionPolicy struct {
	// Preset bounds the timeouts below by a standard; empty means none.
	Preset SessionPreset `yaml:"preset"`
	// IdleTimeout is the default and the longest: at least 1 s, at most those of the Limits and of the preset, and
	// AbsoluteTimeout.
	IdleTimeout *time.Duration `yaml:"idle_timeout"`
	// AbsoluteTimeout is the default and the longest: at least 1 s, at most those of the Limits and of the preset.
	AbsoluteTimeout *time.Duration `yaml:"absolute_timeout"`
	// RotationGrace is how long a token is good after it was rotated: 0 to that of the Limits.
	RotationGrace *time.Duration `yaml:"rotation_grace"`
	// MaxSessionsPerSubject bounds the sessions that a subject has at once, 0 to that of the Limits; 0 means that one.
	MaxSessionsPerSubject *int `yaml:"max_sessions_per_subject"`
	// MaxSessionsPerClass bounds those with the same device class, 0 to that of the Limits; 0 means that one.
	MaxSessionsPerClass *int `yaml:"max_sessions_per_class"`
	// LimitPolicy says what becomes of one session too many.
	LimitPolicy session.LimitPolicy `yaml:"limit_policy"`
	// TouchInterval is how often activity is recorded at most: at least 1 s, at most IdleTimeout.
	TouchInterval *time.Duration `yaml:"touch_interval"`
}

// SessionPreset names a standard's bounds on timeouts.
type SessionPreset string

// The presets are the assurance levels of NIST SP 800-63B-4, sections 2.1.3, 2.2.3 and 2.3.3.
const (
	// AAL1 is 30 days at most, whatever the activity.
	AAL1 SessionPreset = "aal1"
	// AAL2 is 24 h at most, and 1 h without activity.
	AAL2 SessionPreset = "aal2"
	// AAL3 is 12 h at most, and 15 min without activity.
	AAL3 SessionPreset = "aal3"
)

// presets are the bounds; zero means none.
var presets = map[SessionPreset]struct{ absolute, idle time.Duration }{
	"":   {},
	AAL1: {30 * 24 * time.Hour, 0},
	AAL2: {24 * time.Hour, time.Hour},
	AAL3: {12 * time.Hour, 15 * time.Minute},
}

var limitPolicies = []session.LimitPolicy{"", session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject}

// Percent is a part in hundred.
type Percent float64

var errPercent = errors.New("must be a percentage, such as 10%")

// UnmarshalText reads a percentage with its sign, such as 10% or 2.5%.
func (p *Percent) UnmarshalText(text []byte) error {
	number, signed := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !signed {
		return errPercent
	}
	*p = Percent(n)
	return nil
}

// of returns what a pointer points to, or what holds where it is nil.
func of[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func (p CachePolicy) over(d CachePolicy) CachePolicy {
	return CachePolicy{
		DefaultTTL: cmp.Or(p.DefaultTTL, d.DefaultTTL), MaxTTL: cmp.Or(p.MaxTTL, d.MaxTTL), Jitter: cmp.Or(p.Jitter, d.Jitter),
		MaxValueBytes: cmp.Or(p.MaxValueBytes, d.MaxValueBytes), NearCache: cmp.Or(p.NearCache, d.NearCache),
		DefaultStaleTTL: cmp.Or(p.DefaultStaleTTL, d.DefaultStaleTTL), AllowStale: cmp.Or(p.AllowStale, d.AllowStale),
		Encrypt: cmp.Or(p.Encrypt, d.Encrypt),
	}
}

func (p SessionPolicy) over(d SessionPolicy) SessionPolicy {
	return SessionPolicy{
		Preset: cmp.Or(p.Preset, d.Preset), IdleTimeout: cmp.Or(p.IdleTimeout, d.IdleTimeout),
		AbsoluteTimeout: cmp.Or(p.AbsoluteTimeout, d.AbsoluteTimeout), RotationGrace: cmp.Or(p.RotationGrace, d.RotationGrace),
		MaxSessionsPerSubject: cmp.Or(p.MaxSessionsPerSubject, d.MaxSessionsPerSubject),
		MaxSessionsPerClass:   cmp.Or(p.MaxSessionsPerClass, d.MaxSessionsPerClass),
		LimitPolicy:           cmp.Or(p.LimitPolicy, d.LimitPolicy), TouchInterval: cmp.Or(p.TouchInterval, d.TouchInterval),
	}
}

// rules are what holds in one namespace.
type rules struct {
	cache   cacheRules
	session sessionRules
}

type cacheRules struct {
	defaultTTL, maxTTL, staleTTL time.Duration
	jitter                       float64 // 0 to 1
	maxValueBytes                int
	near, allowStale, encrypt    bool
}

type sessionRules struct {
	idle, absolute time.Duration
	grace          time.Duration
	touch          time.Duration // 0 means what the idle timeout makes of it
	limits         session.Limits
}

func (l *Limits) cacheRules(p CachePolicy) cacheRules {
	most := min(of(p.MaxTTL, l.MaxTTL), l.MaxTTL)
	return cacheRules{
		maxTTL: most, defaultTTL: min(of(p.DefaultTTL, l.DefaultTTL), most), staleTTL: min(of(p.DefaultStaleTTL, 0), most),
		jitter: float64(of(p.Jitter, 0)) / 100, maxValueBytes: min(of(p.MaxValueBytes, l.MaxValueBytes), l.MaxValueBytes),
		near: of(p.NearCache, true), allowStale: of(p.AllowStale, true), encrypt: of(p.Encrypt, false),
	}
}

func (l *Limits) sessionRules(p SessionPolicy) sessionRules {
	most := l.sessionBounds(p.Preset)
	absolute := min(of(p.AbsoluteTimeout, most.absolute), most.absolute)
	return sessionRules{
		absolute: absolute, idle: min(of(p.IdleTimeout, most.idle), most.idle, absolute),
		grace: max(min(of(p.RotationGrace, l.SessionRotationGrace), l.SessionRotationGrace), 0), touch: of(p.TouchInterval, 0),
		limits: session.Limits{
			PerSubject: tighter(of(p.MaxSessionsPerSubject, 0), l.SessionsPerSubject),
			PerClass:   tighter(of(p.MaxSessionsPerClass, 0), l.SessionsPerClass),
			Policy:     cmp.Or(p.LimitPolicy, l.SessionLimitPolicy),
		},
	}
}

// tighter returns the lesser of two numbers of sessions, of which zero means any number.
func tighter(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// sessionBounds are the longest timeouts under a preset.
func (l *Limits) sessionBounds(p SessionPreset) sessionRules {
	most := sessionRules{idle: l.SessionIdleTimeout, absolute: l.SessionAbsoluteTimeout}
	if b := presets[p]; b.absolute > 0 {
		most.absolute = min(most.absolute, b.absolute)
		if b.idle > 0 {
			most.idle = min(most.idle, b.idle)
		}
	}
	return most
}

// Check returns what is wrong with the policy under some limits, as a FieldError whose Field is a path such as
// cache.namespaces.prices.max_ttl; nil if nothing is.
func (p *Policy) Check(l Limits) error {
	l = l.withDefaults()
	f := &fields{limits: &l}
	check(f, "cache.", &p.Cache, func(written CachePolicy) { f.cachePolicy(written, l.cacheRules(written.over(p.Cache.Defaults))) })
	check(f, "sessions.", &p.Sessions, func(written SessionPolicy) {
		f.sessionPolicy(written, l.sessionRules(written.over(p.Sessions.Defaults)), l.sessionBounds(cmp.Or(written.Preset, p.Sessions.Defaults.Preset)))
	})
	if len(f.wrong) > 0 {
		return f.wrong[0]
	}
	return nil
}

// check runs one check on the defaults and on each namespace.
func check[P any](f *fields, section string, s *PolicySection[P], one func(P)) {
	f.prefix = section + "defaults."
	one(s.Defaults)
	for _, ns := range slices.Sorted(maps.Keys(s.Namespaces)) {
		if f.prefix = section + "namespaces."; !validNamespace(ns) {
			f.add(ns, "%s", namespaceRule)
		}
		f.prefix += ns + "."
		one(s.Namespaces[ns])
	}
}

// Policies hold the policy that is in force. They are safe for concurrent use.
type Policies struct {
	limits  Limits
	current atomic.Pointer[inForce]
}

// inForce is a policy made ready for look-ups, which nobody changes any more.
type inForce struct {
	defaults   rules
	namespaces map[string]*rules
}

// NewPolicies returns policies under limits, at first with none that changes anything.
func NewPolicies(l Limits) *Policies {
	p := &Policies{limits: l.withDefaults()}
	p.current.Store(p.ready(&Policy{}))
	return p
}

// Set puts a policy in force, for calls that begin from now on. Where Check finds fault with it, nothing changes.
func (p *Policies) Set(policy *Policy) error {
	if err := policy.Check(p.limits); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	p.current.Store(p.ready(policy))
	return nil
}

func (p *Policies) ready(policy *Policy) *inForce {
	cache, sessions := &policy.Cache, &policy.Sessions
	of := func(ns string) *rules {
		return &rules{
			cache:   p.limits.cacheRules(cache.Namespaces[ns].over(cache.Defaults)),
			session: p.limits.sessionRules(sessions.Namespaces[ns].over(sessions.Defaults)),
		}
	}
	f := &inForce{defaults: *of(""), namespaces: make(map[string]*rules)} // no namespace is named ""
	for ns := range cache.Namespaces {
		f.namespaces[ns] = of(ns)
	}
	for ns := range sessions.Namespaces {
		f.namespaces[ns] = of(ns)
	}
	return f
}

// Named reports whether the policy in force names a namespace. Only those may become labels of metrics, as anybody can
// invent others.
func (p *Policies) Named(namespace string) bool {
	_, ok := p.current.Load().namespaces[namespace]
	return ok
}

// fields returns what checks one request, under the policy that is in force as it begins.
func (p *Policies) fields(now func() time.Time) *fields {
	current := p.current.Load()
	return &fields{limits: &p.limits, policy: current, rules: &current.defaults, now: now}
}

// rules returns what holds in a namespace.
func (f *inForce) rules(namespace string) *rules {
	if r := f.namespaces[namespace]; r != nil {
		return r
	}
	return &f.defaults
}
