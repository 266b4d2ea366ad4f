package service

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxReceiving is the maximum number of requests that are received at a time. Each may take a few times the maximum size of a
	// message until it is decoded.
	maxReceiving = 16
	// receivingFor is how long a request counts as one that is being received: a caller whose network is slow, or who sends nothing,
	// keeps the others from sending no longer.
	receivingFor = 250 * time.Millisecond
	// receiveTimeout is how long a request waits to be received before it is refused.
	receiveTimeout = 2 * time.Second
	// smallRequest is the size of requests that are not counted: the number of calls in flight bounds them.
	smallRequest = 16 << 10
)

// receiving bounds the memory that large requests take: a few of them are read at a time, and the bytes of those that were read are
// bounded together.
type receiving struct {
	gate gate
	max  int64
	held atomic.Int64
	load *load
}

// A reception is the receiving of the request of one call. The zero value has no bounds.
type reception struct {
	*receiving
	place   *place // in the gate; nil for none
	counted int64  // of receiving.held
}

// begin is called when the size of a request is known, before its bytes are read. It refuses the request if it is beyond the bounds.
// What a compressed request will take is not known yet.
func (r *reception) begin(ctx context.Context, size int, compressed bool) error {
	if r.receiving == nil || size <= smallRequest && !compressed {
		return nil
	}
	place, ok := r.gate.enter(ctx)
	if !ok {
		return r.refuse()
	}
	r.place = place
	if compressed {
		return nil
	}
	return r.hold(size)
}

// hold counts the bytes of a request, unless it is small, and refuses it if that are too many; one always fits.
func (r *reception) hold(size int) error {
	if r.receiving == nil || size <= smallRequest {
		return nil
	}
	if now := r.held.Add(int64(size)); now > r.max && now != int64(size) {
		r.held.Add(-int64(size))
		return r.refuse()
	}
	r.counted = int64(size)
	return nil
}

func (r *reception) refuse() error {
	r.load.shed.Add(1)
	return errOverloaded
}

// received makes room for the next to be received.
func (r *reception) received() {
	if r.place != nil {
		r.gate.leave(r.place)
	}
}

// end is called when the call has ended.
func (r *reception) end() {
	if r.counted > 0 {
		r.held.Add(-r.counted)
	}
}

// A gate lets a number of callers in at a time. Those who stay for longer than receivingFor do not count any more.
type gate struct {
	max int

	mu      sync.Mutex
	inside  []*place // in the order in which they came
	waiting []*place
}

// place is that of one caller.
type place struct {
	since time.Time     // when it came in
	in    chan struct{} // closed when it comes in, if it had to wait
}

// enter waits until the caller may come in. It returns false if that takes too long.
func (g *gate) enter(ctx context.Context) (*place, bool) {
	p := new(place)
	g.mu.Lock()
	if len(g.waiting) == 0 && len(g.inside) < g.max {
		p.since = time.Now()
		g.inside = append(g.inside, p)
		g.mu.Unlock()
		return p, true
	}
	p.in = make(chan struct{})
	g.waiting = append(g.waiting, p)
	g.admit()
	g.mu.Unlock()

	looks, timeout := time.NewTicker(receivingFor/4), time.NewTimer(receiveTimeout)
	defer looks.Stop()
	defer timeout.Stop()
	for {
		select {
		case <-p.in:
			return p, true
		case <-looks.C:
			g.mu.Lock()
			g.admit()
			g.mu.Unlock()
			continue
		case <-timeout.C:
		case <-ctx.Done():
		}
		return p, !g.giveUp(p)
	}
}

// giveUp removes a caller from those who wait, and returns false if it came in just then.
func (g *gate) giveUp(p *place) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.Index(g.waiting, p)
	if at >= 0 {
		g.waiting = slices.Delete(g.waiting, at, at+1)
	}
	return at >= 0
}

// admit lets in those who wait, in their order, as far as there is room. The lock must be held.
func (g *gate) admit() {
	now := time.Now()
	for len(g.inside) > 0 && now.Sub(g.inside[0].since) > receivingFor {
		g.inside = g.inside[1:]
	}
	for len(g.waiting) > 0 && len(g.inside) < g.max {
		p := g.waiting[0]
		g.waiting = g.waiting[1:]
		p.since = now
		g.inside = append(g.inside, p)
		close(p.in)
	}
}

// leave makes room for the next.
func (g *gate) leave(p *place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := slices.Index(g.inside, p); at >= 0 {
		g.inside = slices.Delete(g.inside, at, at+1)
	}
	if len(g.waiting) > 0 {
		g.admit()
	}
}
