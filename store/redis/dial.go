package redis

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
	// Connecting is retried after 50 ms, doubling to 5 s, without limit.
	backoffFirst = 50 * time.Millisecond
	backoffMax   = 5 * time.Second

	dialTimeout = time.Second
	// rueidis pings a connection that is silent for keepAlive and closes it if no answer comes within writeTimeout: together
	// they bound how long a dead network goes unnoticed.
	keepAlive    = time.Second
	writeTimeout = time.Second
	// unacknowledged bounds how long the kernel tries to deliver what was sent, as rueidis' pings do with what is not answered.
	unacknowledged = keepAlive + writeTimeout
)

// errDial marks errors of opening a connection: no command was sent.
var errDial = errors.New("redis cannot be reached")

// backoff returns the wait after a number of failures in a row: 50 ms doubling to 5 s, less up to half of it at random, so
// that replicas do not all connect at once.
func backoff(failures int) time.Duration {
	d := backoffMax
	if shift := failures - 1; shift < 7 {
		d = min(backoffFirst<<shift, backoffMax)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, guards nothing
}

// dialer opens the network connections of rueidis, which dials for every failing command: after a failure, dialling the same
// address fails at once until the backoff has passed.
type dialer struct {
	options *Options
	mu      sync.Mutex
	down    map[string]*downAddr
	// busy counts the connections that are being made, until the greeting is answered or the connection ends, and the lost
	// ones that were not made again yet, for at most lostFor.
	busy atomic.Int64
	lost map[string][]func() // by address, functions that end the counting of one lost connection
}

type downAddr struct {
	failures int
	last     error // the error of attempts before next
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
		return &watchedConn{Conn: conn, raw: reset(conn), dialer: d, addr: addr, ctx: ctx, settled: sync.OnceFunc(func() { d.busy.Add(-1) })}, nil
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

// reset makes a connection end with a reset, and returns it without TLS: what was written and not delivered by then must not
// be delivered later, when the calls that wrote it have failed and others have written anew. Closing would by default leave
// that to the kernel, which goes on for minutes.
func reset(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that has ended
	}
	return conn
}

// failed starts or prolongs the backoff of an address and returns the number of failures in a row.
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
	if ctx.Err() == nil { // the deadline of a caller says nothing about Redis
		down.failures++
		down.last = err
		down.next = time.Now().Add(backoff(down.failures))
	}
	return down.failures
}

// answered ends the backoff of an address and the counting of one lost connection to it.
func (d *dialer) answered(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.down, addr)
	if lost := d.lost[addr]; len(lost) > 0 {
		lost[0]()
		d.lost[addr] = lost[1:]
	}
}

// lostFor is how long a lost connection counts that is never made again, as to a node that has left a cluster.
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

// maxLost bounds the lost connections counted for one address: there are a few connections to each.
const maxLost = 16

// watchedConn reports its own end. If the greeting was not answered, or was answered by an error, it counts as a connection
// that could not be opened: a proxy may have no server behind it, and Redis may have too many clients. rueidis sends no
// command before the greeting is answered. The type hides the TCP_NODELAY switch, which only DisableTCPNoDelay would use.
type watchedConn struct {
	net.Conn
	raw    net.Conn // without TLS, whose Close would first try to send a farewell
	dialer *dialer
	addr   string
	ctx    context.Context //nolint:containedctx // of the caller that dialled; only its error is used
	heard  atomic.Bool     // whether an answer came that is no error
	silent sync.Once       // a connection that ends before that counts as one failure
	once   sync.Once
	// settled ends the counting of the connection as one that is being made.
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
	return c.raw.Close()
}
