package service

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
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

// receiving bounds the memory that requests take. gRPC reads a request before the interceptors run, however large it is and
// however many others there are: so a few are received at a time, and the bytes of those that were are bounded together.
type receiving struct {
	gate gate
	max  int64
	held atomic.Int64
	load *load
}

// handler returns the handler of a unary method that receives its request within bounds. Requests beyond them are refused with the
// reason SERVER_OVERLOADED.
func (r *receiving) handler(method string, handle grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		place, ok := r.gate.enter(ctx)
		if !ok { // nothing of it was read
			return interceptor(ctx, nil, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, r.refuse)
		}
		size, fits := int64(0), true
		defer func() { r.held.Add(-size) }()
		receive := func(req any) error {
			defer r.gate.leave(place)
			err := decode(req)
			if m, isMessage := req.(proto.Message); isMessage && err == nil {
				if size, fits = r.hold(int64(proto.Size(m))); !fits {
					proto.Reset(m)
				}
			}
			return err
		}
		return handle(srv, ctx, receive, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if !fits {
				handler = r.refuse
			}
			return interceptor(ctx, req, info, handler)
		})
	}
}

// refuse is the handler of a call whose request was not taken.
func (r *receiving) refuse(context.Context, any) (any, error) {
	r.load.shed.Add(1)
	return nil, errOverloaded
}

// hold counts a request of a size, unless it is small. It returns what was counted, and whether the request fits: one always does.
func (r *receiving) hold(size int64) (counted int64, fits bool) {
	if size <= smallRequest {
		return 0, true
	}
	if now := r.held.Add(size); now > r.max && now != size {
		r.held.Add(-size)
		return 0, false
	}
	return size, true
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
