package session

import (
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Options configures [Sessions].
type Options struct {
	// SweepInterval is how often sessions whose time is over are swept: their end becomes an event and what they have left in
	// Redis is removed. One replica at a time sweeps. 0 means never.
	SweepInterval time.Duration
}

// Sessions keeps sessions in Redis. It is safe for concurrent use.
type Sessions struct {
	redis   *redis.Client
	keyring *keyring.Keyring // nil if attributes are not encrypted
	options Options
	touches toucher
	sweeper sweeper
}

// New returns sessions over a Redis client, and starts the sweeper. The keyring encrypts attributes; nil means that they are
// not encrypted. The caller must call Close after it has stopped the client.
func New(c *redis.Client, k *keyring.Keyring, o Options) *Sessions {
	s := &Sessions{redis: c, keyring: k, options: o}
	s.touches.busy = make(map[string]struct{})
	s.sweeper.maxEvents = maxPartitionEvents
	// Every change of a session may have added an event to its partition's stream.
	c.OnEmbeddedWrite(func(key string) {
		if p, ok := partitionOf(key); ok {
			c.Wake(eventsKey(p))
		}
	})
	if o.SweepInterval > 0 {
		s.sweeper.stopped = make(chan struct{})
		go s.sweep()
	}
	return s
}

// Close waits for the touches and the sweep under way; no other begins.
func (s *Sessions) Close() {
	s.touches.close()
	if s.sweeper.stopped != nil {
		<-s.sweeper.stopped
	}
}

// Stats are counters of [Sessions] in this process.
type Stats struct {
	// ExpiredIdle and ExpiredAbsolute count the sessions that this process has swept, by the timeout that was over.
	ExpiredIdle, ExpiredAbsolute int64
	// Removed counts the sessions of which it has removed what they had left after they were revoked together.
	Removed int64
	// SweepLate is how long the first session that its last sweep has ended had been over.
	SweepLate time.Duration
}

// Stats returns the counters.
func (s *Sessions) Stats() Stats {
	return Stats{
		ExpiredIdle: s.sweeper.idle.Load(), ExpiredAbsolute: s.sweeper.absolute.Load(), Removed: s.sweeper.removed.Load(),
		SweepLate: time.Duration(s.sweeper.late.Load()) * time.Millisecond,
	}
}
