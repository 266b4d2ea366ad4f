package store

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// watchCheck is how often the connections of watches are looked after.
const watchCheck = 250 * time.Millisecond

// watchConn is the connection to one primary over which it broadcasts. Redis answers and pushes in order on one connection:
// as long as it lasts nothing is missed, however late an answer is. It is a client of its own for each primary, since a
// client of a cluster makes and drops connections that nobody needs, and does not say which one was lost.
type watchConn struct {
	addr    string
	tracker *tracker
	client  rueidis.Client // nil before the first connection was made
	// dials counts the network connections made, and whole is what it was when the connection last proved to be whole.
	dials atomic.Int64
	whole int64
	// left means that the connection is no longer wanted, and that its end tells nothing.
	left atomic.Bool
}

// watchNamespace begins to make the connections of a namespace.
func (s *Store) watchNamespace(namespace string) *namespaceWatch {
	ctx, cancel := context.WithCancel(s.lifetime)
	n := &namespaceWatch{
		store: s, namespace: namespace, stop: cancel, dialer: &dialer{options: &s.options},
		conns: make(map[string]*watchConn), begun: make(chan struct{}), watchers: make(map[*watcher]struct{}),
	}
	if s.options.Mode == Embedded { // it has no other writer than this process, which tells
		close(n.begun)
		return n
	}
	go func() {
		defer n.close()
		if n.failed = n.check(ctx); n.failed != nil {
			// Whoever comes from here on makes another attempt.
			s.watches.mu.Lock()
			s.watches.remove(n)
			s.watches.mu.Unlock()
		}
		close(n.begun)
		n.look(ctx)
	}()
	return n
}

// look keeps the connections until ctx ends.
func (n *namespaceWatch) look(ctx context.Context) {
	tick := time.NewTicker(watchCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = n.check(ctx) // what could not be done is done by the next one
		}
	}
}

// check has a connection to every primary, and to no other node, and makes anew those that were lost. When anything has
// changed the watchers are told to start over, because what was written meanwhile was missed. It fails unless all is whole.
func (n *namespaceWatch) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.store.options.CommandTimeout)
	defer cancel()
	primaries, failed := n.primaries(ctx)
	changed := false
	for addr, c := range n.conns {
		if !slices.Contains(primaries, addr) {
			c.close()
			delete(n.conns, addr)
			changed = true
		}
	}
	type result struct {
		renewed bool
		err     error
	}
	results := make(chan result, len(primaries))
	for _, addr := range primaries {
		c := n.conns[addr]
		if c == nil {
			c = n.connTo(addr)
			n.conns[addr] = c
		}
		go func() {
			renewed, err := c.check(ctx, n.store)
			results <- result{renewed, err}
		}()
	}
	for range primaries {
		r := <-results
		changed = changed || r.renewed
		if r.err != nil {
			failed = r.err
		}
	}
	if changed {
		n.tell(WatchEvent{Kind: WatchReset})
	}
	return failed
}

// primaries returns the addresses of the primaries, and an error if there may be others. Where one does not answer, what
// was known before is taken to hold.
func (n *namespaceWatch) primaries(ctx context.Context) (addrs []string, failed error) {
	s := n.store
	clients := s.clients.Load()
	if clients == nil {
		return nil, &opError{kind: ErrUnavailable, cause: errors.New("not connected yet")}
	}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for addr, node := range clients.primary.Nodes() {
		if s.options.Mode != Cluster {
			return []string{addr}, nil
		}
		asked.Go(func() {
			primary, err := isPrimary(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				primary = n.conns[addr] != nil
				if was, known := s.roles.Load(addr); !primary && (!known || was == true) {
					failed = classify(ctx, err, reads)
				}
			}
			if primary {
				addrs = append(addrs, addr)
			}
		})
	}
	asked.Wait()
	return addrs, failed
}

// connTo returns a connection that is yet to be made.
func (n *namespaceWatch) connTo(addr string) *watchConn {
	c := &watchConn{addr: addr}
	options := []string{"BCAST"}
	if before, _ := n.store.cacheKeyParts(n.namespace); before != "" { // in the plain namespace every key may be one of it
		tags := tagKey(n.namespace, "")
		options = append(options, "PREFIX", before, "PREFIX", tags[:len(tags)-1], "PREFIX", clearKey(n.namespace))
	}
	c.tracker = &tracker{
		addr: addr, options: options,
		told: func(keys []rueidis.RedisMessage) { n.told(c, keys) },
		dial: func(ctx context.Context, addr string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
			conn, err := n.dialer.dial(ctx, addr, d, config)
			if err == nil {
				c.dials.Add(1)
			}
			return conn, err
		},
	}
	return c
}

// told is called by rueidis with the keys that Redis says were written; nil means that the connection was lost or that all
// data was flushed.
func (n *namespaceWatch) told(c *watchConn, keys []rueidis.RedisMessage) {
	if keys == nil && !c.left.Load() {
		n.tell(WatchEvent{Kind: WatchReset})
	}
	for _, k := range keys {
		if key, err := k.ToString(); err == nil {
			n.written(key)
		}
	}
}

func (n *namespaceWatch) close() {
	for _, c := range n.conns {
		c.close()
	}
}

// check asks for a sign of life, which makes the connection if there is none, and returns whether it is another one than at
// the last success.
func (c *watchConn) check(ctx context.Context, s *Store) (renewed bool, err error) {
	if c.client == nil {
		client, err := s.newClient(c.tracker)
		if err != nil {
			return false, s.opening(err)
		}
		c.client = client
	}
	if err := c.client.Do(ctx, c.client.B().Ping().Build()).Error(); err != nil {
		return false, classify(ctx, err, reads)
	}
	// Connections are made by this goroutine alone, so that the answer came over the last one.
	dials := c.dials.Load()
	renewed = dials != c.whole
	c.whole = dials
	return renewed, nil
}

func (c *watchConn) close() {
	c.left.Store(true)
	if c.client != nil {
		// Closing can take a second where Redis is stalled, and nobody waits for it.
		go c.client.Close()
	}
}
