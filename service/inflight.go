package service

import (
	"context"

	"google.golang.org/grpc"
)

// An inFlight refuses calls while max calls are in flight. It has no queue: a waiting call costs memory and is late when
// its turn comes, whereas a caller that is refused at once can try another replica. Unary calls and streams have separate
// limits, so that long-lived watches do not crowd out short reads.
type inFlight struct {
	max  int
	load *load
}

func (f inFlight) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !f.enter() {
		return nil, errOverloaded
	}
	defer f.leave()
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
