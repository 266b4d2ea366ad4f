package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
)

// HoldOptions are the options of [Locks.Hold], [Locks.Do] and [Locks.RunAsLeader]. The zero value waits for a lock without limit.
type HoldOptions struct {
	// TTL is for how long the lock outlives a replica of Larder that crashes or loses Redis, 100 ms to 24 h. Zero means what the
	// namespace's policy says, which is 30 s unless configured otherwise, and 5 s for RunAsLeader.
	TTL time.Duration
	// WaitTimeout is the maximum time to wait for the lock. Zero means without limit, and a negative one means not to wait.
	WaitTimeout time.Duration
	// Permits, Fair, Owner and Metadata are as in [AcquireOptions].
	Permits  int
	Fair     bool
	Owner    string
	Metadata string
}

// ErrLockLost means that a lock was lost while it was held. [context.Cause] of the context of a [HeldLock] is a [*LockLostError],
// which matches it.
var ErrLockLost = errors.New("larder: the lock was lost")

// A LockLostError says why a lock was lost.
type LockLostError struct {
	// Reason is why it was lost.
	Reason LockLostReason
}

// A LockLostReason says why a lock was lost. A reason that only a later server knows is [Unrecognized].
type LockLostReason string

// The reasons of a [LockLostError].
const (
	// LockExpired means that the lock could not be renewed in time.
	LockExpired LockLostReason = "EXPIRED"
	// LockForceReleased means that [Locks.ForceRelease] has taken the lock away.
	LockForceReleased LockLostReason = "FORCE_RELEASED"
	// LockGone means that Redis does not have the lock any more.
	LockGone LockLostReason = "GONE"
)

// Error returns the reason.
func (e *LockLostError) Error() string { return ErrLockLost.Error() + ": " + string(e.Reason) }

// Is reports whether target is [ErrLockLost]. It is for [errors.Is].
func (e *LockLostError) Is(target error) bool { return target == ErrLockLost }

// A HeldLock is a lock that the server holds for this process until it is released.
type HeldLock struct {
	locks   *Locks
	name    string
	options HoldOptions
	ctx     context.Context //nolint:containedctx // it ends with the lock, and callers work under it
	cancel  context.CancelCauseFunc
	close   context.CancelFunc // ends the call
	done    chan struct{}      // closed when the call has ended for good
	expiry  *time.Timer

	mu       sync.Mutex
	token    string
	fence    int64
	validity time.Time
}

// Context returns a context that ends when the lock is lost, with a [*LockLostError] as its cause, when it is released, or when the
// context of [Locks.Hold] ends. It carries the lock: see [FenceOf].
func (h *HeldLock) Context() context.Context { return h.ctx }

// FencingToken returns a number that is higher than that of every earlier acquisition of the lock.
func (h *HeldLock) FencingToken() int64 { return h.fence }

// Fence returns the fence under which the holder writes.
func (h *HeldLock) Fence() *Fence { return &Fence{LockName: h.name, FencingToken: h.fence} }

// ValidUntil returns until when this process surely holds the lock, by its own clock. Each renewal prolongs it.
func (h *HeldLock) ValidUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.validity
}

// Lost returns a [*LockLostError] if the lock was lost, and nil otherwise.
func (h *HeldLock) Lost() error {
	if cause := context.Cause(h.ctx); errors.Is(cause, ErrLockLost) {
		return cause
	}
	return nil
}

// Release releases the lock and waits until the server has done so, for up to 2 s. A lock that cannot be released expires.
func (h *HeldLock) Release() {
	h.cancel(context.Canceled)
	releasing, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), releaseTimeout)
	defer cancel()
	if h.Lost() == nil {
		_, _ = h.locks.Release(releasing, h.name, h.token) // otherwise the end of the call releases it, or it expires
	}
	h.close()
	<-h.done
}

type fenceKey struct{}

// FenceOf returns the fence of the lock under which the function of [Locks.Do] or [Locks.RunAsLeader] runs, for [SetOptions] and
// [DeleteOptions]. It is nil outside of them.
func FenceOf(ctx context.Context) *Fence {
	f, _ := ctx.Value(fenceKey{}).(*Fence)
	return f
}

