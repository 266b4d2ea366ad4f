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

	"github.com/berthcare/larder/store/redis"
)

const (
	maxAttempts = 5
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 5 * time.Second
	// maxRetrying bounds how long after the first failure another attempt may begin.
	maxRetrying = time.Second
)

// A retrier runs the handler of an idempotent method again after a transient failure of Redis. It is the one layer that
// retries between this server and Redis.
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
	resp, err := handler(ctx, req)
	if err == nil {
		r.budget.succeeded()
		return resp, nil
	}
	// Retries bridge the moments in which a connection is made anew. While Redis is known to be away they would only keep
	// the caller from hearing of it.
	if !r.idempotent[info.FullMethod] || !r.retryable(err) || !r.up() {
		return nil, err
	}
	// What is left after the retries is for the last attempt, which runs up to the caller's own deadline: one that was
	// cut short could not say whether it has written.
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
		if !r.retryable(again) {
			return nil, err
		}
	}
	// The call was repeated as often as was sensible. A client that repeats it as well would multiply the load on a Redis
	// that is in trouble already.
	stopRetries(ctx)
	return nil, err
}

// worse returns the later error, unless an earlier attempt may have written and the later one only says that it has not.
func worse(earlier, later error) error {
	nothing := errors.Is(later, redis.ErrUnavailable) || errors.Is(later, redis.ErrOverloaded)
	if nothing && errors.Is(earlier, redis.ErrOutcomeUnknown) {
		return earlier
	}
	return later
}

// backoff returns how long to wait after a number of failed attempts: anything up to a bound that doubles, so that calls
// which failed together do not come back together.
func backoff(failed int) time.Duration {
	return rand.N(min(minBackoff<<(failed-1), maxBackoff))
}

// idempotentMethods returns the full names of the methods that their proto declares safe to repeat.
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

// In tenths of a token, as in the retry throttling of gRPC (A6): a retry costs one, a success gives back a tenth, and
// nothing is retried while half of them are gone. An outage so costs Redis fifty retries, and then one for each ten
// successes.
const (
	maxTokens  = 1000
	retryCost  = 10
	successPay = 1
)

// A budget keeps retries to a small share of the calls that succeed.
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
