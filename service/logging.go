package service

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/grpc"

	"github.com/berthcare/larder/store/redis"
)

// An accessLog writes one line for each call that fails and for each unary call that takes longer than slow, and at debug
// level one for every other call. Health checks get none.
//
// go-grpc-middleware writes the lines. Its interceptor builds the fields of a line whether or not the logger keeps it,
// which costs a call 3 µs, and derives the level from the code alone. So it is run after the call, around a handler that
// returns the call's error, and only if the call gets a line.
type accessLog struct {
	logger *slog.Logger
	slow   time.Duration

	failedCall, slowCall, otherCall layer
}

func newAccessLog(logger *slog.Logger, slow time.Duration) *accessLog {
	return &accessLog{
		logger: logger, slow: slow,
		failedCall: callLine(logger, "call failed", levelOf),
		slowCall:   callLine(logger, "slow call", always(logging.LevelWarn)),
		otherCall:  callLine(logger, "call", always(logging.LevelDebug)),
	}
}

// callLine returns the interceptors that write a line with a message, at the level that levels derive from the code.
func callLine(logger *slog.Logger, message string, levels logging.CodeToLevel) layer {
	to := logging.LoggerFunc(func(ctx context.Context, level logging.Level, _ string, fields ...any) {
		logger.LogAttrs(ctx, slog.Level(level), message, lineAttrs(fields)...)
	})
	options := []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall), logging.WithLevels(levels), logging.WithErrorFields(errorFields),
	}
	return exceptHealth(logging.UnaryServerInterceptor(to, options...), logging.StreamServerInterceptor(to, options...))
}

func (a *accessLog) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	ctx, wait := redis.WithTimer(ctx)
	resp, err := handler(ctx, req)
	took := time.Since(start)
	if line := a.line(ctx, err, took > a.slow); line != nil {
		ctx = withCallFields(ctx, info.FullMethod, took, wait)
		_, _ = line.unary(ctx, nil, info, func(context.Context, any) (any, error) { return nil, err })
	}
	return resp, err
}

// stream calls no stream slow, because a stream lasts as long as its caller wants.
func (a *accessLog) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	ctx, wait := redis.WithTimer(ss.Context())
	err := handler(srv, stream{ss, ctx})
	if line := a.line(ctx, err, false); line != nil {
		ctx = withCallFields(ctx, info.FullMethod, time.Since(start), wait)
		_ = line.stream(srv, stream{ss, ctx}, info, func(any, grpc.ServerStream) error { return err })
	}
	return err
}

// line returns the interceptors that write the line of a call, nil if the call gets none.
func (a *accessLog) line(ctx context.Context, err error, slow bool) *layer {
	line, level := &a.otherCall, logging.LevelDebug
	switch {
	case err != nil:
		line, level = &a.failedCall, levelOf(codeOf(err))
	case slow:
		line, level = &a.slowCall, logging.LevelWarn
	}
	if !a.logger.Enabled(ctx, slog.Level(level)) {
		return nil
	}
	return line
}

// withCallFields adds what the access log knows of a call to its fields.
func withCallFields(ctx context.Context, method string, took time.Duration, wait *redis.Timer) context.Context {
	return logging.InjectFields(ctx, logging.Fields{
		"method", method, "duration", took, "redis_time", wait.Total(), "redis_trips", wait.Trips(),
	})
}

// errorFields returns the fields of a call that failed.
func errorFields(err error) logging.Fields {
	var f *failure
	if !errors.As(err, &f) {
		return nil
	}
	fields := logging.Fields{"reason", f.reason}
	if cause := f.forTheLog(); cause != "" {
		fields = append(fields, "cause", cause)
	}
	return fields
}

// lineFields are the fields of a line in their order. None can contain a part of the request or of the answer; any other
// field of go-grpc-middleware, such as the error's message, is left out.
var lineFields = []struct{ name, from string }{
	{"method", "method"},
	{"code", "grpc.code"},
	{"reason", "reason"},
	{"cause", "cause"},
	{"duration", "duration"},
	{"redis_time", "redis_time"},
	{"redis_trips", "redis_trips"},
	{"peer", "peer.address"},
}

func lineAttrs(fields logging.Fields) []slog.Attr {
	attrs := make([]slog.Attr, 0, len(lineFields))
	for _, f := range lineFields {
		for i := fields.Iterator(); i.Next(); {
			if name, value := i.At(); name == f.from {
				attrs = append(attrs, slog.Any(f.name, value))
				break
			}
		}
	}
	return attrs
}
