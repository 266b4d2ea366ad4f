package client

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"time"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
)

// ErrHeld is the error of [Locks.Hold] and [Locks.Do] if others have the lock and the time to wait is over.
var ErrHeld = errors.New("larder: others hold the lock")

// Locks calls larder.lock.v1.LockService. It is safe for concurrent use.
//
// [Locks.Do] runs a function under a lock, and [Locks.RunAsLeader] runs one in a single process at a time. [Locks.Acquire] is for
// callers that renew and release the lock by themselves.
//
// No lock of this kind stops a process that was paused and believes that it still has the lock. What the lock protects must
// refuse its writes by the fencing token: see [Fence].
type Locks struct {
	rpc       lockv1.LockServiceClient
	namespace string
}

// In returns the Locks of another namespace, over the same connections. Empty means "default". The server checks the name as for
// [Cache.In].
func (l *Locks) In(namespace string) *Locks { return &Locks{rpc: l.rpc, namespace: namespace} }

// A LockHolder is one holder of a lock.
type LockHolder struct {
	// Owner is what the holder calls itself. Empty means that it did not say.
	Owner string
	// Metadata is the text that the holder has attached.
	Metadata string
	// FencingToken is the fencing token of the acquisition.
	FencingToken int64
	// AcquiredAt is when the lock was acquired, by the clock of Redis.
	AcquiredAt time.Time
	// TTL is the time until the lock ends unless its holder renews it.
	TTL time.Duration
}

// A LockState says who holds a lock.
type LockState struct {
	// Name is the name of the lock.
	Name string
	// Holders are the holders whose TTL ends first, at most 16. Nobody holds a lock without holders.
	Holders []LockHolder
	// HolderCount is the number of holders.
	HolderCount int
	// WaiterCount is the number of callers that wait fairly. [Locks.Observe] leaves it out.
	WaiterCount int
	// FencingToken is the highest fencing token that was given. Zero means that none was within 24 h.
	FencingToken int64
}

// AcquireOptions are the options of [Locks.Acquire]. The zero value asks for a lock and does not wait for it.
type AcquireOptions struct {
	// TTL is for how long the lock is held unless it is renewed, 100 ms to 24 h. Zero means what the namespace's policy says,
	// which is 30 s unless configured otherwise.
	TTL time.Duration
	// WaitTimeout is the maximum time to wait for the lock, at most 30 s. Zero means not to wait.
	WaitTimeout time.Duration
	// Permits is the maximum number of concurrent holders, at most 1000; all callers should say the same. Zero means 1.
	Permits int
	// Fair makes callers that wait get the lock in the order in which they began to wait.
	Fair bool
	// Owner is what the caller calls itself, at most 256 bytes, such as the name of its host.
	Owner string
	// Metadata is text for operators and for those who wait, at most 1024 bytes.
	Metadata string
	// RequestID is a secret of 16 to 128 bytes by which a repeated call is given the same lock, such as a random UUID. Empty
	// means a random one, so that retries of this package are safe.
	RequestID string
}

// A Lock is what [Locks.Acquire] returns.
type Lock struct {
	// Outcome is [Acquired] or [Held].
	Outcome Outcome
	// Token is the secret with which the holder renews and releases the lock. Empty if Held.
	Token string
	// FencingToken is higher than that of every earlier acquisition of the lock. Zero if Held.
	FencingToken int64
	// ValidUntil is until when the caller surely holds the lock, by the clock of this process. Zero if Held.
	ValidUntil time.Time
	// AcquiredAt is when the lock was acquired, by the clock of Redis. Zero if Held.
	AcquiredAt time.Time
	// Holder is the holder whose TTL ends first. Nil if Acquired, or if the lock is free and others wait for it fairly.
	Holder *LockHolder
	// RetryAfter is when to ask again at the latest. Zero if Acquired.
	RetryAfter time.Duration
}

// releaseTimeout bounds the release of a lock whose caller does not wait for it any more.
const releaseTimeout = 2 * time.Second

// Acquire acquires a lock, or one permit of a semaphore. The outcome is [Acquired] or [Held]. [ErrTooManyWaiters] means that too
// many callers wait already.
//
// If the call fails although the server may have acquired the lock, Acquire releases it in the background, unless the caller has
// set a RequestID: then the caller repeats the call, or calls [Locks.ReleaseRequest].
func (l *Locks) Acquire(ctx context.Context, name string, o AcquireOptions) (Lock, error) {
	id := o.RequestID
	if id == "" {
		id = rand.Text()
	}
	calling := ctx
	if _, ok := ctx.Deadline(); !ok && o.WaitTimeout > 0 { // the default would cut the wait off
		var cancel context.CancelFunc
		calling, cancel = context.WithTimeout(ctx, o.WaitTimeout+5*time.Second)
		defer cancel()
	}
	start := time.Now()
	r, err := l.rpc.AcquireLock(calling, &lockv1.AcquireLockRequest{
		Namespace: l.namespace, Name: name, Ttl: duration(o.TTL), WaitTimeout: duration(o.WaitTimeout), Permits: toInt32(o.Permits),
		Fair: o.Fair, Owner: o.Owner, Metadata: o.Metadata, RequestId: id,
	})
	if err != nil {
		if e := newError(err); o.RequestID == "" && !errors.Is(e, ErrInvalid) && !errors.Is(e, ErrTooManyWaiters) {
			go func() {
				releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
				defer cancel()
				_, _ = l.ReleaseRequest(releasing, name, id) // otherwise it expires
			}()
		}
		return Lock{}, err
	}
	lock := Lock{
		Outcome: Outcome(text(r.GetOutcome(), "ACQUIRE_LOCK_OUTCOME_")), Token: r.GetLockToken(), FencingToken: r.GetFencingToken(),
		AcquiredAt: timeOf(r.GetAcquiredAt()), Holder: newLockHolder(r.GetHolder()), RetryAfter: r.GetRetryAfter().AsDuration(),
	}
	if r.GetValidUntilElapsed() != nil {
		lock.ValidUntil = start.Add(r.GetValidUntilElapsed().AsDuration())
	}
	return lock, nil
}

