package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// rueidis pings a connection that is silent for keepAlive and closes it if no answer comes within writeTimeout: together
	// they bound how long a dead network goes unnoticed.
	keepAlive = time.Second
	// leastTimeout is the least of what follows from CommandTimeout: calls that are answered from afar take long to dial, too.
	leastTimeout = time.Second
)

// dialTimeout bounds the opening of a connection, and the wait for the answer to its greeting: 1 s, or CommandTimeout if that is
// longer. With TLS the opening takes two or three round trips.
func (o *Options) dialTimeout() time.Duration { return max(leastTimeout, o.CommandTimeout) }

// writeTimeout bounds the wait for the answer to a ping of a silent connection: 1 s, or half of CommandTimeout if that is longer.
func (o *Options) writeTimeout() time.Duration { return max(leastTimeout, o.CommandTimeout/2) }

// unacknowledged bounds how long the kernel tries to deliver what was sent, as rueidis' pings do with what is not answered.
func (o *Options) unacknowledged() time.Duration { return keepAlive + o.writeTimeout() }

// errDial marks errors of opening a connection: no command was sent.
var errDial = errors.New("redis cannot be reached")

// control sets what a network connection begins with. Where the kernel refuses, rueidis' pings have to do.
func (o *Options) control(_, _ string, c syscall.RawConn) error {
	_ = boundUnacknowledged(c, o.unacknowledged())
	return nil
}

// dialer opens network connections for rueidis. Several dialers share a network and differ in what the connections are for.
type dialer struct {
	network *network
	// resolve returns the address to dial instead of the given one, if set: that of the primary that sentinels name.
	resolve func(ctx context.Context) (string, error)
	// failed is called when a connection could not be opened, if set.
	failed func()
	// greeted is called when a connection to an address has been greeted, if set. It must not block.
	greeted func(addr string)
	// anyRole accepts servers that are no primaries: the nodes of a cluster, and sentinels.
	anyRole bool

	// busy counts the connections that are being made, until the greeting is answered or the connection ends, and the lost
	// ones that were not made again yet, for at most lostFor.
	busy atomic.Int64
	mu   sync.Mutex
	lost map[string][]func() // by address, functions that end the counting of one lost connection
}

func (d *dialer) dial(ctx context.Context, addr string, nd *net.Dialer, tc *tls.Config) (net.Conn, error) {
	start := time.Now()
	if err := d.network.begin(addr); err != nil {
		return nil, err
	}
	d.busy.Add(1)
	settled := sync.OnceFunc(func() { d.busy.Add(-1) })
	conn, target, err := d.open(ctx, addr, nd, tc)
	if err == nil {
		c := &watchedConn{
			Conn: conn, raw: reset(conn), dialer: d, addr: addr, target: target, opened: start, ctx: ctx, settled: settled,
		}
		d.network.add(c)
		d.network.options.Observer.Connection(Dialed, 1, nil)
		return c, nil
	}
	settled()
	err = fmt.Errorf("%w: %w", errDial, err)
	d.network.options.Observer.Connection(DialFailed, d.fail(ctx, addr, start, err), err)
	return nil, err
}

// fail counts an attempt to connect that has failed, and returns the number of those in a row.
func (d *dialer) fail(ctx context.Context, addr string, start time.Time, err error) int {
	if d.failed != nil && ctx.Err() == nil {
		d.failed()
	}
	return d.network.failed(ctx, addr, start, err)
}

// open opens a connection, and returns it with the address that it leads to.
func (d *dialer) open(ctx context.Context, addr string, nd *net.Dialer, tc *tls.Config) (conn net.Conn, target string, err error) {
	if d.resolve != nil {
		if addr, err = d.resolve(ctx); err != nil {
			return nil, "", err
		}
	}
	if nd.Timeout > 0 { // for both
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, nd.Timeout)
		defer cancel()
	}
	kind, at, host := d.network.options.dialled(addr)
	conn, err = nd.DialContext(ctx, kind, at)
	if err == nil && tc != nil {
		conn, err = d.network.secure(ctx, conn, tc, host)
	}
	return conn, addr, err
}

// dialled returns the kind of network, the address that is dialled for an address, and its host.
func (o *Options) dialled(addr string) (kind, at, host string) {
	if strings.HasPrefix(addr, "/") {
		return "unix", addr, "localhost"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "tcp", addr, addr
	}
	to, ok := o.AddressMap[addr]
	if !ok {
		if to, ok = o.AddressMap[host]; !ok {
			return "tcp", addr, host
		}
	}
	if toHost, toPort, err := net.SplitHostPort(to); err == nil {
		return "tcp", net.JoinHostPort(toHost, toPort), toHost
	}
	return "tcp", net.JoinHostPort(to, port), to
}

// answered ends the backoff of an address and the counting of one lost connection to it.
func (d *dialer) answered(addr string) {
	d.network.answered(addr)
	if d.greeted != nil {
		d.greeted(addr)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
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
