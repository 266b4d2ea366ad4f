package service

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/store/redis"
)

// An inFlight refuses calls while max calls are in flight. It has no queue: a waiting call costs memory and is late when
// its turn comes, whereas a caller that is refused at once can try another replica. Unary calls and streams have separate
// limits, so that long-lived watches do not crowd out short reads. A unary call that waits for another call does not count
// meanwhile: as many may wait besides.
type inFlight struct {
	max   int
	load  *load
	waits *waits
}

// waitingMethods are the methods whose calls may wait for other calls.
var waitingMethods = map[string]bool{
	cachev1.CacheService_GetOrLease_FullMethodName: true,
	lockv1.LockService_AcquireLock_FullMethodName:  true,
}

func (f inFlight) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !f.enter() {
		return nil, errOverloaded
	}
	defer f.leave()
	if waitingMethods[info.FullMethod] {
		ctx = redis.WithWaits(ctx, func() (func(), bool) {
			conn := connOf(ctx)
			if !f.waits.enter(conn) {
				return nil, false
			}
			f.leave()
			return func() {
				f.load.inFlight.Add(1) // it was let in before
				f.waits.leave(conn)
			}, true
		})
	}
	return handler(ctx, req)
}

func (f inFlight) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !f.enter() {
		return errOverloaded
	}
	defer f.leave()
	return handler(srv, ss)
}

func (f inFlight) enter() bool {
	if f.load.inFlight.Add(1) <= int64(f.max) {
		return true
	}
	f.leave()
	f.load.shed.Add(1)
	return false
}

func (f inFlight) leave() { f.load.inFlight.Add(-1) }

// waits counts the calls that wait for others, in all and on each connection. Those on one connection may take half of the calls
// that it has room for, so that its other calls are not held up in the client.
type waits struct {
	max, maxOfConn int

	mu     sync.Mutex
	all    int
	ofConn map[string]int
}

func newWaits(maxAll, maxOfConn int) *waits {
	return &waits{max: maxAll, maxOfConn: maxOfConn, ofConn: make(map[string]int)}
}

func (w *waits) enter(conn string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= w.max || w.ofConn[conn] >= w.maxOfConn {
		return false
	}
	w.all++
	w.ofConn[conn]++
	return true
}

func (w *waits) leave(conn string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.ofConn[conn]--; w.ofConn[conn] == 0 {
		delete(w.ofConn, conn)
	}
}

// waiting returns the number of calls that wait.
func (w *waits) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all
}

// connOf returns what identifies the connection of a call.
func connOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
