package bench

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
)

// lockAndRelease acquires a lock that nobody else wants and releases it: two calls, each one script in Redis.
func lockAndRelease(ctx context.Context, c *caller) (int, error) {
	r, err := c.locks.AcquireLock(ctx, &lockv1.AcquireLockRequest{Namespace: c.namespace, Name: c.lock, Ttl: durationpb.New(10 * time.Second)})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED {
		return 0, fmt.Errorf("AcquireLock returned %v, want the lock", r.GetOutcome())
	}
	released, err := c.locks.ReleaseLock(ctx, &lockv1.ReleaseLockRequest{Namespace: c.namespace, Name: c.lock, LockToken: r.GetLockToken()})
	if err != nil {
		return 0, err
	}
	if released.GetOutcome() != lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_RELEASED {
		return 0, fmt.Errorf("ReleaseLock returned %v, want that the lock was held", released.GetOutcome())
	}
	return 1, nil
}

// A floorLock implements the rpcs of larder.lock.v1.LockService that the workload calls.
type floorLock struct {
	lockv1.UnimplementedLockServiceServer
}

// AcquireLock returns an answer as long as those of Larder.
func (floorLock) AcquireLock(context.Context, *lockv1.AcquireLockRequest) (*lockv1.AcquireLockResponse, error) {
	return floorAcquired, nil
}

// ReleaseLock returns that the lock was held.
func (floorLock) ReleaseLock(context.Context, *lockv1.ReleaseLockRequest) (*lockv1.ReleaseLockResponse, error) {
	return floorReleased, nil
}

var (
	floorAcquired = &lockv1.AcquireLockResponse{
		Outcome:   lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED,
		LockToken: "ll1_0123456789abcdef0123456789abcdef0123456789a", FencingToken: time.Now().UnixMicro(),
		ValidFor: durationpb.New(10*time.Second - 1), ValidUntilElapsed: durationpb.New(10*time.Second - 1), AcquiredAt: timestamppb.Now(),
	}
	floorReleased = &lockv1.ReleaseLockResponse{Outcome: lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_RELEASED}
)
