package service

import (
	"context"

	"google.golang.org/grpc"
)

// An inFlight sheds calls above a number in flight at once, without a queue: a call that waits costs memory and is late
// when its turn comes, and a caller who is told so can go to another replica. Unary calls and streams are counted apart,
// so that watchers, who stay, cannot crowd out readers, who do not.
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
