package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/berthcare/larder/store/session"
)

// MinSessionTimeout is the minimum idle and absolute timeout of a session, in policies and in requests.
const MinSessionTimeout = time.Second

// NamespaceForm says what [ValidNamespace] accepts, as an error's description says it.
const NamespaceForm = "must be 1 to 63 characters of a-z, 0-9, dot, underscore and dash, the first a letter or a digit"

const maxNamespaceBytes = 63

// ValidNamespace reports whether ns is the name of a namespace: [a-z0-9][a-z0-9._-]{0,62}.
func ValidNamespace(ns string) bool {
	ok := ns != "" && len(ns) <= maxNamespaceBytes
	for i := 0; ok && i < len(ns); i++ {
		c := ns[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-')
	}
	return ok
}

// FieldError is an invalid field of a [Policy]. It never contains the field's value.
type FieldError struct {
	// Field is the path of the field in the policy file, such as cache.namespaces.prices.max_ttl.
	Field string
	// Description says what the field must be.
	Description string
}

// Error returns the field and what it must be.
func (e *FieldError) Error() string { return e.Field + ": " + e.Description }

// Check validates the policy against limits and returns the first invalid field as a [*FieldError], nil if there is none.
// Zero limits mean their defaults.
func (p *Policy) Check(l Limits) error {
	l = l.WithDefaults()
	c := &checker{limits: &l}
	checkSection(c, "cache.", &p.Cache, func(written Cache) {
		c.cache(written, l.cacheRules(written.over(p.Cache.Defaults)))
	})
	checkSection(c, "sessions.", &p.Sessions, func(written Session) {
		inherited := written.over(p.Sessions.Defaults)
		c.sessions(written, inherited.Preset, l.sessionRules(inherited))
	})
	inherited := RateLimits(nil)
	checkSection(c, "rate_limits.", &p.RateLimits, func(written RateLimits) {
		c.rateLimits(written, inherited)
		inherited = p.RateLimits.Defaults // which are checked first
	})
	checkSection(c, "tokens.", &p.Tokens, func(written Token) {
		c.tokens(written, tokenRules(written.over(p.Tokens.Defaults)))
	})
	if c.first == nil {
		return nil // and not a nil *FieldError
	}
	return c.first
}

// checkSection checks the defaults and then each namespace, in the order of their names.
func checkSection[P any](c *checker, section string, s *Section[P], check func(P)) {
	c.prefix = section + "defaults."
	check(s.Defaults)
	for _, ns := range slices.Sorted(maps.Keys(s.Namespaces)) {
		if c.prefix = section + "namespaces."; !ValidNamespace(ns) {
			c.add(ns, "%s", NamespaceForm)
		}
		c.prefix += ns + "."
		check(s.Namespaces[ns])
	}
}

// A checker keeps the first fault of a policy.
type checker struct {
	limits *Limits
	prefix string // of the paths of the fields being checked
	first  *FieldError
}

func (c *checker) add(field, format string, args ...any) {
	if c.first == nil {
		c.first = &FieldError{c.prefix + field, fmt.Sprintf(format, args...)}
	}
}

// cache checks the fields written for one namespace or as defaults; r are the rules that result from them.
func (c *checker) cache(p Cache, r CacheRules) {
	most := "LARDER_MAX_TTL"
	if r.MaxTTL < c.limits.MaxTTL {
		most = "max_ttl"
	}
	between(c, "max_ttl", p.MaxTTL, time.Millisecond, c.limits.MaxTTL, "LARDER_MAX_TTL")
	between(c, "default_ttl", p.DefaultTTL, time.Millisecond, r.MaxTTL, most)
	between(c, "jitter", p.Jitter, 0, 100, "")
	between(c, "max_value_bytes", p.MaxValueBytes, 1, c.limits.MaxValueBytes, "LARDER_MAX_VALUE_BYTES")
	between(c, "default_stale_ttl", p.DefaultStaleTTL, 0, r.MaxTTL, most)
	if p.Encrypt != nil && *p.Encrypt && !c.limits.Keyring {
		c.add("encrypt", "needs a keyring")
	}
}

// sessions checks the fields written for one namespace or as defaults; preset and r are the preset in force there, which
// may be inherited, and the rules that result.
func (c *checker) sessions(p Session, preset Preset, r SessionRules) {
	if _, ok := presets[p.Preset]; !ok {
		c.add("preset", "must be aal1, aal2 or aal3")
	}
	idle, absolute := c.limits.maxTimeouts(preset)
	absoluteOf, idleOf := "LARDER_SESSION_ABSOLUTE_TIMEOUT", "LARDER_SESSION_IDLE_TIMEOUT"
	if absolute < c.limits.SessionAbsoluteTimeout {
		absoluteOf = "preset " + string(preset)
	}
	switch {
	case r.AbsoluteTimeout < idle:
		idleOf = "absolute_timeout"
	case idle < c.limits.SessionIdleTimeout:
		idleOf = "preset " + string(preset)
	}
	between(c, "absolute_timeout", p.AbsoluteTimeout, MinSessionTimeout, absolute, absoluteOf)
	between(c, "idle_timeout", p.IdleTimeout, MinSessionTimeout, min(idle, r.AbsoluteTimeout), idleOf)
	between(c, "rotation_grace", p.RotationGrace, 0, max(c.limits.SessionRotationGrace, 0), "LARDER_SESSION_ROTATION_GRACE")
	between(c, "max_sessions_per_subject", p.MaxSessionsPerSubject, 0, cmp.Or(c.limits.SessionsPerSubject, maxSessions), "")
	between(c, "max_sessions_per_class", p.MaxSessionsPerClass, 0, cmp.Or(c.limits.SessionsPerClass, maxSessions), "")
	if !slices.Contains(limitPolicies, p.LimitPolicy) {
		c.add("limit_policy", "must be %s, %s or %s", session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject)
	}
	between(c, "touch_interval", p.TouchInterval, MinSessionTimeout, r.IdleTimeout, "the idle timeout")
}

// maxSessions is the highest limit of sessions that a policy may set where the server's limit is unlimited.
const maxSessions = 1 << 20

// between checks the bounds of a number that may be unset. Of names what sets the upper bound; empty for a fixed bound.
func between[N ~int | ~int64 | ~float64](c *checker, field string, n *N, least, most N, of string) {
	if n == nil || *n >= least && *n <= most { // NaN is neither
		return
	}
	if of != "" {
		of = " (" + of + ")"
	}
	c.add(field, "must be at least %s and at most %s%s", shown(least), shown(most), of)
}

// shown formats a number, with [Span] if it is a duration.
func shown[N any](n N) string {
	if d, ok := any(n).(time.Duration); ok {
		return Span(d)
	}
	return fmt.Sprint(n)
}

// Span formats a duration for an error, without the zero minutes and seconds that [time.Duration.String] adds: 30m, 720h.
func Span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
