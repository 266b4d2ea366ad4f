// Package store keeps Larder's data in Redis: every operation is a few commands or one script, sent through rueidis, and
// reads are answered from a near cache where the caller allows it. It knows nothing of gRPC.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthcare/larder/store/embedded"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/near"
)

// Mode says what kind of Redis the store talks to. It is asserted on connecting, never guessed.
type Mode string

// The kinds of Redis.
const (
	// Standalone is one redis-server.
	Standalone Mode = "standalone"
	// Cluster is a Redis Cluster.
	Cluster Mode = "cluster"
	// Sentinel is a primary and its replicas watched by sentinels.
	Sentinel Mode = "sentinel"
	// Embedded is a store inside this process, for trying Larder out; it forgets everything with the process.
	Embedded Mode = "embedded"
)

// Options say how to reach Redis and what to keep in memory.
type Options struct {
	// Mode is the kind of Redis; empty means Standalone.
	Mode Mode
	// Addrs are host:port of the server, of some nodes of the cluster or of the sentinels; unused by Embedded.
	Addrs []string
	// Username and Password are for AUTH; empty means none.
	Username, Password string
	// DB is the database number; it must be 0 for Cluster.
	DB int
	// TLS is used for connections to Redis and to sentinels; nil means plain TCP.
	TLS *tls.Config
	// SentinelMaster is the name of the watched primary; Sentinel needs it.
	SentinelMaster string
	// SentinelUsername and SentinelPassword are for AUTH to the sentinels; empty means none.
	SentinelUsername, SentinelPassword string
	// CommandTimeout bounds one round trip, beside the caller's deadline; zero means 2 s.
	CommandTimeout time.Duration
	// MaxInFlight bounds the round trips under way at once, zero means 900. It stays below the 1024 that rueidis can
	// queue on one connection, where a caller's deadline would no longer be heeded.
	MaxInFlight int
	// NearCacheBytes bounds the memory of the near cache, of all connections together; zero means no near cache.
	NearCacheBytes int64
	// NearCacheTTL bounds how long ago an answer of the near cache was last known to be right, whatever happens to the
	// network; zero means 5 s. While Redis answers, entries are kept for longer.
	NearCacheTTL time.Duration
	// CompressAbove is the length in bytes above which values are compressed in Redis; zero means never.
	CompressAbove int
	// Keyring encrypts attributes of sessions, and the values of entries where a Write asks for it; nil means that neither
	// is encrypted.
	Keyring *keyring.Keyring
	// PlainNamespace is a namespace whose keys are Redis keys as they are, so that data written by other clients is
	// served; empty means none. Keys that begin with "ld:" are Larder's own and not in it.
	PlainNamespace string
	// SweepInterval is how often sessions are looked for whose time is over, to tell of their end and remove what they have
	// left, by one replica at a time; zero means never.
	SweepInterval time.Duration
	// Observer is told of commands and connections; nil means nobody is.
	Observer Observer
	// Logger is told of connections lost and restored; nil means nothing is logged.
	Logger *slog.Logger
}

// Store is the one implementation of every operation. It is safe for concurrent use.
type Store struct {
	options  Options
	clients  atomic.Pointer[clients]
	dialer   *dialer
	near     *near.Cache
	clock    clock
	slots    chan struct{}
	touches  toucher
	recent   recentMarks
	waiting  waiters
	leasing  leasing
	watches  watches
	sweeper  sweeper
	embedded *embedded.Server
	version  atomic.Pointer[string]
	roles    sync.Map // address of a cluster's node -> whether it was a primary when it last answered
	closed   context.CancelFunc
	lifetime context.Context //nolint:containedctx // the store's own life, for work off the path of requests
}

