package redistest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy forwards TCP connections to a target and misbehaves on request. Its
// faults apply to traffic after the call and can be combined.
type Proxy struct {
	// Addr is the host:port to connect to instead of the target.
	Addr string

	listener net.Listener

	mu     sync.Mutex
	target string
	links  map[*link]struct{}
	open   chan struct{} // closed while traffic may flow
	delay  time.Duration
	refuse bool
	drop   bool
	slice  bool
	only   string // what a client must have sent for its connection to be in the black hole; empty for all
}

// StartProxy listens on a free loopback port until the test ends.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{
		Addr:     l.Addr().String(),
		listener: l,
		target:   target,
		links:    map[*link]struct{}{},
		open:     make(chan struct{}),
	}
	close(p.open)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		p.accept()
	}()
	tb.Cleanup(func() {
		l.Close()
		<-accepting
		p.CutAll()
	})
	return p
}

// CutAll closes all connections, on both sides, before it returns. The proxy
// keeps accepting new ones.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.cancel()
		<-l.done
	}
}

// Blackhole keeps connections, new ones included, open without forwarding
// anything in either direction. What arrives meanwhile, even a side closing,
// is held back until it is switched off.
func (p *Proxy) Blackhole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !on {
		p.only = ""
	}
	select {
	case <-p.open:
		if on {
			p.open = make(chan struct{})
		}
	default:
		if !on {
			close(p.open)
		}
	}
}

// BlackholeOnly is a black hole for those connections alone whose client has
// begun with a text that holds this one.
func (p *Proxy) BlackholeOnly(text string) {
	p.set(func() { p.only = text })
	p.Blackhole(true)
}

// Refuse closes new connections at once.
func (p *Proxy) Refuse(on bool) { p.set(func() { p.refuse = on }) }

// Delay adds latency, not a limit of throughput, from server to client.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// DropReplies swallows what the server sends. A connection that lost a reply
// is out of step when it is switched off, so CutAll should come with that.
func (p *Proxy) DropReplies(on bool) { p.set(func() { p.drop = on }) }

// Slice forwards one byte at a time from server to client.
func (p *Proxy) Slice(on bool) { p.set(func() { p.slice = on }) }

// SetTarget changes where new connections go.
func (p *Proxy) SetTarget(addr string) { p.set(func() { p.target = addr }) }

// Conns returns the number of open connections.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.refuse {
			client.Close()
		} else {
			l := &link{done: make(chan struct{})}
			l.ctx, l.cancel = context.WithCancel(context.Background())
			p.links[l] = struct{}{}
			go p.serve(l, client)
		}
		p.mu.Unlock()
	}
}
