// Package policy holds the limits of the server and the policy file's sections, and computes from both the rules that
// apply in a namespace.
//
// [Limits] come from the settings and hold everywhere. A [Policy] narrows them for all namespaces or for single ones.
// [Policies] keeps the policy in force, which may be replaced while the server runs; a request looks its [Rules] up once.
package policy

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/store/session"
)

// Policy narrows the [Limits], per namespace. The zero value changes nothing.
type Policy struct {
	// Cache applies to CacheService.
	Cache Section[Cache]
	// Sessions applies to SessionService.
	Sessions Section[Session]
	// RateLimits applies to RateLimitService.
	RateLimits Section[RateLimits]
	// Tokens applies to TokenService.
	Tokens Section[Token]
}

// Section is the part of a [Policy] for one service; P is [Cache], [Session], [RateLimits] or [Token].
type Section[P any] struct {
	// Defaults applies in every namespace, for each field that the namespace's own entry leaves out.
	Defaults P
	// Namespaces has an entry for each namespace with rules of its own.
	Namespaces map[string]P
}

// Cache is the policy for entries and counters of one namespace. A nil field takes the value of [Section].Defaults, and
// if that is nil too, that of [Limits]. An inherited value that exceeds a bound set by the namespace is lowered to it.
type Cache struct {
	// DefaultTTL is the ttl where a request sets none: at least 1 ms, at most MaxTTL.
	DefaultTTL *time.Duration `yaml:"default_ttl"`
	// MaxTTL is the maximum of ttl and stale_ttl together: at least 1 ms, at most that of Limits.
	MaxTTL *time.Duration `yaml:"max_ttl"`
	// Jitter is the maximum share of its ttl by which an entry expires early, 0 to 100 %; nil means 0. Each write draws
	// its own share, so that entries written together do not expire together. Jitter never lengthens a ttl, which is the
	// writer's bound on the age of the data, and leaves stale_ttl, expire_time, never and counters as they are.
	Jitter *Percent `yaml:"jitter"`
	// MaxValueBytes is the maximum size of a value: at least 1, at most that of Limits.
	MaxValueBytes *int `yaml:"max_value_bytes"`
	// NearCache says whether reads may be answered from the near cache; nil means yes. If not, every read goes to the
	// primary.
	NearCache *bool `yaml:"near_cache"`
	// DefaultStaleTTL is the stale_ttl where a request sets none, shortened to what MaxTTL leaves after the ttl; nil
	// means 0.
	DefaultStaleTTL *time.Duration `yaml:"default_stale_ttl"`
	// AllowStale says whether stale values are returned where a request does not say; nil means yes.
	AllowStale *bool `yaml:"allow_stale"`
	// Encrypt says whether values are encrypted before they are stored, which requires a keyring; nil means no. Counters
	// are never encrypted.
	Encrypt *bool `yaml:"encrypt"`
}

// Session is the policy for the sessions of one namespace. Nil and empty fields are inherited as in [Cache].
type Session struct {
	// Preset lowers the maximum timeouts to those of a standard; empty means none.
	Preset Preset `yaml:"preset"`
	// IdleTimeout is the default and the maximum idle timeout: at least 1 s, at most that of Limits, of Preset and
	// AbsoluteTimeout.
	IdleTimeout *time.Duration `yaml:"idle_timeout"`
	// AbsoluteTimeout is the default and the maximum absolute timeout: at least 1 s, at most that of Limits and of Preset.
	AbsoluteTimeout *time.Duration `yaml:"absolute_timeout"`
	// RotationGrace is how long the previous token stays valid after a rotation: 0 to that of Limits.
	RotationGrace *time.Duration `yaml:"rotation_grace"`
	// MaxSessionsPerSubject is the maximum number of concurrent sessions per subject, 0 to that of Limits; 0 means that
	// of Limits.
	MaxSessionsPerSubject *int `yaml:"max_sessions_per_subject"`
	// MaxSessionsPerClass is the maximum number of concurrent sessions per subject and device class, 0 to that of Limits;
	// 0 means that of Limits.
	MaxSessionsPerClass *int `yaml:"max_sessions_per_class"`
	// LimitPolicy decides what happens when a creation would exceed these two.
	LimitPolicy session.LimitPolicy `yaml:"limit_policy"`
	// TouchInterval is the minimum time between two recordings of activity: at least 1 s, at most IdleTimeout.
	TouchInterval *time.Duration `yaml:"touch_interval"`
}

// Preset names a standard's maximum timeouts.
type Preset string

// The presets are the authentication assurance levels of NIST SP 800-63B-4, sections 2.1.3, 2.2.3 and 2.3.3.
const (
	// AAL1 allows an absolute timeout of at most 30 days; the idle timeout has no bound of its own.
	AAL1 Preset = "aal1"
	// AAL2 allows an absolute timeout of at most 24 h and an idle timeout of at most 1 h.
	AAL2 Preset = "aal2"
	// AAL3 allows an absolute timeout of at most 12 h and an idle timeout of at most 15 min.
	AAL3 Preset = "aal3"
)

// presets are the maximum timeouts of each [Preset]; zero means no maximum.
var presets = map[Preset]struct{ absolute, idle time.Duration }{
	"":   {},
	AAL1: {30 * 24 * time.Hour, 0},
	AAL2: {24 * time.Hour, time.Hour},
	AAL3: {12 * time.Hour, 15 * time.Minute},
}

var limitPolicies = []session.LimitPolicy{"", session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject}

// Percent is a share in percent: 10 means 10 %.
type Percent float64

var errPercent = errors.New("must be a percentage, such as 10%")

// UnmarshalText parses a number followed by a percent sign, such as 10% or 2.5%.
func (p *Percent) UnmarshalText(text []byte) error {
	number, signed := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !signed {
		return errPercent
	}
	*p = Percent(n)
	return nil
}
