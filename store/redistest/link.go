package redistest

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// link is one proxied connection.
type link struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed once both sides are
	begun  []byte        // what the client has sent first; guarded by Proxy.mu
	rate   int           // as in Proxy
}

// beginning is how much of what a client sends is remembered.
const beginning = 1 << 10

// chunk is data from the server, due at the client at a point in time.
type chunk struct {
	data []byte
	due  time.Time
}

// serve forwards between client and target until either closes or the link is
// cancelled.
func (p *Proxy) serve(l *link, client net.Conn) {
	var pumps sync.WaitGroup
	defer func() {
		l.cancel()
		client.Close()
		pumps.Wait()
		p.set(func() { delete(p.links, l) })
		close(l.done)
	}()
	if !p.pass(l) {
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := new(net.Dialer).DialContext(l.ctx, "tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	replies := make(chan chunk, 256)
	pumps.Go(func() { p.sendRequests(l, client, server) })
	pumps.Go(func() { p.readReplies(l, server, replies) })
	pumps.Go(func() { p.sendReplies(l, client, replies) })
	<-l.ctx.Done()
}

// pass waits while the proxy is a black hole; false means the link is over.
func (p *Proxy) pass(l *link) bool {
	p.mu.Lock()
	open := p.open
	held := len(p.only) == 0 || slices.ContainsFunc(p.only, func(text string) bool { return bytes.Contains(l.begun, []byte(text)) })
	p.mu.Unlock()
	if !held {
		return l.ctx.Err() == nil
	}
	select {
	case <-open:
		return l.ctx.Err() == nil
	case <-l.ctx.Done():
		return false
	}
}

func (p *Proxy) sendRequests(l *link, client, server net.Conn) {
	defer l.cancel()
	buf := make([]byte, 16<<10)
	if tcp, ok := client.(*net.TCPConn); ok && l.rate > 0 {
		_ = tcp.SetReadBuffer(len(buf))
	}
	for {
		n, err := client.Read(buf)
		if l.rate > 0 {
			select {
			case <-time.After(time.Duration(n) * time.Second / time.Duration(l.rate)):
			case <-l.ctx.Done():
				return
			}
		}
		p.set(func() { l.begun = append(l.begun, buf[:min(n, beginning-len(l.begun))]...) })
		if !p.pass(l) {
			return
		}
		if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (p *Proxy) readReplies(l *link, server net.Conn, replies chan<- chunk) {
	defer close(replies)
	for {
		buf := make([]byte, 16<<10)
		n, err := server.Read(buf)
		p.mu.Lock()
		drop, due := p.drop, time.Now().Add(p.delay)
		p.mu.Unlock()
		if n > 0 && !drop {
			select {
			case replies <- chunk{buf[:n], due}:
			case <-l.ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) sendReplies(l *link, client net.Conn, replies <-chan chunk) {
	defer l.cancel()
	for c := range replies {
		select {
		case <-time.After(time.Until(c.due)):
		case <-l.ctx.Done():
			return
		}
		for len(c.data) > 0 {
			if !p.pass(l) {
				return
			}
			n := len(c.data)
			p.set(func() {
				if p.slice {
					n = 1
				}
			})
			if _, err := client.Write(c.data[:n]); err != nil {
				return
			}
			c.data = c.data[n:]
		}
	}
}
