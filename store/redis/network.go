package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Connecting is retried after 50 ms, doubling to 5 s, without limit.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMax   = 5 * time.Second
)

// backoff returns the wait after a number of failures in a row: 50 ms doubling to 5 s, less a tenth to a half of it at random,
// so that replicas do not all connect at once and that 5 s are enough to connect to a server that is back.
func backoff(failures int) time.Duration {
	d := backoffMax
	if shift := failures - 1; shift < 7 {
		d = min(backoffFirst<<shift, backoffMax)
	}
	return d/2 + rand.N(d*2/5) //nolint:gosec // spreads load, guards nothing
}

// network is what all connections of a client to Redis share, whatever they are for: the backoff of each address, and the
// open connections, to close those to a server that must not be used any more.
type network struct {
	options *Options
	files   *files

	mu   sync.Mutex
	down map[string]*downAddr
	// refused are addresses that are not dialled at all, and why.
	refused map[string]error
	conns   map[*watchedConn]struct{}
}

// downAddr is an address of which the last attempt to connect has failed.
type downAddr struct {
	failures int   // in a row
	last     error // the error of attempts before next
	next     time.Time
	trying   bool // whether an attempt is under way
}

func newNetwork(o *Options, f *files) *network {
	return &network{options: o, files: f, down: make(map[string]*downAddr), conns: make(map[*watchedConn]struct{})}
}

// errRefused is the reason of an address that others say must not be used.
var errRefused = errors.New("the other nodes of the cluster have replaced it")

// begin allows an attempt to connect to an address, or returns why there must be none now: rueidis dials for every failing
// command, and each step of the backoff allows one attempt.
func (n *network) begin(addr string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refused[addr]; err != nil {
		return fmt.Errorf("%w: %w", errDial, err)
	}
	down := n.down[addr]
	if down == nil {
		return nil
	}
	if down.trying || time.Now().Before(down.next) {
		return down.last
	}
	down.trying = true
	return nil
}

// failed starts or prolongs the backoff of an address after an attempt that began at start, and returns the number of
// failures in a row.
func (n *network) failed(ctx context.Context, addr string, start time.Time, err error) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	down := n.down[addr]
	if ctx.Err() != nil { // the deadline of a caller says nothing about Redis
		if down == nil {
			return 0
		}
		down.trying = false
		return down.failures
	}
	if down == nil {
		down = new(downAddr)
		n.down[addr] = down
	}
	down.trying, down.last = false, err
	if down.failures == 0 || !start.Before(down.next) { // attempts side by side are one step
		down.failures++
		down.next = time.Now().Add(backoff(down.failures))
		level := slog.LevelDebug
		if down.failures == 1 { // the others of a row say no more, and come every few seconds
			level = slog.LevelWarn
		}
		n.options.Logger.Log(ctx, level, "connecting to redis failed", "attempt", down.failures, "error", err)
	}
	return down.failures
}

// answered ends the backoff of an address.
func (n *network) answered(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.down, addr)
}

func (n *network) add(c *watchedConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[c] = struct{}{}
}

func (n *network) remove(c *watchedConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// refuse replaces the addresses that are not dialled, and closes the connections to them.
func (n *network) refuse(addrs map[string]bool) {
	refused := make(map[string]error, len(addrs))
	for addr := range addrs {
		refused[addr] = errRefused
	}
	n.mu.Lock()
	n.refused = refused
	n.mu.Unlock()
	n.drop(errRefused.Error(), func(c *watchedConn) bool { return addrs[c.addr] })
}

// refuses reports whether an address is not dialled at all.
func (n *network) refuses(addr string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[addr] != nil
}

// drop closes the connections that which selects, and with each what the near cache holds. It logs why.
func (n *network) drop(why string, which func(c *watchedConn) bool) {
	n.mu.Lock()
	var conns []*watchedConn
	for c := range n.conns {
		if which(c) {
			conns = append(conns, c)
		}
	}
	n.mu.Unlock()
	if len(conns) == 0 {
		return
	}
	n.options.Logger.Warn("connections to redis are closed", "connections", len(conns), "reason", why)
	for _, c := range conns {
		_ = c.Close() // it is given up
	}
}

// openedBefore selects connections that were opened before a point in time.
func openedBefore(t time.Time) func(c *watchedConn) bool {
	return func(c *watchedConn) bool { return c.opened.Before(t) }
}

// leadElsewhere selects connections to any address but one.
func leadElsewhere(addr string) func(c *watchedConn) bool {
	return func(c *watchedConn) bool { return c.target != addr }
}

// has reports whether there is a connection that which selects.
func (n *network) has(which func(c *watchedConn) bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if which(c) {
			return true
		}
	}
	return false
}