// Hold acquires a lock and holds it until [HeldLock.Release], or until ctx ends. The server renews it three times per TTL, and
// releases it when this process ends or loses its connection. If the server shuts down, or the connection breaks and the lock is
// still held, another replica goes on. It fails with [ErrHeld] if the time to wait is over.
func (l *Locks) Hold(ctx context.Context, name string, o HoldOptions) (*HeldLock, error) {
	h := &HeldLock{locks: l, name: name, options: o, done: make(chan struct{})}
	calling, closing := context.WithCancel(ctx)
	h.close = closing
	stream, err := h.open(calling)
	var first *lockv1.HoldLockResponse
	for err == nil {
		if first, err = stream.recv(); err == nil && first.GetEvent() != lockv1.HoldLockEvent_HOLD_LOCK_EVENT_WAITING {
			break
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = newError(contextStatus(ctx))
	case err != nil:
		err = typed(err)
		if errors.Is(err, io.EOF) {
			err = newError(io.ErrUnexpectedEOF)
		}
	case first.GetEvent() != lockv1.HoldLockEvent_HOLD_LOCK_EVENT_ACQUIRED:
		err = ErrHeld
	}
	if err != nil {
		closing()
		return nil, err
	}
	h.token, h.fence = first.GetLockToken(), first.GetFencingToken()
	h.ctx, h.cancel = context.WithCancelCause(context.WithValue(ctx, fenceKey{}, h.Fence()))
	h.expiry = time.AfterFunc(time.Hour, func() { h.cancel(&LockLostError{LockExpired}) })
	h.extend(stream, first)
	go h.follow(calling, stream)
	return h, nil
}

// A holdStream is one call of HoldLock. The server's times count from its beginning.
type holdStream struct {
	recv  func() (*lockv1.HoldLockResponse, error)
	start time.Time
}

// open begins a call, which goes on with the lock if there is one.
func (h *HeldLock) open(ctx context.Context) (*holdStream, error) {
	o := h.options
	req := &lockv1.HoldLockRequest{
		Namespace: h.locks.namespace, Name: h.name, Ttl: duration(o.TTL), WaitTimeout: duration(o.WaitTimeout), Permits: toInt32(o.Permits),
		Fair: o.Fair, Owner: o.Owner, Metadata: o.Metadata, LockToken: h.token,
	}
	if o.WaitTimeout < 0 {
		req.WaitTimeout.Seconds, req.WaitTimeout.Nanos = 0, 0
	}
	start := time.Now()
	stream, err := h.locks.rpc.HoldLock(ctx, req)
	if err != nil {
		return nil, err
	}
	return &holdStream{stream.Recv, start}, nil
}

// extend takes the end of the lock from a message.
func (h *HeldLock) extend(s *holdStream, r *lockv1.HoldLockResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until := s.start.Add(r.GetValidUntilElapsed().AsDuration()); until.After(h.validity) {
		h.validity = until
		h.expiry.Reset(time.Until(until))
	}
}

// follow reads what the server tells of the lock, and goes on at another replica if a call breaks.
func (h *HeldLock) follow(ctx context.Context, stream *holdStream) {
	defer close(h.done)
	defer h.expiry.Stop()
	defer h.close()
	stop := context.AfterFunc(h.ctx, h.close)
	defer stop()
	for failures := 0; ; {
		r, err := stream.recv()
		switch {
		case err == nil && r.GetEvent() == lockv1.HoldLockEvent_HOLD_LOCK_EVENT_LOST:
			h.cancel(&LockLostError{LockLostReason(text(r.GetLostReason(), "LOCK_LOST_REASON_"))})
			return
		case err == nil:
			failures = 0
			h.extend(stream, r)
			continue
		}
		for {
			again := errors.Is(err, io.EOF) || errors.Is(typed(err), ErrUnavailable) || errors.Is(typed(err), ErrOverloaded)
			if h.ctx.Err() != nil || !again {
				h.cancel(&LockLostError{LockGone}) // no effect if the context has ended
				return
			}
			if failures > 0 {
				wait, _ := (&policy{failures: failures - 1}).delay(0)
				if !pause(h.ctx, min(wait, time.Second)) {
					return
				}
			}
			failures++
			var next *holdStream
			if next, err = h.open(ctx); err == nil {
				stream = next
				break
			}
		}
	}
}

// Do runs a function while it holds a lock, and releases the lock afterwards. The context of the function ends when the lock is lost.
// Do returns the error of the function; if the lock was lost meanwhile it returns an error that matches [ErrLockLost] too, although
// the function may have succeeded: another holder may have been at work at the same time. It fails with [ErrHeld] if the time to
// wait is over.
//
// Writes under the lock carry its fence, so that those of a holder that has lost it unawares are refused:
//
//	err := larder.Locks.Do(ctx, "report", client.HoldOptions{}, func(ctx context.Context) error {
//		_, err := larder.Cache.Set(ctx, "report", report(), client.SetOptions{Fence: client.FenceOf(ctx)})
//		return err
//	})
func (l *Locks) Do(ctx context.Context, name string, o HoldOptions, do func(ctx context.Context) error) error {
	h, err := l.Hold(ctx, name, o)
	if err != nil {
		return err
	}
	err = h.run(do)
	switch lost := h.Lost(); {
	case lost == nil || errors.Is(err, ErrLockLost):
		return err
	case err == nil:
		return lost
	default:
		return fmt.Errorf("%w: %w", lost, err)
	}
}

// run runs a function and releases the lock, also if the function panics.
func (h *HeldLock) run(do func(ctx context.Context) error) error {
	defer h.Release()
	return do(h.ctx)
}

// RunAsLeader runs a function in one process at a time: it waits for the lock, runs the function, and when the lock is lost waits for
// it again. It returns what the function returns while it has the lock, or when ctx ends. While Larder or Redis cannot be reached
// it keeps trying.
//
// The function must return soon after its context has ended, because by then another process may lead. When the process of the leader
// ends, another one takes over at once; when its replica of Larder crashes, the leader goes on at another replica; and when
// everything is cut off, another one takes over within the TTL. [Locks.Observe] tells who leads.
func (l *Locks) RunAsLeader(ctx context.Context, name string, o HoldOptions, lead func(ctx context.Context) error) error {
	if o.TTL == 0 {
		o.TTL = 5 * time.Second
	}
	for failures := 0; ; {
		h, err := l.Hold(ctx, name, o)
		if err == nil {
			failures = 0
			err = h.run(lead)
			if h.Lost() == nil || ctx.Err() != nil {
				return err
			}
			continue
		}
		e := new(Error)
		if !errors.As(err, &e) || ctx.Err() != nil || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrOverloaded) && !errors.Is(err, ErrTooManyWaiters) {
			return err
		}
		wait, _ := (&policy{failures: failures}).delay(e.RetryAfter)
		failures++
		if !pause(ctx, wait) {
			return newError(contextStatus(ctx))
		}
	}
}
