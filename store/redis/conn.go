package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// watchedConn reports its own end. If the greeting was not answered, or was answered by an error or by a replica, it counts as
// a connection that could not be opened: a proxy may have no server behind it, and Redis may have too many clients. rueidis
// sends no command before the greeting is answered. The type hides the TCP_NODELAY switch, which only DisableTCPNoDelay would
// use.
type watchedConn struct {
	net.Conn
	raw    net.Conn // without TLS, whose Close would first try to send a farewell
	dialer *dialer
	addr   string // as rueidis knows it
	target string // that was dialled
	opened time.Time
	ctx    context.Context //nolint:containedctx // of the caller that dialled; only its error is used

	greeting []byte      // the answer to it so far
	heard    atomic.Bool // whether it was answered well
	silent   sync.Once   // a connection that ends before that counts as one failure
	once     sync.Once
	// settled ends the counting of the connection as one that is being made.
	settled func()
}

// reset makes a connection end with a reset, and returns it without TLS: what was written and not delivered by then must not
// be delivered later, when the calls that wrote it have failed and others have written anew. Closing would by default leave
// that to the kernel, which goes on for minutes.
func reset(conn net.Conn) net.Conn {
	if secure, ok := conn.(*securedConn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that has ended
	}
	return conn
}

// errReplica means that a server is not the primary. Its writes would be refused, and its reads be late.
var errReplica = errors.New("it is a replica, not a primary")

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.heard.Load() {
		return n, err
	}
	c.settled()
	first := len(c.greeting) == 0 && n > 0
	switch known, primary := c.greeted(b[:n]); {
	case first && b[0] == tlsAlert:
		n, err = 0, errTLSPort
	case known && primary:
		c.heard.Store(true)
		c.greeting = nil
		c.dialer.answered(c.addr)
	case known:
		n, err = 0, errReplica
	}
	if err != nil && !c.heard.Load() {
		err = fmt.Errorf("%w: %w", errDial, explain(c.Conn, err))
		c.fail(err)
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !c.heard.Load() { // no more than the greeting was sent
		err = fmt.Errorf("%w: %w", errDial, explain(c.Conn, err))
		c.fail(err)
	}
	return n, err
}

// tlsAlert begins the record with which a TLS server refuses what is no TLS.
const tlsAlert = 0x15

// mostGreeting is more than the answer to a greeting takes.
const mostGreeting = 4 << 10

var (
	roleField = []byte("\r\nrole\r\n$")
	lastField = []byte("\r\nmodules\r\n")
)

// greeted takes what was read and reports whether the answer to the greeting (HELLO) is known, and whether it is that of a
// server that may be used: HELLO tells the role. An error is no answer.
func (c *watchedConn) greeted(b []byte) (known, usable bool) {
	if len(b) == 0 || len(c.greeting) == 0 && b[0] == '-' {
		return false, false
	}
	c.greeting = append(c.greeting, b...)
	if c.dialer.anyRole || c.greeting[0] != '%' && c.greeting[0] != '*' || len(c.greeting) > mostGreeting {
		return true, true
	}
	if _, role, ok := bytes.Cut(c.greeting, roleField); ok {
		if _, role, ok := bytes.Cut(role, []byte("\r\n")); ok && len(role) > 0 { // "master" or "replica", after its length
			return true, role[0] != 'r' && role[0] != 's'
		}
		return false, false
	}
	return bytes.Contains(c.greeting, lastField), true
}

// fail counts the connection as one that could not be opened.
func (c *watchedConn) fail(err error) {
	c.silent.Do(func() { c.dialer.fail(c.ctx, c.addr, c.opened, err) })
}

func (c *watchedConn) Close() error {
	c.settled()
	c.once.Do(func() {
		c.dialer.network.remove(c)
		if c.heard.Load() {
			c.dialer.lose(c.addr)
		} else {
			c.fail(fmt.Errorf("%w: it does not answer", errDial))
		}
		c.dialer.network.options.Observer.Connection(Closed, 1, nil)
	})
	return c.raw.Close()
}
