package policy

import (
	"cmp"
	"time"

	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/session"
)

// Rules are what applies to the requests of one namespace: the [Limits] narrowed by the policy in force.
type Rules struct {
	// Cache applies to CacheService.
	Cache CacheRules
	// Sessions applies to SessionService.
	Sessions SessionRules
	// RateLimits are the rules of RateLimitService, by name.
	RateLimits map[string]ratelimit.Rule
	// Tokens applies to TokenService.
	Tokens TokenRules
}

// CacheRules apply to the entries and counters of one namespace; the fields are those of [Cache].
type CacheRules struct {
	// DefaultTTL, MaxTTL and DefaultStaleTTL are as in [Cache]; DefaultTTL and DefaultStaleTTL never exceed MaxTTL.
	DefaultTTL, MaxTTL, DefaultStaleTTL time.Duration
	// Jitter is a share from 0 to 1.
	Jitter float64
	// MaxValueBytes is the maximum size of a value in bytes.
	MaxValueBytes int
	// NearCache, AllowStale and Encrypt are as in [Cache].
	NearCache, AllowStale, Encrypt bool
}

// SessionRules apply to the sessions of one namespace; the fields are those of [Session].
type SessionRules struct {
	// IdleTimeout and AbsoluteTimeout are defaults and maxima; IdleTimeout never exceeds AbsoluteTimeout.
	IdleTimeout, AbsoluteTimeout time.Duration
	// RotationGrace is how long the previous token stays valid after a rotation; 0 means that it ends at once.
	RotationGrace time.Duration
	// TouchInterval is the minimum time between two recordings of activity; 0 leaves the store to derive it from the idle
	// timeout.
	TouchInterval time.Duration
	// Limits are the maximum numbers of concurrent sessions, where 0 means unlimited.
	Limits session.Limits
}

func (p Cache) over(d Cache) Cache {
	return Cache{
		DefaultTTL: cmp.Or(p.DefaultTTL, d.DefaultTTL), MaxTTL: cmp.Or(p.MaxTTL, d.MaxTTL), Jitter: cmp.Or(p.Jitter, d.Jitter),
		MaxValueBytes: cmp.Or(p.MaxValueBytes, d.MaxValueBytes), NearCache: cmp.Or(p.NearCache, d.NearCache),
		DefaultStaleTTL: cmp.Or(p.DefaultStaleTTL, d.DefaultStaleTTL), AllowStale: cmp.Or(p.AllowStale, d.AllowStale),
		Encrypt: cmp.Or(p.Encrypt, d.Encrypt),
	}
}

func (p Session) over(d Session) Session {
	return Session{
		Preset: cmp.Or(p.Preset, d.Preset), IdleTimeout: cmp.Or(p.IdleTimeout, d.IdleTimeout),
		AbsoluteTimeout: cmp.Or(p.AbsoluteTimeout, d.AbsoluteTimeout), RotationGrace: cmp.Or(p.RotationGrace, d.RotationGrace),
		MaxSessionsPerSubject: cmp.Or(p.MaxSessionsPerSubject, d.MaxSessionsPerSubject),
		MaxSessionsPerClass:   cmp.Or(p.MaxSessionsPerClass, d.MaxSessionsPerClass),
		LimitPolicy:           cmp.Or(p.LimitPolicy, d.LimitPolicy), TouchInterval: cmp.Or(p.TouchInterval, d.TouchInterval),
	}
}

func (l *Limits) cacheRules(p Cache) CacheRules {
	most := min(valueOr(p.MaxTTL, l.MaxTTL), l.MaxTTL)
	return CacheRules{
		MaxTTL: most, DefaultTTL: min(valueOr(p.DefaultTTL, l.DefaultTTL), most),
		DefaultStaleTTL: min(valueOr(p.DefaultStaleTTL, 0), most), Jitter: float64(valueOr(p.Jitter, 0)) / 100,
		MaxValueBytes: min(valueOr(p.MaxValueBytes, l.MaxValueBytes), l.MaxValueBytes),
		NearCache:     valueOr(p.NearCache, true), AllowStale: valueOr(p.AllowStale, true), Encrypt: valueOr(p.Encrypt, false),
	}
}

func (l *Limits) sessionRules(p Session) SessionRules {
	idle, absolute := l.maxTimeouts(p.Preset)
	absolute = min(valueOr(p.AbsoluteTimeout, absolute), absolute)
	return SessionRules{
		AbsoluteTimeout: absolute, IdleTimeout: min(valueOr(p.IdleTimeout, idle), idle, absolute),
		RotationGrace: max(min(valueOr(p.RotationGrace, l.SessionRotationGrace), l.SessionRotationGrace), 0),
		TouchInterval: valueOr(p.TouchInterval, 0),
		Limits: session.Limits{
			PerSubject: stricter(valueOr(p.MaxSessionsPerSubject, 0), l.SessionsPerSubject),
			PerClass:   stricter(valueOr(p.MaxSessionsPerClass, 0), l.SessionsPerClass),
			Policy:     cmp.Or(p.LimitPolicy, l.SessionLimitPolicy),
		},
	}
}

// maxTimeouts returns the maximum timeouts under the limits and a preset.
func (l *Limits) maxTimeouts(p Preset) (idle, absolute time.Duration) {
	idle, absolute = l.SessionIdleTimeout, l.SessionAbsoluteTimeout
	if b := presets[p]; b.absolute > 0 {
		absolute = min(absolute, b.absolute)
		if b.idle > 0 {
			idle = min(idle, b.idle)
		}
	}
	return idle, absolute
}

// stricter returns the lower of two maxima, where 0 means unlimited.
func stricter(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// valueOr returns *p, or otherwise if p is nil.
func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
