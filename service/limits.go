package service

import (
	"time"

	"github.com/berthcare/larder/store/session"
)

// Limits bound what requests may ask for, and say what they get when they do not.
type Limits struct {
	// MaxValueBytes bounds one value; zero means 1 MiB.
	MaxValueBytes int
	// MaxBatchBytes bounds the answer of a BatchGet; zero means 3.5 MiB, which callers with gRPC's default limit of 4 MiB
	// can receive.
	MaxBatchBytes int
	// DefaultTTL is the ttl of entries and counters that ask for none; zero means 1 h.
	DefaultTTL time.Duration
	// MaxTTL bounds ttl and stale_ttl together; zero means 720 h.
	MaxTTL time.Duration
	// SessionIdleTimeout is the longest and the default idle timeout of sessions; zero means 30 min.
	SessionIdleTimeout time.Duration
	// SessionAbsoluteTimeout is the longest and the default absolute timeout of sessions; zero means 12 h.
	SessionAbsoluteTimeout time.Duration
	// SessionRotationGrace is how long a rotated token stays good; zero means 30 s, below zero not at all.
	SessionRotationGrace time.Duration
	// SessionCacheFor is the longest that callers may believe a verdict without asking again; zero means 5 s, below zero
	// not at all.
	SessionCacheFor time.Duration
	// Keyring says that the store has a keyring, without which no policy can ask for encryption.
	Keyring bool
	// SessionsPerSubject is how many sessions a subject may have at once; zero means any number. A creation looks at no more
	// than 1000 sessions of each device class, those that end soonest, and ends no others to make room.
	SessionsPerSubject int
	// SessionsPerClass is how many of them may have the same device class; zero means any number.
	SessionsPerClass int
	// SessionLimitPolicy says what happens beyond; empty means session.EvictLeastRecentlyUsed.
	SessionLimitPolicy session.LimitPolicy
	// PlainNamespace is the namespace whose keys are Redis keys as they are; empty means none.
	PlainNamespace string
}

func (l Limits) withDefaults() Limits {
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
	l.DefaultTTL = min(l.DefaultTTL, l.MaxTTL)
	if l.SessionIdleTimeout <= 0 {
		l.SessionIdleTimeout = 30 * time.Minute
	}
	if l.SessionAbsoluteTimeout <= 0 {
		l.SessionAbsoluteTimeout = 12 * time.Hour
	}
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
