package service

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/store/lock"
)

// holdEvents and lostReasons map what the store tells to what the API says.
var (
	holdEvents = map[lock.HoldKind]lockv1.HoldLockEvent{
		lock.HoldWaiting:  lockv1.HoldLockEvent_HOLD_LOCK_EVENT_WAITING,
		lock.HoldAcquired: lockv1.HoldLockEvent_HOLD_LOCK_EVENT_ACQUIRED,
		lock.HoldRenewed:  lockv1.HoldLockEvent_HOLD_LOCK_EVENT_HEARTBEAT,
		lock.HoldLost:     lockv1.HoldLockEvent_HOLD_LOCK_EVENT_LOST,
		lock.HoldBusy:     lockv1.HoldLockEvent_HOLD_LOCK_EVENT_NOT_ACQUIRED,
	}
	lostReasons = map[lock.LostReason]lockv1.LockLostReason{
		lock.LostExpired: lockv1.LockLostReason_LOCK_LOST_REASON_EXPIRED,
		lock.LostForced:  lockv1.LockLostReason_LOCK_LOST_REASON_FORCE_RELEASED,
		lock.LostGone:    lockv1.LockLostReason_LOCK_LOST_REASON_GONE,
	}
)

// HoldLock acquires a lock and holds it until the call ends.
func (l *Lock) HoldLock(r *lockv1.HoldLockRequest, stream grpc.ServerStreamingServer[lockv1.HoldLockResponse]) error {
	arrived := time.Now()
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name := f.lockName(r.GetName())
	req := f.lockRequest(r)
	req.Wait = -1
	if r.GetWaitTimeout() != nil {
		req.Wait = f.exactDuration("wait_timeout", r.GetWaitTimeout(), 0, time.Duration(1<<63-1))
	}
	if r.GetLockToken() != "" {
		f.lockToken(r.GetLockToken())
		if r.GetTtl() == nil {
			req.TTL = 0 // that with which it was acquired
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	ctx := stream.Context()
	o := lock.HoldOptions{
		Token: r.GetLockToken(), Every: heartbeat,
		// The caller goes on at another replica, so that a restart of Larder takes no lock away.
		Keep: func() bool { return errors.Is(context.Cause(ctx), errDraining) },
	}
	return l.store.Locks.Hold(ctx, ns, name, req, o, func(e lock.HoldEvent) error {
		resp := &lockv1.HoldLockResponse{Event: holdEvents[e.Kind], LostReason: lostReasons[e.Reason], Holder: holderView(e.Holder)}
		if e.Grant != nil {
			resp.FencingToken = e.Grant.Fence
		}
		if e.Kind == lock.HoldAcquired {
			resp.LockToken = e.Grant.Token
		}
		if e.Kind == lock.HoldAcquired || e.Kind == lock.HoldRenewed {
			resp.ValidFor, resp.ValidUntilElapsed = validFor(e.Grant), durationpb.New(e.Grant.Ends.Sub(arrived))
		}
		return stream.Send(resp)
	})
}

// WatchLock tells who holds a lock until the call ends.
func (l *Lock) WatchLock(r *lockv1.WatchLockRequest, stream grpc.ServerStreamingServer[lockv1.WatchLockResponse]) error {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name := f.lockName(r.GetName())
	if err := f.err(); err != nil {
		return err
	}
	return l.store.Locks.Watch(stream.Context(), ns, name, heartbeat, func(s *lock.State) error {
		if s == nil {
			return stream.Send(&lockv1.WatchLockResponse{Event: lockv1.WatchLockEvent_WATCH_LOCK_EVENT_HEARTBEAT})
		}
		return stream.Send(&lockv1.WatchLockResponse{Event: lockv1.WatchLockEvent_WATCH_LOCK_EVENT_STATE, Lock: stateView(s)})
	})
}
