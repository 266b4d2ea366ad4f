package service

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/store/redis"
)

// An accessLog writes a line for calls that fail and for unary calls that take longer than slow, one a second of each kind,
// which says how many there were; and at debug level one for every single call. Health checks get none.
//
// go-grpc-middleware writes the lines. Its interceptor builds the fields of a line whether or not the logger keeps it,
// which costs a call 3 µs, and derives the level from the code alone. So it is run after the call, around a handler that
// returns the call's error, and only if the call gets a line.
type accessLog struct {
	logger *slog.Logger
	slow   time.Duration
	digest *digest

	failedCall, slowCall, otherCall layer
}

func newAccessLog(d *digest, slow time.Duration) *accessLog {
	logger := d.logger
	return &accessLog{
		logger: logger, slow: slow, digest: d,
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
	return layer{logging.UnaryServerInterceptor(to, options...), logging.StreamServerInterceptor(to, options...)}
}

func (a *accessLog) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	ctx, wait := redis.WithTimer(ctx)
	resp, err := handler(ctx, req)
	took := time.Since(start)
	if line := a.line(ctx, info.FullMethod, err, took, took > a.slow); line != nil {
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
	took := time.Since(start)
	if line := a.line(ctx, info.FullMethod, err, took, false); line != nil {
		ctx = withCallFields(ctx, info.FullMethod, took, wait)
		_ = line.stream(srv, stream{ss, ctx}, info, func(any, grpc.ServerStream) error { return err })
	}
	return err
}

// line returns the interceptors that write the line of a call, nil if the call gets none of its own.
func (a *accessLog) line(ctx context.Context, method string, err error, took time.Duration, slow bool) *layer {
	line, kind := &a.otherCall, lineKind{level: slog.LevelDebug}
	cause := ""
	switch {
	case err != nil:
		code := codeOf(err)
		line, kind = &a.failedCall, lineKind{level: slog.Level(levelOf(code)), message: "calls failed", method: method, code: code.String()}
		if f := (*failure)(nil); errors.As(err, &f) {
			kind.reason, cause = f.reason, f.forTheLog()
		}
	case slow:
		line, kind = &a.slowCall, lineKind{level: slog.LevelWarn, message: "slow calls", method: method}
	}
	if !a.logger.Enabled(ctx, kind.level) || isHealth(method) || line != &a.otherCall && !a.digest.first(kind, took, cause) {
		return nil
	}
	return line
}

// isHealth reports whether a method is one of grpc.health.v1.
func isHealth(method string) bool {
	return strings.HasPrefix(method, "/"+healthv1.Health_ServiceDesc.ServiceName+"/")
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
