// Package redis connects to Redis through rueidis and carries what all features of the store share: round trips with their
// timeouts and errors, scripts, batches, the near cache and its confirmation, waiting for changes, broadcast of written
// keys, and the clock of Redis.
package redis

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/embedded"
	"github.com/berthcare/larder/store/near"
)

// Client is the connection to one Redis, of whichever [Mode]. It is safe for concurrent use. Before [Client.Connect] has
// succeeded every round trip fails with [ErrUnavailable].
type Client struct {
	// Near is the near cache of what was read over [Conns.Tracked]; nil, which holds nothing, if there is none.
	Near *near.Cache

	options Options
	conns   atomic.Pointer[Conns]
	network *network
	files   *files
	dialer  *dialer
	guests  *network // of connections that are for a question or two
	// guestSessions spares most of these the work of a full TLS handshake.
	guestSessions tls.ClientSessionCache

	sentinels  *sentinels // nil unless the mode is Sentinel
	fence      fence
	clock      *clock
	common     share                      // of round trips whose shard is not known, and of all to one server
	shares     sync.Map                   // id of a node of a cluster -> its share
	slotShares atomic.Pointer[slotShares] // the shares of the owners of slots
	waiting    waiters
	onWrite    onWrite
	embedded   *embedded.Server
	version    atomic.Pointer[string]
	warnings   atomic.Pointer[[]Warning]
	roles      sync.Map                   // address of a cluster's node -> whether it was a primary when it last answered
	nodeIDs    sync.Map                   // address of a cluster's node -> its id when it last answered
	pulses     sync.Map                   // address of a node -> *pulse
	slotOwners atomic.Pointer[slotOwners] // of a cluster when it was last asked; nil before
	ownersSum  string                     // of the survey that slotOwners are from; keepConfirming uses it alone
	elsewhere  elsewhere
	blind      sync.Once // warns that the topology of a cluster is not told
	// unprotected tells that CLIENT NO-EVICT is refused.
	unprotected sync.Once
	stop        context.CancelFunc
	lifetime    context.Context //nolint:containedctx // of the client itself, for work that no request waits for
}

// Conns are the connections to Redis. Redis tracks what is read over Tracked and pushes it back when it is written. Writes,
// scripts and reads that are not kept go over Primary, so that Redis remembers no key in vain.
type Conns struct {
	// Primary is for writes, scripts and reads that are not kept.
	Primary rueidis.Client
	// Tracked is for reads that fill the near cache. It is Primary if there is no near cache.
	Tracked rueidis.Client
	// Bulk is for reads whose answers may be large, which would hold up those of others on the same connection. It is tracked if
	// there is a near cache.
	Bulk rueidis.Client
}

// New returns a client that is not connected yet. Its errors are mistakes in the options.
func New(o Options) (*Client, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	c := &Client{options: o, common: make(share, o.MaxInFlight)}
	c.lifetime, c.stop = context.WithCancel(context.Background())
	c.files = newFiles(&c.options)
	c.network = newNetwork(&c.options, c.files)
	unseen := c.options
	unseen.Observer, unseen.Logger = noObserver{}, slog.New(slog.DiscardHandler)
	c.guests, c.guestSessions = newNetwork(&unseen, c.files), tls.NewLRUClientSessionCache(8)
	if o.Mode == Sentinel {
		c.sentinels = newSentinels(c)
	}
	c.dialer = c.newDialer()
	c.dialer.greeted = func(addr string) {
		if conns := c.conns.Load(); conns != nil {
			go c.protect(conns, addr)
		}
	}
	c.clock = newClock(o.Now)
	if o.Mode == Embedded {
		if c.embedded, err = embedded.Start(); err != nil {
			return nil, err
		}
	} else {
		// The embedded store pushes no invalidations, and a round trip to it costs nothing.
		c.Near = near.New(o.NearCacheBytes, o.NearCacheTTL)
	}
	return c, nil
}

// Mode returns the kind of Redis.
func (c *Client) Mode() Mode { return c.options.Mode }

// Version returns the version that Redis reports, such as "7.0.15" or "valkey 8.0.1"; empty before Connect has succeeded.
func (c *Client) Version() string {
	if v := c.version.Load(); v != nil {
		return *v
	}
	return ""
}

// CommandTimeout returns the bound of one round trip.
func (c *Client) CommandTimeout() time.Duration { return c.options.CommandTimeout }

// Lifetime returns a context that ends with Stop, for work that no request waits for.
func (c *Client) Lifetime() context.Context { return c.lifetime }

// InFlight returns the number of round trips in flight.
func (c *Client) InFlight() int64 {
	n := len(c.common)
	c.shares.Range(func(_, s any) bool {
		n += len(s.(share))
		return true
	})
	return int64(n)
}

// Stop ends Lifetime and with it the client's own work. Round trips still succeed until Close.
func (c *Client) Stop() { c.stop() }

// Close stops the client and closes every connection. Round trips in flight fail.
func (c *Client) Close() {
	c.stop()
	if conns := c.conns.Load(); conns != nil {
		conns.close()
	}
	if c.embedded != nil {
		c.embedded.Close()
	}
}

// bulkNodes returns the connections of Bulk by address, none if they are those of Primary.
func (c *Conns) bulkNodes() map[string]rueidis.Client {
	if c.Bulk == c.Primary {
		return nil
	}
	return c.Bulk.Nodes()
}

// trackedNodes returns the tracked connections by address, none if they are those of Primary.
func (c *Conns) trackedNodes() map[string]rueidis.Client {
	if c.Tracked == c.Primary {
		return nil
	}
	return c.Tracked.Nodes()
}

func (c *Conns) close() {
	c.Primary.Close()
	if c.Tracked != c.Primary {
		c.Tracked.Close()
	}
	if c.Bulk != nil && c.Bulk != c.Primary {
		c.Bulk.Close()
	}
}
