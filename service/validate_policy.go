package service

import (
	"slices"
	"time"

	"github.com/berthcare/larder/store/session"
)

// cachePolicy checks what was written of a policy; r is what comes of it.
func (f *fields) cachePolicy(p CachePolicy, r cacheRules) {
	between(f, "max_ttl", p.MaxTTL, time.Millisecond, f.limits.MaxTTL)
	between(f, "default_ttl", p.DefaultTTL, time.Millisecond, r.maxTTL)
	between(f, "jitter", p.Jitter, 0, 100)
	between(f, "max_value_bytes", p.MaxValueBytes, 1, f.limits.MaxValueBytes)
	between(f, "default_stale_ttl", p.DefaultStaleTTL, 0, r.maxTTL)
	if p.Encrypt != nil && *p.Encrypt && !f.limits.Keyring {
		f.add("encrypt", "needs a keyring")
	}
}

// sessionPolicy checks what was written of a policy; r is what comes of it, and most the longest timeouts that its preset
// and the limits allow.
func (f *fields) sessionPolicy(p SessionPolicy, r, most sessionRules) {
	if _, ok := presets[p.Preset]; !ok {
		f.add("preset", "must be aal1, aal2 or aal3")
	}
	between(f, "absolute_timeout", p.AbsoluteTimeout, minSessionTimeout, most.absolute)
	between(f, "idle_timeout", p.IdleTimeout, minSessionTimeout, min(most.idle, r.absolute))
	between(f, "rotation_grace", p.RotationGrace, 0, max(f.limits.SessionRotationGrace, 0))
	between(f, "max_sessions_per_subject", p.MaxSessionsPerSubject, 0, mostSessions(f.limits.SessionsPerSubject))
	between(f, "max_sessions_per_class", p.MaxSessionsPerClass, 0, mostSessions(f.limits.SessionsPerClass))
	if !slices.Contains(limitPolicies, p.LimitPolicy) {
		f.add("limit_policy", "must be %s, %s or %s", session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject)
	}
	between(f, "touch_interval", p.TouchInterval, minSessionTimeout, r.idle)
}

// mostSessions is the greatest number that a policy may write beside that of the server, of which zero means any.
func mostSessions(limit int) int {
	if limit == 0 {
		return 1 << 20
	}
	return limit
}

// between checks the bounds of a number that may be unset.
func between[N ~int | ~int64 | ~float64](f *fields, field string, n *N, least, most N) {
	if n == nil || *n >= least && *n <= most { // NaN is neither
		return
	}
	f.add(field, "must be at least %v and at most %v", least, most)
}
