package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Mode is the kind of Redis that a [Client] connects to. The client asserts it on connecting and never guesses it.
type Mode string

// The modes.
const (
	// Standalone is one redis-server.
	Standalone Mode = "standalone"
	// Cluster is a Redis Cluster.
	Cluster Mode = "cluster"
	// Sentinel is a primary and its replicas, monitored by sentinels.
	Sentinel Mode = "sentinel"
	// Embedded is a store inside this process, for trying Larder out. Its data ends with the process.
	Embedded Mode = "embedded"
)

// Options configures a [Client].
type Options struct {
	// Mode is the kind of Redis; empty means [Standalone].
	Mode Mode
	// Addrs are host:port of the server, of some nodes of the cluster or of the sentinels, or the absolute path of a server's
	// Unix socket. [Embedded] ignores them.
	Addrs []string
	// AddressMap says where to connect to instead of addresses that sentinels or nodes of a cluster tell, as behind network
	// address translation. Keys are host:port, or a host that stands for all its ports; values likewise.
	AddressMap map[string]string
	// Username and Password authenticate to Redis (AUTH); empty means no authentication.
	Username, Password string
	// PasswordFile, if set, is read for every new connection, and its content is used instead of Password. While it cannot be
	// read, what it contained last is used, and Password before that.
	PasswordFile string
	// DB is the database number; [Cluster] has database 0 only.
	DB int
	// TLS encrypts the connections to Redis and to the sentinels; nil means plain TCP.
	TLS *tls.Config
	// TLSFiles are read for every new connection and replace what TLS has of them.
	TLSFiles TLSFiles
	// TLSCommonName accepts a certificate of Redis that has no subject alternative name if its common name is the host.
	TLSCommonName bool
	// SentinelMaster is the name under which the sentinels monitor the primary; required with [Sentinel].
	SentinelMaster string
	// SentinelUsername and SentinelPassword authenticate to the sentinels; empty means no authentication.
	SentinelUsername, SentinelPassword string
	// SentinelPasswordFile is to SentinelPassword what PasswordFile is to Password.
	SentinelPasswordFile string
	// CommandTimeout bounds one round trip, beside the caller's deadline; 0 means 2 s. [Embedded] ignores it.
	CommandTimeout time.Duration
	// MaxInFlight bounds the concurrent round trips to each shard; 0 means 900. It must stay below 1024, the number of commands
	// that rueidis queues on one connection: above that it would ignore callers' deadlines.
	MaxInFlight int
	// NearCacheBytes bounds the memory of the near cache; 0 means no near cache.
	NearCacheBytes int64
	// NearCacheTTL bounds how long the near cache answers without a sign of life from Redis; 0 means 5 s. While Redis
	// answers, entries are kept for longer.
	NearCacheTTL time.Duration
	// Strict refuses, with [ErrUnsafe], to connect to a Redis about which [Client.Warnings] would have something to say.
	Strict bool
	// Now is the clock of this process, which is read once: from then on time passes monotonically. Nil means time.Now.
	Now func() time.Time
	// Observer is told of round trips and connections; nil means none.
	Observer Observer
	// Logger logs lost and restored connections; nil means no logging.
	Logger *slog.Logger
}

// complete returns the options with their defaults, or what is wrong with them.
func (o Options) complete() (Options, error) {
	if o.Mode == "" {
		o.Mode = Standalone
	}
	switch {
	case o.Mode != Standalone && o.Mode != Cluster && o.Mode != Sentinel && o.Mode != Embedded:
		return o, fmt.Errorf("unknown mode %q", o.Mode)
	case o.Mode != Embedded && len(o.Addrs) == 0:
		return o, errors.New("no address of redis")
	case o.Mode == Standalone && len(o.Addrs) > 1:
		return o, errors.New("several addresses for one standalone redis")
	case o.Mode == Cluster && o.DB != 0:
		return o, errors.New("a redis cluster has database 0 only")
	case o.Mode == Sentinel && o.SentinelMaster == "":
		return o, errors.New("no name of the primary that the sentinels monitor")
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
		o.Observer = noObserver{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
