package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/lock"
)

// Lock answers larder.lock.v1.LockService.
type Lock struct {
	lockv1.UnimplementedLockServiceServer

	store    *store.Store
	policies *policy.Policies
	logger   *slog.Logger
}

// NewLock returns a LockService over a store, which logs forced releases.
func NewLock(st *store.Store, p *policy.Policies, l *slog.Logger) *Lock {
	return &Lock{store: st, policies: p, logger: l}
}

func (l *Lock) fields() *fields { return newFields(l.policies, l.store.Redis.Now) }

// AcquireLock acquires a lock.
func (l *Lock) AcquireLock(ctx context.Context, r *lockv1.AcquireLockRequest) (*lockv1.AcquireLockResponse, error) {
	arrived := time.Now()
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name := f.lockName(r.GetName())
	req := f.lockRequest(r)
	req.ID = f.lockRequestID(r.GetRequestId())
	if r.GetWaitTimeout() != nil {
		req.Wait = f.exactDuration("wait_timeout", r.GetWaitTimeout(), 0, maxWait)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	req.Wait = answerable(ctx, req.Wait)
	g, busy, err := l.store.Locks.Acquire(ctx, ns, name, req)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return &lockv1.AcquireLockResponse{
			Outcome: lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_HELD, Holder: holderView(busy.Holder),
			RetryAfter: durationpb.New(busy.RetryAfter),
		}, nil
	}
	return &lockv1.AcquireLockResponse{
		Outcome: lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED, LockToken: g.Token, FencingToken: g.Fence,
		ValidFor: validFor(g), ValidUntilElapsed: durationpb.New(g.Ends.Sub(arrived)), AcquiredAt: timestamppb.New(g.At),
	}, nil
}

// answerable shortens a wait that would outlast the deadline of its call, so that the caller gets an answer.
func answerable(ctx context.Context, wait time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok || wait <= 0 {
		return wait
	}
	left := time.Until(deadline)
	return max(min(wait, left-min(left/10, 250*time.Millisecond)), 0)
}

// RenewLock prolongs a lock.
func (l *Lock) RenewLock(ctx context.Context, r *lockv1.RenewLockRequest) (*lockv1.RenewLockResponse, error) {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name, token, ttl := f.lockName(r.GetName()), f.lockToken(r.GetLockToken()), f.lockTTL(r.GetTtl(), 0)
	if err := f.err(); err != nil {
		return nil, err
	}
	g, err := l.store.Locks.Renew(ctx, ns, name, token, ttl)
	if err != nil {
		return nil, err
	}
	return &lockv1.RenewLockResponse{ValidFor: validFor(g), FencingToken: g.Fence}, nil
}

// ReleaseLock releases a lock.
func (l *Lock) ReleaseLock(ctx context.Context, r *lockv1.ReleaseLockRequest) (*lockv1.ReleaseLockResponse, error) {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name := f.lockName(r.GetName())
	id := f.lockRequestID(r.GetRequestId())
	switch {
	case id == "":
		f.lockToken(r.GetLockToken())
	case r.GetLockToken() != "":
		f.add("request_id", "must be empty if lock_token is set")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	var released lock.Released
	var err error
	if id == "" {
		released, err = l.store.Locks.Release(ctx, ns, name, r.GetLockToken())
	} else {
		released, err = l.store.Locks.ReleaseRequest(ctx, ns, name, id)
	}
	if err != nil {
		return nil, err
	}
	outcome := lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_NOT_HELD
	if released.Held {
		outcome = lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_RELEASED
	}
	return &lockv1.ReleaseLockResponse{Outcome: outcome}, nil
}

// GetLock returns who holds a lock.
func (l *Lock) GetLock(ctx context.Context, r *lockv1.GetLockRequest) (*lockv1.GetLockResponse, error) {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name := f.lockName(r.GetName())
	if err := f.err(); err != nil {
		return nil, err
	}
	s, err := l.store.Locks.Get(ctx, ns, name)
	if err != nil {
		return nil, err
	}
	return &lockv1.GetLockResponse{Lock: stateView(&s)}, nil
}

// ListLocks lists the locks that are held.
func (l *Lock) ListLocks(ctx context.Context, r *lockv1.ListLocksRequest) (*lockv1.ListLocksResponse, error) {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	pattern := f.pattern(r.GetPattern(), 0)
	count := f.pageSize(r.GetPageSize(), 50, 200)
	if err := f.err(); err != nil {
		return nil, err
	}
	states, next, err := l.store.Locks.List(ctx, ns, pattern, r.GetPageToken(), count)
	if err != nil {
		return nil, err
	}
	resp := &lockv1.ListLocksResponse{NextPageToken: next}
	for i := range states {
		resp.Locks = append(resp.Locks, stateView(&states[i]))
	}
	return resp, nil
}

// ForceReleaseLock takes a lock away from its holders, and logs that.
func (l *Lock) ForceReleaseLock(ctx context.Context, r *lockv1.ForceReleaseLockRequest) (*lockv1.ForceReleaseLockResponse, error) {
	f := l.fields()
	ns := f.namespace(r.GetNamespace())
	name, fence := f.lockName(r.GetName()), f.lockFence(r.GetFencingToken())
	if err := f.err(); err != nil {
		return nil, err
	}
	forced, err := l.store.Locks.ForceRelease(ctx, ns, name, fence)
	if err != nil {
		return nil, err
	}
	resp := &lockv1.ForceReleaseLockResponse{ReleasedCount: int32(forced.Count)} //nolint:gosec // at most lock.MaxPermits
	tokens := make([]int64, len(forced.Holders))
	for i := range forced.Holders {
		resp.Released = append(resp.Released, holderView(&forced.Holders[i]))
		tokens[i] = forced.Holders[i].Fence
	}
	// The name may tell of people, as a key may.
	sum := sha256.Sum256([]byte(name))
	l.logger.LogAttrs(ctx, slog.LevelWarn, "lock taken from its holders", slog.String("namespace", ns),
		slog.String("name_sha256", hex.EncodeToString(sum[:8])), slog.Int("holders", forced.Count), slog.Any("fencing_tokens", tokens))
	return resp, nil
}

// validFor returns for how long a lock is surely held from now on.
func validFor(g *lock.Grant) *durationpb.Duration { return durationpb.New(max(time.Until(g.Ends), 0)) }

// holderView returns a holder as it appears in responses; nil for nil.
func holderView(h *lock.Holder) *lockv1.LockHolder {
	if h == nil {
		return nil
	}
	v := &lockv1.LockHolder{Owner: h.Owner, Metadata: h.Metadata, FencingToken: h.Fence, Ttl: durationpb.New(h.Left)}
	if !h.AcquiredAt.IsZero() {
		v.AcquiredAt = timestamppb.New(h.AcquiredAt)
	}
	return v
}

// stateView returns the state of a lock as it appears in responses.
func stateView(s *lock.State) *lockv1.LockState {
	v := &lockv1.LockState{
		Name: s.Name, HolderCount: int32(s.Count), WaiterCount: int32(s.Waiters), FencingToken: s.Fence, //nolint:gosec // at most 1000 each
	}
	for i := range s.Holders {
		v.Holders = append(v.Holders, holderView(&s.Holders[i]))
		v.FencingToken = max(v.FencingToken, s.Holders[i].Fence) // a watch does not read the highest one
	}
	return v
}
