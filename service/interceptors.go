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

// A layer is one entry of both chains; unary or stream is nil where it does not apply.
type layer struct {
	unary  grpc.UnaryServerInterceptor
	stream grpc.StreamServerInterceptor
}

// interceptors returns the chain of unary calls and that of streams, outermost first.
func (s *Server) interceptors() (unary []grpc.UnaryServerInterceptor, stream []grpc.StreamServerInterceptor) {
	calls := s.metrics.calls
	log := newAccessLog(s.digest, s.options.SlowCall)
	waits := newWaits(s.options.MaxInFlight, max(int(s.options.MaxConcurrentStreams/2), 1))
	s.metrics.waits.Store(waits)
	unaryCap := inFlight{s.options.MaxInFlight, &s.metrics.unary, waits}
	streamCap := inFlight{s.options.MaxInFlight, &s.metrics.streams, waits}
	retries := newRetrier(s.health.Redis, s.metrics)
	recoverer := recovery.WithRecoveryHandlerContext(s.recovered)

	for _, l := range []layer{
		// Outside the metrics, because callers can invent method names and each would become a time series.
		{nil, s.unknownMethod},
		// GracefulStop waits for streams without ending them, so their contexts are cancelled when the server drains.
		{nil, s.drain},
		// Metrics and log, outside everything that can answer, so that they have the code and the reason the caller receives.
		{calls.UnaryServerInterceptor(), calls.StreamServerInterceptor()},
		{log.unary, log.stream},
		// The one place that maps errors to codes; everything below returns plain errors.
		{unaryErrors, streamErrors},
		// Inside the error table, so that metrics, log and caller get a panic as an error like any other.
		{recovery.UnaryServerInterceptor(recoverer), recovery.StreamServerInterceptor(recoverer)},
		// Outside everything that costs time. Health checks always pass, because a busy server is not a dead one.
		exceptHealth(unaryCap.unary, streamCap.stream),
		// Outside the retries, which must end before the deadline. Streams may last as long as their callers want.
		{deadlineCap(s.options.MaxDeadline).unary, nil},
		// Outside the retries, which would not make the answer smaller.
		{newAnswerCap(s.receiver.most).unary, nil},
		// Next to the handler, so that a call that is retried counts as one call above. Streams are not retried, because
		// they may have sent messages already.
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

// recovered turns a panic into errPanic and logs its stack. It logs the panic's value only if that is a [runtime.Error],
// because any other value may contain a part of the request.
func (s *Server) recovered(ctx context.Context, value any) error {
	s.metrics.panics.Inc()
	text := "not logged because it may contain data of the request"
	if err, ok := value.(runtime.Error); ok {
		text = err.Error()
	}
	method, _ := grpc.Method(ctx)
	s.options.Logger.LogAttrs(ctx, slog.LevelError, "panic in a handler",
		slog.String("method", method), slog.String("panic", text), slog.String("stack", string(debug.Stack())))
	return errPanic
}

// unknownMethod answers calls of unregistered methods, which grpc-go passes to stream interceptors with a nil srv.
func (s *Server) unknownMethod(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if srv != nil {
		return handler(srv, ss)
	}
	s.metrics.unknownMethods.Inc()
	return fail(errNoMethod)
}

// drain gives a stream a context that is cancelled with the cause errDraining when the server shuts down.
func (s *Server) drain(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.streams, func() { cancel(errDraining) })()
	drained := drainedStream{stream: stream{ss, ctx}}
	if !info.IsClientStream {
		drained.receiver = s.receiver
	}
	return handler(srv, drained)
}

// A stream is a [grpc.ServerStream] with another context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context that the handler sees.
func (s stream) Context() context.Context { return s.ctx }

// A drainedStream also stops receiving when its context ends. Without that a handler that waits for its client's next
// message, as that of the reflection service does, would hold up the shutdown.
type drainedStream struct {
	stream
	receiver *receiver // of the only request; nil where grpc-go receives, as many as the client sends
}

// RecvMsg receives a message of the client, and returns the context's error if the context ends first.
func (s drainedStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() {
		if s.receiver != nil {
			received <- s.receiver.receive(s.ctx, m, s.ServerStream.RecvMsg, new(reception))
		} else {
			received <- s.ServerStream.RecvMsg(m)
		}
	}()
	select {
	case err := <-received:
		return err
	case <-s.ctx.Done():
		// The goroutine returns when the call ends, right after the handler, which does not use m any more.
		return s.ctx.Err()
	}
}