// New returns a store that is not connected yet. An error is the operator's mistake.
func New(o Options) (*Store, error) {
	if o.Mode == "" {
		o.Mode = Standalone
	}
	switch {
	case o.Mode != Standalone && o.Mode != Cluster && o.Mode != Sentinel && o.Mode != Embedded:
		return nil, fmt.Errorf("unknown mode %q", o.Mode)
	case o.Mode != Embedded && len(o.Addrs) == 0:
		return nil, errors.New("no address of redis")
	case o.Mode == Standalone && len(o.Addrs) > 1:
		return nil, errors.New("several addresses for one standalone redis")
	case o.Mode == Cluster && o.DB != 0:
		return nil, errors.New("a redis cluster has database 0 only")
	case o.Mode == Sentinel && o.SentinelMaster == "":
		return nil, errors.New("no name of the primary that the sentinels watch")
	}
	if o.CommandTimeout <= 0 {
		o.CommandTimeout = 2 * time.Second
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 900
	}
	if o.NearCacheTTL <= 0 {
		o.NearCacheTTL = 5 * time.Second
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{options: o, slots: make(chan struct{}, o.MaxInFlight)}
	s.lifetime, s.closed = context.WithCancel(context.Background())
	s.dialer = &dialer{options: &s.options}
	s.recent.reach = s.reach
	s.touches.busy = make(map[string]struct{})
	if o.Mode == Embedded {
		server, err := embedded.Start()
		if err != nil {
			return nil, err
		}
		s.embedded = server
	} else {
		// The embedded store cannot push invalidations and costs no round trip anyway.
		s.near = near.New(o.NearCacheBytes, o.NearCacheTTL)
	}
	s.sweeper.maxEvents = maxPartitionEvents
	if o.SweepInterval > 0 {
		s.sweeper.stopped = make(chan struct{})
		go s.sweep()
	}
	return s, nil
}

// Mode returns the kind of Redis.
func (s *Store) Mode() Mode { return s.options.Mode }

// Version returns what Redis calls its version; empty before Connect has succeeded.
func (s *Store) Version() string {
	if v := s.version.Load(); v != nil {
		return *v
	}
	return ""
}

// Now returns the time by the clock of Redis, as far as it is known.
func (s *Store) Now() time.Time { return s.clock.now() }

// Stats are figures of a store.
type Stats struct {
	// NearEntries and NearBytes are what the near cache holds.
	NearEntries, NearBytes int64
	// NearHits and NearMisses count look-ups in the near cache.
	NearHits, NearMisses int64
	// NearEvictions counts values dropped for want of room.
	NearEvictions int64
	// NearInvalidations counts keys that Redis said were written.
	NearInvalidations int64
	// NearFlushes counts the times that everything was dropped, as when a connection is lost.
	NearFlushes int64
	// InFlight is how many round trips are under way.
	InFlight int64
	// KeyUses is how often each key of the keyring has decrypted something.
	KeyUses map[string]int64
	// ExpiredIdle and ExpiredAbsolute count sessions that this process has ended, by the timeout that was over.
	ExpiredIdle, ExpiredAbsolute int64
	// RemovedSessions counts those of which it has removed what they had left after they were revoked together.
	RemovedSessions int64
	// SweepLate is how long before the last sweep of this process the first session that it ended had been over.
	SweepLate time.Duration
}

// Stats returns the figures of now.
func (s *Store) Stats() Stats {
	st := Stats{
		InFlight: int64(len(s.slots)), KeyUses: s.options.Keyring.Uses(),
		ExpiredIdle: s.sweeper.idle.Load(), ExpiredAbsolute: s.sweeper.absolute.Load(),
		RemovedSessions: s.sweeper.removed.Load(),
		SweepLate:       time.Duration(s.sweeper.late.Load()) * time.Millisecond,
	}
	n := s.near.Stats()
	st.NearEntries, st.NearBytes, st.NearHits, st.NearMisses = n.Entries, n.Bytes, n.Hits, n.Misses
	st.NearEvictions, st.NearInvalidations, st.NearFlushes = n.Evictions, n.Invalidations, n.Flushes
	return st
}

// closeTimeout bounds Close: a stalled Redis must not hold up the end of the process.
const closeTimeout = 2 * time.Second

// Close ends every connection. Operations under way fail.
func (s *Store) Close() {
	s.closed()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.touches.close()
		if s.sweeper.stopped != nil {
			<-s.sweeper.stopped
		}
		if c := s.clients.Load(); c != nil {
			c.close()
		}
		if s.embedded != nil {
			s.embedded.Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
}