// Renew prolongs a lock to ttl from now; zero means the TTL with which it was acquired. It never shortens it. It returns until when
// the caller surely holds the lock. [ErrNotHeld] means that the caller has lost it.
func (l *Locks) Renew(ctx context.Context, name, token string, ttl time.Duration) (validUntil time.Time, err error) {
	start := time.Now()
	r, err := l.rpc.RenewLock(ctx, &lockv1.RenewLockRequest{Namespace: l.namespace, Name: name, LockToken: token, Ttl: duration(ttl)})
	if err != nil {
		return time.Time{}, err
	}
	return start.Add(r.GetValidFor().AsDuration()), nil
}

// Release releases a lock and reports whether the caller held it.
func (l *Locks) Release(ctx context.Context, name, token string) (held bool, err error) {
	return l.release(ctx, &lockv1.ReleaseLockRequest{Namespace: l.namespace, Name: name, LockToken: token})
}

// ReleaseRequest releases the lock that [Locks.Acquire] has acquired with a RequestID, if it has, and reports whether it has.
func (l *Locks) ReleaseRequest(ctx context.Context, name, requestID string) (held bool, err error) {
	return l.release(ctx, &lockv1.ReleaseLockRequest{Namespace: l.namespace, Name: name, RequestId: requestID})
}

func (l *Locks) release(ctx context.Context, req *lockv1.ReleaseLockRequest) (held bool, err error) {
	r, err := l.rpc.ReleaseLock(ctx, req)
	return r.GetOutcome() == lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_RELEASED, err
}

// Get returns who holds a lock.
func (l *Locks) Get(ctx context.Context, name string) (LockState, error) {
	r, err := l.rpc.GetLock(ctx, &lockv1.GetLockRequest{Namespace: l.namespace, Name: name})
	return newLockState(r.GetLock()), err
}

// ListLocksOptions are the options of [Locks.List].
type ListLocksOptions struct {
	// Pattern is a glob over the whole name, as in [Cache.ListKeys]. Empty means every lock.
	Pattern string
	// PageSize is about how many locks one call to the server asks for, 1 to 200. Zero means 50.
	PageSize int
}

// List yields the locks that are held, in no order. A lock may be yielded twice. An error is yielded last.
func (l *Locks) List(ctx context.Context, o ListLocksOptions) iter.Seq2[LockState, error] {
	return pages(func(token string) ([]LockState, string, error) {
		r, err := l.rpc.ListLocks(ctx, &lockv1.ListLocksRequest{
			Namespace: l.namespace, Pattern: o.Pattern, PageSize: toInt32(o.PageSize), PageToken: token,
		})
		states := make([]LockState, len(r.GetLocks()))
		for i, m := range r.GetLocks() {
			states[i] = newLockState(m)
		}
		return states, r.GetNextPageToken(), err
	})
}

// ForceRelease takes a lock away from the holder with a fencing token, or from all holders if that is zero, for operators. It
// returns the number of holders that had it.
func (l *Locks) ForceRelease(ctx context.Context, name string, fencingToken int64) (int, error) {
	r, err := l.rpc.ForceReleaseLock(ctx, &lockv1.ForceReleaseLockRequest{Namespace: l.namespace, Name: name, FencingToken: fencingToken})
	return int(r.GetReleasedCount()), err
}

func newLockHolder(m *lockv1.LockHolder) *LockHolder {
	if m == nil {
		return nil
	}
	return &LockHolder{
		Owner: m.GetOwner(), Metadata: m.GetMetadata(), FencingToken: m.GetFencingToken(), AcquiredAt: timeOf(m.GetAcquiredAt()),
		TTL: m.GetTtl().AsDuration(),
	}
}

func newLockState(m *lockv1.LockState) LockState {
	s := LockState{
		Name: m.GetName(), HolderCount: int(m.GetHolderCount()), WaiterCount: int(m.GetWaiterCount()), FencingToken: m.GetFencingToken(),
	}
	for _, h := range m.GetHolders() {
		s.Holders = append(s.Holders, *newLockHolder(h))
	}
	return s
}
