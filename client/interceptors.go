package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// interceptors returns the interceptors of every call, outermost first.
func interceptors(o Options) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(
			logUnary(o.Logger),        // outermost: one line for each call, whatever its number of attempts
			typedUnary,                // inside the log, which contains the reason
			deadlineUnary(o.Timeout),  // outside the retries: all attempts share one deadline
			retryUnary(o.MaxAttempts), // innermost: interceptors of Options.DialOptions see each attempt
		),
		grpc.WithChainStreamInterceptor(
			logStream(o.Logger),
			typedStream,
			retryStream(o.MaxAttempts),
		),
	}
}

// A tappedStream passes the error of each RecvMsg, nil included, through tap, and names the fields of a request that cannot be
// sent.
type tappedStream struct {
	grpc.ClientStream

	tap func(error) error
}

func (s *tappedStream) RecvMsg(m any) error { return s.tap(s.ClientStream.RecvMsg(m)) }

func (s *tappedStream) SendMsg(m any) error { return typed(unsent(m, s.ClientStream.SendMsg(m))) }

// logUnary logs every call.
func logUnary(logger *slog.Logger) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoke(ctx, method, req, reply, cc, opts...)
		logCall(ctx, logger, method, start, err)
		return err
	}
}

// logStream logs every stream when it has ended.
func logStream(logger *slog.Logger) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		start := time.Now()
		var once sync.Once
		end := func(err error) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			once.Do(func() { logCall(ctx, logger, method, start, err) })
		}
		stream, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			end(err)
			return nil, err
		}
		// A caller that cancels its context may never call RecvMsg again.
		stop := context.AfterFunc(ctx, func() { end(typed(contextStatus(ctx))) })
		return &tappedStream{stream, func(err error) error {
			if err != nil {
				stop()
				end(err)
			}
			return err
		}}, nil
	}
}

// logCall writes the log line of a call. A call that its own caller canceled is not a failure.
func logCall(ctx context.Context, logger *slog.Logger, method string, start time.Time, err error) {
	level, e := slog.LevelDebug, &Error{}
	if err != nil {
		e = newError(err)
	}
	if e.Code != codes.OK && e.Code != codes.Canceled {
		level = slog.LevelWarn
	}
	if !logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", method), slog.String("code", e.Code.String()), slog.Duration("took", time.Since(start))}
	if err != nil {
		attrs = append(attrs, slog.String("reason", e.Reason), slog.String("error", e.Message))
	}
	logger.LogAttrs(ctx, level, "larder call", attrs...)
}

// typedUnary makes every call fail with an [*Error].
func typedUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return typed(unsent(req, invoke(ctx, method, req, reply, cc, opts...)))
}

// typedStream makes every stream fail with an [*Error].
func typedStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, typed(err)
	}
	return &tappedStream{stream, typed}, nil
}

// deadlineUnary gives a call whose context has no deadline one.
func deadlineUnary(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}
