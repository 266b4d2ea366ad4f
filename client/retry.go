package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// pushback is the trailer in which a server says after how many milliseconds to retry; negative means never. It is
	// defined by gRFC A6.
	pushback = "grpc-retry-pushback-ms"
)

// withoutRetry is the call option that turns retries off for one call, whatever its method allows.
var withoutRetry = retry.Disable()

// retryUnary retries calls that failed with UNAVAILABLE, if the proto file declares their method free of side effects or
// idempotent. RESOURCE_EXHAUSTED is never retried here because it asks for less load.
func retryUnary(attempts uint) grpc.UnaryClientInterceptor {
	repeat := retry.UnaryClientInterceptor(retry.WithMax(attempts))
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !idempotent()[method] {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		p := &policy{ctx: ctx}
		attempt := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			p.trailer = nil
			return invoke(ctx, method, req, reply, cc, append(opts, grpc.Trailer(&p.trailer))...)
		}
		return repeat(ctx, method, req, reply, cc, attempt, p.options(opts)...)
	}
}

// retryStream does the same for a server stream until its first message. After that only the caller knows how to resume.
func retryStream(attempts uint) grpc.StreamClientInterceptor {
	repeat := retry.StreamClientInterceptor(retry.WithMax(attempts))
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if !idempotent()[method] || desc.ClientStreams {
			return open(ctx, desc, cc, method, opts...)
		}
		p := &policy{ctx: ctx}
		attempt := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			p.trailer = nil
			stream, err := open(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, err
			}
			return &tappedStream{stream, func(err error) error {
				if err == nil {
					p.answered = true
				} else {
					p.trailer = stream.Trailer()
				}
				return err
			}}, nil
		}
		return repeat(ctx, desc, cc, method, attempt, p.options(opts)...)
	}
}

// A policy decides for one call whether and when to retry it.
type policy struct {
	ctx      context.Context
	failures int           // since the call began or the last pushback
	answered bool          // the stream has received its first message
	trailer  metadata.MD   // of the last attempt
	wait     time.Duration // before the next attempt
}

// options returns the call's options with this policy in front of them, so that withoutRetry overrides it.
func (p *policy) options(opts []grpc.CallOption) []grpc.CallOption {
	return slices.Concat([]grpc.CallOption{
		retry.WithRetriable(p.retriable),
		retry.WithBackoff(func(context.Context, uint) time.Duration { return p.wait }),
	}, opts)
}

// retriable decides whether to retry a call that failed with err, and sets wait.
func (p *policy) retriable(err error) bool {
	e := newError(err)
	if e.Code != codes.Unavailable || p.answered {
		return false
	}
	var ok bool
	if p.wait, ok = p.delay(e.RetryAfter); !ok {
		return false
	}
	// The server's error says more than the DEADLINE_EXCEEDED that waiting beyond the deadline would give.
	deadline, ok := p.ctx.Deadline()
	return !ok || time.Until(deadline) > p.wait
}

// delay returns how long to wait before the next attempt, or false if the server forbids one. The wait is exactly the
// server's pushback if there is one. Otherwise it is the server's RetryInfo plus the backoff, so that callers that failed
// together do not return together.
func (p *policy) delay(retryAfter time.Duration) (time.Duration, bool) {
	if values := p.trailer.Get(pushback); len(values) > 0 {
		p.failures = 0
		ms, err := strconv.ParseInt(values[0], 10, 32)
		return time.Duration(ms) * time.Millisecond, err == nil && ms >= 0 && len(values) == 1
	}
	p.failures++
	return retryAfter + rand.N(backoffCap(p.failures)), true
}

// backoffCap returns the longest wait after a number of failures, from 1 on: 50 ms doubling to 5 s. The wait itself is
// drawn uniformly between zero and it ("full jitter" of Marc Brooker: Exponential Backoff And Jitter, AWS 2015).
func backoffCap(failures int) time.Duration {
	return min(firstBackoff<<min(failures-1, 10), maxBackoff)
}

// idempotent returns which methods of the larder services in this process may be retried, by full name. It follows the
// idempotency_level that the proto files declare.
var idempotent = sync.OnceValue(func() map[string]bool {
	methods := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "larder.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				level := m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
				methods["/"+string(service.FullName())+"/"+string(m.Name())] = level != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
			}
		}
		return true
	})
	return methods
})
