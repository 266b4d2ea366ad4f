package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// BroadcastCheck is how often a [Broadcast] checks its connections.
const BroadcastCheck = 250 * time.Millisecond

// A Broadcast receives the name of every key with one of its prefixes that is written on any primary (CLIENT TRACKING BCAST).
// It has one connection to each primary, apart from those of requests.
type Broadcast struct {
	client   *Client
	prefixes []string // empty means every key
	written  func(key string)
	reset    func()
	stop     context.CancelFunc
	// dialer is apart from that of requests, which must not wait for these connections.
	dialer *dialer
	// conns are the connections by address. One goroutine uses them.
	conns map[string]*broadcastConn
	moves moves
	// begun is closed once the connections are made, or err says why they could not be.
	begun chan struct{}
	err   error
}

// Broadcast calls written with each key that is written and begins with one of the prefixes, none meaning every key. It calls
// reset if keys may have been missed: a connection was lost, and again once it is back, the primaries have changed, a slot has
// another owner without its keys having been told as they moved, or all data was flushed. Both are called concurrently and must
// not block. The caller must call Close.
func (c *Client) Broadcast(prefixes []string, written func(key string), reset func()) *Broadcast {
	ctx, cancel := context.WithCancel(c.lifetime)
	b := &Broadcast{
		client: c, prefixes: prefixes, written: written, reset: reset, stop: cancel,
		dialer: c.newDialer(), conns: make(map[string]*broadcastConn), begun: make(chan struct{}),
	}
	if c.options.Mode == Embedded { // this process is its only writer
		done := c.OnEmbeddedWrite(func(key string) {
			if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
				written(key)
			}
		})
		b.stop = func() { done(); cancel() }
		close(b.begun)
		return b
	}
	go func() {
		defer b.closeConns()
		b.err = b.check(ctx)
		close(b.begun)
		b.keep(ctx)
	}()
	return b
}

// Begun returns a channel that is closed once the connections are made, or could not be.
func (b *Broadcast) Begun() <-chan struct{} { return b.begun }

// Err returns why the connections could not be made, nil if they were. It may be called once Begun is closed.
func (b *Broadcast) Err() error { return b.err }

// Close ends the broadcast. Keys may still be told for a moment.
func (b *Broadcast) Close() { b.stop() }

// keep checks the connections until ctx ends.
func (b *Broadcast) keep(ctx context.Context) {
	tick := time.NewTicker(BroadcastCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = b.check(ctx) // the next check repeats what has failed
		}
	}
}

// check connects to every primary and to no other node, renews lost connections, and calls reset if anything has changed:
// what was written meanwhile was missed. It fails unless every connection is whole.
func (b *Broadcast) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.client.options.CommandTimeout)
	defer cancel()
	primaries, failed := b.primaries(ctx)
	changed := false
	for addr, c := range b.conns {
		if !slices.Contains(primaries, addr) {
			c.close()
			delete(b.conns, addr)
			changed = true
		}
	}
	type result struct {
		renewed bool
		err     error
	}
	results := make(chan result, len(primaries))
	for _, addr := range primaries {
		c := b.conns[addr]
		if c == nil {
			c = b.connTo(addr)
			b.conns[addr] = c
		}
		go func() {
			var r result
			defer func() { results <- r }()
			defer b.client.recovered(&r.err)
			r.renewed, r.err = c.check(ctx, b.client)
		}()
	}
	for range primaries {
		r := <-results
		changed = changed || r.renewed
		if r.err != nil {
			failed = r.err
		}
	}
	if b.moves.lost(b.client.slotOwners.Load()) || changed {
		b.reset()
	}
	return failed
}

// primaries returns the addresses of the primaries, and an error if there may be others. A node that does not answer is taken
// for what it was before.
func (b *Broadcast) primaries(ctx context.Context) (addrs []string, failed error) {
	c := b.client
	conns := c.conns.Load()
	if conns == nil {
		return nil, Fail(ErrUnavailable, errors.New("not connected yet"))
	}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for addr, node := range conns.Primary.Nodes() {
		if c.options.Mode != Cluster {
			return []string{addr}, nil
		}
		asked.Go(func() {
			primary, err := isPrimary(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !c.network.refuses(addr) {
				primary = b.conns[addr] != nil
				if was, known := c.roles.Load(addr); !primary && (!known || was == true) {
					failed = classify(ctx, err, Reads)
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

func (b *Broadcast) closeConns() {
	for _, c := range b.conns {
		c.close()
	}
}

// broadcastConn is the connection to one primary over which it broadcasts. Redis answers and pushes in order on one
// connection: while it lasts nothing is missed, however late an answer is. Each primary has a rueidis client of its own,
// since a cluster client opens and drops connections that nobody needs, and does not say which one was lost.
type broadcastConn struct {
	addr    string
	tracker *tracker
	client  rueidis.Client // nil before the first connection was made
	// dials counts the network connections made; whole is that count when the connection last answered.
	dials atomic.Int64
	whole int64
	// left means that the connection is no longer wanted: its end is no loss.
	left atomic.Bool
}

// connTo returns a connection that check will make.
func (b *Broadcast) connTo(addr string) *broadcastConn {
	c := &broadcastConn{addr: addr}
	options := append(make([]string, 0, 1+2*len(b.prefixes)), "BCAST")
	for _, p := range b.prefixes {
		options = append(options, "PREFIX", p)
	}
	c.tracker = &tracker{
		addr: addr, options: options,
		told: func(keys []rueidis.RedisMessage) { b.told(c, keys) },
		dial: func(ctx context.Context, addr string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
			conn, err := b.dialer.dial(ctx, addr, d, config)
			if err == nil {
				c.dials.Add(1)
			}
			return conn, err
		},
	}
	return c
}

// told is called by rueidis with written keys, or with nil if the connection was lost or all data was flushed.
func (b *Broadcast) told(c *broadcastConn, keys []rueidis.RedisMessage) {
	if keys == nil && !c.left.Load() {
		b.reset()
	}
	node, known := b.client.nodeIDs.Load(c.addr) // in a cluster
	for _, k := range keys {
		if key, err := k.ToString(); err == nil {
			if known {
				b.moves.told(node.(string), key)
			}
			b.written(key)
		}
	}
}

// check pings, which makes the connection if there is none, and returns whether it is another one than at the last success.
func (c *broadcastConn) check(ctx context.Context, client *Client) (renewed bool, err error) {
	if c.client == nil {
		rc, err := client.newClient(c.tracker)
		if err != nil {
			return false, connectError(err)
		}
		c.client = rc
	}
	// A Redis that cannot save its data refuses a PING (MISCONF), and pushes all the same.
	if err := c.client.Do(ctx, c.client.B().Ping().Build()).Error(); err != nil && !isMisconf(err) {
		return false, classify(ctx, err, Reads)
	}
	// Only this goroutine makes connections, so that the answer came over the last one.
	dials := c.dials.Load()
	if renewed = dials != c.whole; renewed && client.options.Mode != Embedded {
		client.protectOne(ctx, c.client)
	}
	c.whole = dials
	return renewed, nil
}

func (c *broadcastConn) close() {
	c.left.Store(true)
	if c.client != nil {
		// Closing takes up to a second if Redis stalls, and nobody waits for it.
		go c.client.Close()
	}
}
