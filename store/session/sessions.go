package session

import (
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Options configures [Sessions].
type Options struct {
	// SweepInterval is how often one of the replicas sweeps: it emits an event for each expired session and removes its
	// keys; 0 means never.
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

// New returns sessions over a Redis client and starts the sweeper. The keyring encrypts attributes; nil means that they are
// not encrypted. The caller must call Close after it has stopped the client.
func New(c *redis.Client, k *keyring.Keyring, o Options) *Sessions {
	s := &Sessions{redis: c, keyring: k, options: o, touches: newToucher()}
	s.sweeper.maxEvents = maxPartitionEvents
	// Any change of a session may add an event to the stream of its partition.
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

// Close waits for the touches and the sweep under way; no new one begins.
func (s *Sessions) Close() {
	s.touches.close()
	if s.sweeper.stopped != nil {
		<-s.sweeper.stopped
	}
}

// Stats are counters of [Sessions] in this process.
type Stats struct {
	// ExpiredIdle and ExpiredAbsolute count the sessions that this process has swept, by the timeout that elapsed.
	ExpiredIdle, ExpiredAbsolute int64
	// Removed counts the revoked sessions whose keys this process has removed.
	Removed int64
	// SweepLate is the longest time between the expiry of a session and its removal by this process's last sweep.
	SweepLate time.Duration
}

// Stats returns the counters.
func (s *Sessions) Stats() Stats {
	return Stats{
		ExpiredIdle: s.sweeper.idle.Load(), ExpiredAbsolute: s.sweeper.absolute.Load(), Removed: s.sweeper.removed.Load(),
		SweepLate: time.Duration(s.sweeper.late.Load()) * time.Millisecond,
	}
}
