package policy

import (
	"time"

	"github.com/berthcare/larder/store/session"
)

// MaxLifetime is the maximum time for which anything may be kept, 200 years. Dates after the year 2262 do not fit into the
// nanoseconds of 64 bits that Go counts.
const MaxLifetime = 200 * 365 * 24 * time.Hour

// Limits bounds what any request may ask for and gives the defaults of what a request leaves out, in every namespace.
// A [Policy] can only narrow it.
type Limits struct {
	// MaxValueBytes is the maximum size of one value; zero means 1 MiB.
	MaxValueBytes int
	// MaxBatchBytes is the maximum total size of the values in one BatchGet answer; zero means 3.5 MiB, which fits into
	// gRPC's default message limit of 4 MiB.
	MaxBatchBytes int
	// DefaultTTL is the ttl of entries and counters whose request sets none, at most MaxTTL; zero means 1 h.
	DefaultTTL time.Duration
	// MaxTTL is the maximum of ttl and stale_ttl together; zero means 720 h, and it is at most [MaxLifetime].
	MaxTTL time.Duration
	// SessionIdleTimeout is the default and the maximum idle timeout of a session; zero means 30 min, and it is at most
	// [MaxLifetime].
	SessionIdleTimeout time.Duration
	// SessionAbsoluteTimeout is the default and the maximum absolute timeout of a session; zero means 12 h, and it is at most
	// [MaxLifetime].
	SessionAbsoluteTimeout time.Duration
	// SessionRotationGrace is how long the previous token stays valid after a rotation; zero means 30 s, and a negative
	// duration means that it ends at once.
	SessionRotationGrace time.Duration
	// SessionCacheFor is the maximum time for which a caller may reuse the outcome of a validation; zero means 5 s, and a
	// negative duration means that it must not be reused.
	SessionCacheFor time.Duration
	// Keyring reports whether the store has a keyring; without one a policy cannot ask for encryption.
	Keyring bool
	// SessionsPerSubject is the maximum number of concurrent sessions per subject; zero means unlimited. A creation
	// considers at most the 1000 sessions of each device class that end soonest, and evicts only among those.
	SessionsPerSubject int
	// SessionsPerClass is the maximum number of concurrent sessions per subject and device class; zero means unlimited.
	SessionsPerClass int
	// SessionLimitPolicy decides what happens when a creation would exceed these two; empty means
	// session.EvictLeastRecentlyUsed.
	SessionLimitPolicy session.LimitPolicy
	// PlainNamespace is the namespace whose keys are used as Redis keys without a prefix; empty means that there is none.
	PlainNamespace string
}

// WithDefaults returns the limits with every zero field replaced by its default.
func (l Limits) WithDefaults() Limits {
	if l.MaxValueBytes <= 0 {
		l.MaxValueBytes = 1 << 20
	}
	if l.MaxBatchBytes <= 0 {
		l.MaxBatchBytes = 7 << 19
	}
	if l.DefaultTTL <= 0 {
		l.DefaultTTL = time.Hour
	}
	if l.MaxTTL <= 0 {
		l.MaxTTL = 720 * time.Hour
	}
	l.MaxTTL = min(l.MaxTTL, MaxLifetime)
	l.DefaultTTL = min(l.DefaultTTL, l.MaxTTL)
	if l.SessionIdleTimeout <= 0 {
		l.SessionIdleTimeout = 30 * time.Minute
	}
	if l.SessionAbsoluteTimeout <= 0 {
		l.SessionAbsoluteTimeout = 12 * time.Hour
	}
	l.SessionIdleTimeout, l.SessionAbsoluteTimeout = min(l.SessionIdleTimeout, MaxLifetime), min(l.SessionAbsoluteTimeout, MaxLifetime)
	if l.SessionRotationGrace == 0 {
		l.SessionRotationGrace = 30 * time.Second
	}
	if l.SessionCacheFor == 0 {
		l.SessionCacheFor = 5 * time.Second
	}
	if l.SessionLimitPolicy == "" {
		l.SessionLimitPolicy = session.EvictLeastRecentlyUsed
	}
	return l
}
