package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
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

// errBackoff is the answer to an attempt that comes too soon after a failed one.
var errBackoff = fmt.Errorf("%w: waiting before the next attempt", errDial)

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
}

type downAddr struct {
	failures int
	next     time.Time
}

func (d *dialer) dial(ctx context.Context, addr string, nd *net.Dialer, tc *tls.Config) (net.Conn, error) {
	d.mu.Lock()
	if down := d.down[addr]; down != nil && time.Now().Before(down.next) {
		d.mu.Unlock()
		return nil, errBackoff
	}
	d.mu.Unlock()

	var conn net.Conn
	var err error
	if tc != nil {
		conn, err = (&tls.Dialer{NetDialer: nd, Config: tc}).DialContext(ctx, "tcp", addr)
	} else {
		conn, err = nd.DialContext(ctx, "tcp", addr)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.down, addr)
		d.options.Observer.Connection(Dialed, 1, nil)
		return &watchedConn{Conn: conn, observer: d.options.Observer}, nil
	}
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
		down.next = time.Now().Add(backoff(down.failures))
	}
	d.options.Observer.Connection(DialFailed, down.failures, err)
	d.options.Logger.Debug("connecting to redis failed", "attempt", down.failures, "error", err)
	return nil, fmt.Errorf("%w: %w", errDial, err)
}

// watchedConn reports its end. It hides nothing that rueidis looks for in a connection but the TCP_NODELAY switch of
// DisableTCPNoDelay, which is not used.
type watchedConn struct {
	net.Conn
	observer Observer
	once     sync.Once
}

func (c *watchedConn) Close() error {
	c.once.Do(func() { c.observer.Connection(Closed, 1, nil) })
	return c.Conn.Close()
}
