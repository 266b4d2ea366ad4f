package service

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/berthcare/larder/store/redis"
)

// A recorder counts each call, and writes a line for each that failed or was slow; the others are logged only at debug
// level and health checks never. It stands in for two interceptors of go-grpc-middleware: the one for logging chooses
// the level by the code alone, so that it cannot single out slow calls, and both work for each call whether or not
// anything is logged, which a hit in memory would notice.
type recorder struct {
	metrics *Metrics
	logger  *slog.Logger
	slow    time.Duration
}

func (r *recorder) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := r.metrics.methods[info.FullMethod]
	method.started.Inc()
	start := time.Now()
	ctx, wait := redis.WithTimer(ctx)
	resp, err := handler(ctx, req)
	took := time.Since(start)
	r.metrics.ended(method, codeOf(err), took)
	r.log(ctx, info.FullMethod, err, took, wait, took > r.slow)
	return resp, err
}

// stream calls no stream slow: it lasts as long as its caller wants.
func (r *recorder) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	method := r.metrics.methods[info.FullMethod]
	method.started.Inc()
	start := time.Now()
	ctx, wait := redis.WithTimer(ss.Context())
	err := handler(srv, stream{ss, ctx})
	took := time.Since(start)
	r.metrics.ended(method, codeOf(err), took)
	r.log(ctx, info.FullMethod, err, took, wait, false)
	return err
}

func (r *recorder) log(ctx context.Context, method string, err error, took time.Duration, wait *redis.Timer, slow bool) {
	level, message := slog.LevelDebug, "call"
	var f failure
	switch failed := (*failure)(nil); {
	case errors.As(err, &failed):
		f = *failed
		level, message = f.level(), "call failed"
	case slow:
		level, message = slog.LevelWarn, "slow call"
	}
	if !r.logger.Enabled(ctx, level) || strings.HasPrefix(method, healthPrefix) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("method", method), slog.String("code", f.status.Code().String()))
	if err != nil {
		attrs = append(attrs, slog.String("reason", f.reason))
		if cause := f.forTheLog(); cause != "" {
			attrs = append(attrs, slog.String("cause", cause))
		}
	}
	attrs = append(attrs,
		slog.Duration("duration", took), slog.Duration("redis_time", wait.Total()), slog.Int64("redis_trips", wait.Trips()))
	if p, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("peer", p.Addr.String()))
	}
	r.logger.LogAttrs(ctx, level, message, attrs...)
}
