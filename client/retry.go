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
	// pushback is the trailer in which a server says after how many milliseconds to try again; negative means never.
	pushback = "grpc-retry-pushback-ms"
)

// once keeps a single call from being retried, whatever its method allows.
var once = retry.Disable()

// retryUnary makes a call again that failed with UNAVAILABLE, if its method is declared free of side effects or
// idempotent. RESOURCE_EXHAUSTED is never retried here: it asks for less load, not for more.
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

// retryStream does the same for a server stream until its first message: after that only the caller knows what to make
// of a second beginning.
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

// A policy decides for one call whether and when it is made again.
type policy struct {
	ctx      context.Context
	failures int         // since the call began or the server set the pace
	answered bool        // a stream has had its first message
	trailer  metadata.MD // of the last attempt
	wait     time.Duration
}

// options returns the call's options with this policy before them, so that once overrules it.
func (p *policy) options(opts []grpc.CallOption) []grpc.CallOption {
	return slices.Concat([]grpc.CallOption{
		retry.WithRetriable(p.again),
		retry.WithBackoff(func(context.Context, uint) time.Duration { return p.wait }),
	}, opts)
}

func (p *policy) again(err error) bool {
	e := newError(err)
	if e.Code != codes.Unavailable || p.answered {
		return false
	}
	var ok bool
	if p.wait, ok = p.delay(e.RetryAfter); !ok {
		return false
	}
	// What the server said is worth more than a deadline that passed while waiting.
	deadline, ok := p.ctx.Deadline()
	return !ok || time.Until(deadline) > p.wait
}

// delay returns how long to wait, or false if the server forbids another attempt. A server that sets the pace by pushback
// is obeyed to the letter; otherwise its RetryInfo is the least, with the backoff on top so that callers spread out.
func (p *policy) delay(retryAfter time.Duration) (time.Duration, bool) {
	if said := p.trailer.Get(pushback); len(said) > 0 {
		p.failures = 0
		ms, err := strconv.ParseInt(said[0], 10, 32)
		return time.Duration(ms) * time.Millisecond, err == nil && ms >= 0 && len(said) == 1
	}
	p.failures++
	return retryAfter + rand.N(backoffCap(p.failures)), true
}

// backoffCap is the longest wait after so many failures, from 1: 50 ms doubling to 5 s. The wait is drawn from zero to
// it (full jitter).
func backoffCap(failures int) time.Duration {
	return min(firstBackoff<<min(failures-1, 10), maxBackoff)
}

// idempotent holds the full names of the methods of every larder service in this process that may be made again.
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
