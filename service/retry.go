package service

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

const (
	maxAttempts = 5
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 5 * time.Second
	// maxRetrying is the maximum time after the first failure at which another attempt may begin.
	maxRetrying = time.Second
)

// The attempts of these methods are one request, whose repetition is answered as its first attempt.
var oneRequest = map[string]bool{
	sessionv1.SessionService_RevokeSession_FullMethodName:         true,
	sessionv1.SessionService_RevokeSubjectSessions_FullMethodName: true,
	sessionv1.SessionService_RotateSession_FullMethodName:         true,
	tokenv1.TokenService_RevokeToken_FullMethodName:               true,
}

// These methods are not idempotent, and write with one command. If Redis refuses that because a slot moves, nothing was written,
// and the handler can be repeated.
var oneWrite = map[string]bool{
	cachev1.CacheService_Increment_FullMethodName:                 true,
	cachev1.CacheService_Fill_FullMethodName:                      true,
	sessionv1.SessionService_CreateSession_FullMethodName:         true,
	sessionv1.SessionService_ReauthenticateSession_FullMethodName: true,
	sessionv1.SessionService_UpdateSession_FullMethodName:         true,
}

// A retrier repeats the handler of an idempotent method after a transient failure of Redis, and that of some others while a slot
// moves. It is the only layer that retries between this server and Redis.
type retrier struct {
	idempotent map[string]bool
	retryable  func(error) bool
	up         func() bool
	budget     budget
	metrics    *Metrics
}

func newRetrier(up func() bool, m *Metrics) *retrier {
	r := &retrier{idempotent: idempotentMethods(), retryable: redis.Retryable, up: up, metrics: m}
	r.budget.tokens.Store(maxTokens)
	return r
}

func (r *retrier) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if oneRequest[info.FullMethod] {
		ctx = session.WithRequest(ctx, "")
	}
	if info.FullMethod == lockv1.LockService_AcquireLock_FullMethodName {
		ctx = lock.WithRequest(ctx) // the attempts acquire one lock
	}
	resp, err := handler(ctx, req)
	if err == nil {
		r.budget.succeeded()
		return resp, nil
	}
	// Retries bridge the moments in which a connection is established again. While Redis is known to be down they would
	// only delay the caller's error.
	if !r.repeatable(info.FullMethod, err) || !r.up() {
		return nil, err
	}
	// Retries begin only in the first half of the time left, so that the last attempt has the other half: an attempt that
	// is cut off by the deadline does not know whether it has written.
	limit := maxRetrying
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	giveUp := time.Now().Add(limit)

	for attempt := 1; attempt < maxAttempts; attempt++ {
		wait := backoff(attempt)
		if time.Until(giveUp) < wait {
			break
		}
		if !r.budget.spend() {
			r.metrics.budgetExhausted.Inc()
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r.metrics.retries.WithLabelValues(info.FullMethod).Inc()
		var again error
		if resp, again = handler(ctx, req); again == nil {
			r.budget.succeeded()
			return resp, nil
		}
		err = worse(err, again)
		if !r.repeatable(info.FullMethod, again) {
			return nil, err
		}
	}
	// A client that retried as well would multiply the load on a Redis that is in trouble already.
	stopRetries(ctx)
	return nil, err
}

// repeatable reports whether the handler of a method may run again after an error.
func (r *retrier) repeatable(method string, err error) bool {
	return r.idempotent[method] && r.retryable(err) || oneWrite[method] && redis.Moving(err)
}

// worse returns the later error, unless the earlier attempt may have written and the later one certainly has not.
func worse(earlier, later error) error {
	nothing := errors.Is(later, redis.ErrUnavailable) || errors.Is(later, redis.ErrOverloaded)
	if nothing && errors.Is(earlier, redis.ErrOutcomeUnknown) {
		return earlier
	}
	return later
}

// backoff returns how long to wait after a number of failed attempts: a random duration up to minBackoff, doubled for each
// attempt after the first, so that calls which failed together are not repeated together (full jitter).
func backoff(failed int) time.Duration {
	return rand.N(min(minBackoff<<(failed-1), maxBackoff))
}

// idempotentMethods returns the full names of the methods whose proto declares an idempotency_level other than
// IDEMPOTENCY_UNKNOWN.
func idempotentMethods() map[string]bool {
	methods := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				level := method.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
				if level != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					methods["/"+string(service.FullName())+"/"+string(method.Name())] = true
				}
			}
		}
		return true
	})
	return methods
}

// The retry budget works as gRPC's retry throttling (gRFC A6), and is kept in tenths of a token: it begins with 100
// tokens, a retry costs one, a success gives back a tenth, and nothing is retried while 50 or fewer are left. An outage so
// costs Redis 50 retries, and from then on one for each ten successes.
const (
	maxTokens  = 1000
	retryCost  = 10
	successPay = 1
)

// A budget limits retries to a small share of the calls that succeed.
type budget struct{ tokens atomic.Int64 }

func (b *budget) spend() bool {
	for {
		have := b.tokens.Load()
		if have <= maxTokens/2 {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-retryCost) {
			return true
		}
	}
}

func (b *budget) succeeded() {
	for {
		have := b.tokens.Load()
		if have >= maxTokens || b.tokens.CompareAndSwap(have, have+successPay) {
			return
		}
	}
}
