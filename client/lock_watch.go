package client

import (
	"context"
	"iter"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
)

// Observe yields who holds a lock, now and whenever that changes, for observers of an election. States that follow each other
// quickly may be yielded as one. It goes on while the caller ranges over it, also after the loss of a connection, a replica or
// Redis, for as long as ctx lasts. An error is yielded last; [ErrUnavailable] only if the first state could not be read.
func (l *Locks) Observe(ctx context.Context, name string) iter.Seq2[LockState, error] {
	return func(yield func(LockState, error) bool) {
		if err := follow(ctx, false, func() (answered, more bool, err error) { return l.observe(ctx, name, yield) }); err != nil {
			yield(LockState{}, err)
		}
	}
}

// observe makes one call. More is false if the caller has left the loop.
func (l *Locks) observe(ctx context.Context, name string, yield func(LockState, error) bool) (answered, more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.rpc.WatchLock(ctx, &lockv1.WatchLockRequest{Namespace: l.namespace, Name: name})
	if err != nil {
		return false, true, err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return answered, true, err
		}
		answered = true
		if r.GetLock() != nil && !yield(newLockState(r.GetLock()), nil) {
			return answered, false, nil
		}
	}
}
