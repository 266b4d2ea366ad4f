package service

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// A layer is one entry of the chains, for unary calls and for streams; nil where it does not apply.
type layer struct {
	unary  grpc.UnaryServerInterceptor
	stream grpc.StreamServerInterceptor
}

// interceptors returns both chains, outermost first.
func (s *Server) interceptors() (unary []grpc.UnaryServerInterceptor, stream []grpc.StreamServerInterceptor) {
	calls := s.metrics.calls
	log := newAccessLog(s.options.Logger, s.options.SlowCall)
	unaryCap := inFlight{s.options.MaxInFlight, &s.metrics.unary}
	streamCap := inFlight{s.options.MaxInFlight, &s.metrics.streams}
	retries := newRetrier(s.health.Redis, s.metrics)
	recoverer := recovery.WithRecoveryHandlerContext(s.recovered)

	for _, l := range []layer{
		// Outside the metrics, because anybody can invent names of methods and each would become a time series.
		{nil, s.unknownMethod},
		// GracefulStop waits for streams and ends none; whatever runs below sees its context end instead.
		{nil, s.drain},
		// Metrics and log, outside all that can answer: they tell the code and the reason that the caller was given.
		{calls.UnaryServerInterceptor(), calls.StreamServerInterceptor()},
		{log.unary, log.stream},
		// The one place where errors get their code; all below return plain errors.
		{unaryErrors, streamErrors},
		// Inside the error table, so that a panic is one more error in the metrics, in the log and to the caller.
		{recovery.UnaryServerInterceptor(recoverer), recovery.StreamServerInterceptor(recoverer)},
		// Before anything that costs time. Probes pass always: a busy server must not look like a dead one.
		exceptHealth(unaryCap.unary, streamCap.stream),
		// Outside the retries, which must end within it. Streams last as long as their callers want.
		{deadlineCap(s.options.MaxDeadline).unary, nil},
		// Next to the handler, so that a call which was run three times is still one call to everything above. A
		// stream may have sent something already, and is not run again.
		{retries.unary, nil},
	} {
		if l.unary != nil {
			unary = append(unary, l.unary)
		}
		if l.stream != nil {
			stream = append(stream, l.stream)
		}
	}
	return unary, stream
}

// exceptHealth skips both interceptors for grpc.health.v1.
func exceptHealth(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) layer {
	others := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool {
		return call.Service != healthv1.Health_ServiceDesc.ServiceName
	})
	return layer{selector.UnaryServerInterceptor(unary, others), selector.StreamServerInterceptor(stream, others)}
}

// recovered keeps the process alive after a panic. The stack says where it was, and the value is logged only where it
// cannot hold a part of the request.
func (s *Server) recovered(ctx context.Context, value any) error {
	s.metrics.panics.Inc()
	text := "not logged, for it may hold data"
	if err, ok := value.(runtime.Error); ok {
		text = err.Error()
	}
	method, _ := grpc.Method(ctx)
	s.options.Logger.LogAttrs(ctx, slog.LevelError, "panic in a handler",
		slog.String("method", method), slog.String("panic", text), slog.String("stack", string(debug.Stack())))
	return errPanic
}

// unknownMethod answers calls of methods that are not registered, which grpc passes on without a service.
func (s *Server) unknownMethod(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if srv != nil {
		return handler(srv, ss)
	}
	s.metrics.unknownMethods.Inc()
	return fail(errNoMethod)
}

// drain runs a stream under a context that ends when the server begins to shut down.
func (s *Server) drain(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.streams, func() { cancel(errDraining) })()
	return handler(srv, drainedStream{stream{ss, ctx}})
}

// A stream is a ServerStream with another context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is what handlers take the context of the call from.
func (s stream) Context() context.Context { return s.ctx }

// A drainedStream stops receiving when its context ends. A plain one stops only when the call does, and so would hold up
// the shutdown wherever a handler waits for its client, as that of the reflection service does.
type drainedStream struct{ stream }

// RecvMsg waits for a message of the client, or for the end of the context.
func (s drainedStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { received <- s.ServerStream.RecvMsg(m) }()
	select {
	case err := <-received:
		return err
	case <-s.ctx.Done():
		// The goroutine ends with the call, as soon as the handler has returned; nobody reads m any more.
		return s.ctx.Err()
	}
}
