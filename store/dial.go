package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// The backoff of connecting: 50 ms, doubling to 5 s, without end.
	backoffFirst = 50 * time.Millisecond
	backoffMax   = 5 * time.Second

	dialTimeout = time.Second
	// A connection that is silent for keepAlive is asked for a sign of life, and given up after writeTimeout: together
	// they bound how long a dead network goes unnoticed.
	keepAlive    = time.Second
	writeTimeout = time.Second
)

// errDial marks errors of opening a connection: the command was not sent.
var errDial = errors.New("redis cannot be reached")

// backoff returns the wait after so many failures in a row, from half to all of 50 ms doubling to 5 s: the spread keeps
// replicas from knocking all at once.
func backoff(failures int) time.Duration {
	d := backoffMax
	if shift := failures - 1; shift < 7 {
		d = min(backoffFirst<<shift, backoffMax)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, guards nothing
}

// dialer opens the network connections of rueidis, which would dial anew for every failing command: after a failure,
// attempts to the same address fail at once until the backoff has passed.
type dialer struct {
	options *Options
	mu      sync.Mutex
	down    map[string]*downAddr
	// busy counts the connections that are being made, up to the answer to the greeting or the end of each, and those
	// that were lost and not made again yet, for a while.
	busy atomic.Int64
	lost map[string][]func() // by address, what ends that a lost connection is counted
}

type downAddr struct {
	failures int
	last     error // what attempts before next are answered with
	next     time.Time
}

func (d *dialer) dial(ctx context.Context, addr string, nd *net.Dialer, tc *tls.Config) (net.Conn, error) {
	d.mu.Lock()
	if down := d.down[addr]; down != nil && time.Now().Before(down.next) {
		err := down.last
		d.mu.Unlock()
		return nil, err
	}
	d.mu.Unlock()

	d.busy.Add(1)
	var conn net.Conn
	var err error
	if tc != nil {
		conn, err = (&tls.Dialer{NetDialer: nd, Config: tc}).DialContext(ctx, "tcp", addr)
	} else {
		conn, err = nd.DialContext(ctx, "tcp", addr)
	}
	if err == nil {
		d.options.Observer.Connection(Dialed, 1, nil)
		return &watchedConn{Conn: conn, dialer: d, addr: addr, ctx: ctx, settled: sync.OnceFunc(func() { d.busy.Add(-1) })}, nil
	}
	d.busy.Add(-1)
	failed := fmt.Errorf("%w: %w", errDial, err)
	failures := d.failed(ctx, addr, failed)
	d.options.Observer.Connection(DialFailed, failures, err)
	level := slog.LevelDebug
	if failures == 1 { // the others of a row say no more, and come every few seconds
		level = slog.LevelWarn
	}
	d.options.Logger.Log(ctx, level, "connecting to redis failed", "attempt", failures, "error", err)
	return nil, failed
}

// failed begins or prolongs the backoff of an address and returns how many attempts have failed in a row.
func (d *dialer) failed(ctx context.Context, addr string, err error) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down == nil {
		d.down = make(map[string]*downAddr)
	}
	down := d.down[addr]
	if down == nil {
		down = new(downAddr)
		d.down[addr] = down
	}
	if ctx.Err() == nil { // a caller that ran out of time says nothing about Redis
		down.failures++
		down.last = err
		down.next = time.Now().Add(backoff(down.failures))
	}
	return down.failures
}

// answered ends the backoff of an address, and one connection to it is not lost any more.
func (d *dialer) answered(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.down, addr)
	if lost := d.lost[addr]; len(lost) > 0 {
		lost[0]()
		d.lost[addr] = lost[1:]
	}
}

// lostFor is how long a connection counts as lost that nobody makes again, as to a node that has left a cluster.
const lostFor = 2 * backoffMax

func (d *dialer) lose(addr string) {
	d.busy.Add(1)
	found := sync.OnceFunc(func() { d.busy.Add(-1) })
	time.AfterFunc(lostFor, found)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		d.lost = make(map[string][]func())
	}
	d.lost[addr] = append(d.lost[addr], found)
	if n := len(d.lost[addr]); n > maxLost {
		d.lost[addr] = d.lost[addr][n-maxLost:] // the older ones end by themselves
	}
}

// maxLost bounds what is remembered of one address: there are a few connections to each.
const maxLost = 16

// watchedConn reports its end. A connection whose greeting was not answered, or only by an error, counts as one that could
// not be opened: a proxy may have no server behind it, and Redis too many clients. Rueidis sends no command before that.
// It hides nothing that rueidis looks for in a connection but the TCP_NODELAY switch of DisableTCPNoDelay, which is not
// used.
type watchedConn struct {
	net.Conn
	dialer *dialer
	addr   string
	ctx    context.Context //nolint:containedctx // of the caller who dialled, and only asked why it ended
	heard  atomic.Bool     // an answer that is no error
	silent sync.Once       // what ends before that fails once
	once   sync.Once
	// settled says that the connection is no longer being made.
	settled func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.heard.Load() {
		return n, err
	}
	c.settled()
	if n > 0 && b[0] != '-' {
		c.heard.Store(true)
		c.dialer.answered(c.addr)
	} else if err != nil {
		err = fmt.Errorf("%w: %w", errDial, err)
		c.silent.Do(func() { c.dialer.failed(c.ctx, c.addr, err) })
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.settled()
	c.once.Do(func() {
		if c.heard.Load() {
			c.dialer.lose(c.addr)
		} else {
			c.silent.Do(func() { c.dialer.failed(c.ctx, c.addr, fmt.Errorf("%w: it does not answer", errDial)) })
		}
		c.dialer.options.Observer.Connection(Closed, 1, nil)
	})
	return c.Conn.Close()
}
