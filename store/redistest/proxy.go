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

	listener  net.Listener
	accepting chan struct{} // closed once it accepts no more

	mu     sync.Mutex
	target string
	links  map[*link]struct{}
	open   chan struct{} // closed while traffic may flow
	delay  time.Duration
	refuse bool
	drop   bool
	slice  bool
	// only is what a client must have sent, one of these, for its connection
	// to be in the black hole; none for all.
	only []string
	rate int // bytes per second from client to server, 0 for no limit
}

// StartProxy listens on a free loopback port until the test ends.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p, err := startProxy(target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.stop)
	return p
}

func startProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		Addr:      l.Addr().String(),
		listener:  l,
		target:    target,
		links:     map[*link]struct{}{},
		open:      make(chan struct{}),
		accepting: make(chan struct{}),
	}
	close(p.open)
	go func() {
		defer close(p.accepting)
		p.accept()
	}()
	return p, nil
}

func (p *Proxy) stop() {
	p.listener.Close()
	<-p.accepting
	p.CutAll()
}

// port returns the port of Addr.
func (p *Proxy) port() string {
	_, port, _ := net.SplitHostPort(p.Addr)
	return port
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
		p.only = nil
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
// begun with a text that holds one of these.
func (p *Proxy) BlackholeOnly(texts ...string) {
	p.set(func() { p.only = texts })
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

// Throttle limits how many bytes per second flow from client to server, on
// connections made after the call; 0 is no limit. Little of what is on its way
// is held by the proxy: it waits in the client's kernel.
func (p *Proxy) Throttle(bytesPerSecond int) { p.set(func() { p.rate = bytesPerSecond }) }

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
			l := &link{done: make(chan struct{}), rate: p.rate}
			l.ctx, l.cancel = context.WithCancel(context.Background())
			p.links[l] = struct{}{}
			go p.serve(l, client)
		}
		p.mu.Unlock()
	}
}
