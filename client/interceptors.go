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

// interceptors returns what every call passes through, outermost first.
func interceptors(o Options) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(
			logUnary(o.Logger),        // outermost: one line for a call, however many attempts it took
			typedUnary,                // inside the log, which tells the reason
			deadlineUnary(o.Timeout),  // outside the retries, which have to share it
			retryUnary(o.MaxAttempts), // innermost of ours: what DialOptions add sees each attempt
		),
		grpc.WithChainStreamInterceptor(
			logStream(o.Logger),
			typedStream,
			retryStream(o.MaxAttempts),
		),
	}
}

// A tappedStream passes what each RecvMsg returned through tap.
type tappedStream struct {
	grpc.ClientStream

	tap func(error) error
}

func (s *tappedStream) RecvMsg(m any) error { return s.tap(s.ClientStream.RecvMsg(m)) }

func logUnary(logger *slog.Logger) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoke(ctx, method, req, reply, cc, opts...)
		logCall(ctx, logger, method, start, err)
		return err
	}
}

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
		// A caller may cancel the stream and never receive from it again.
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

// logCall writes the line of a call. One that its own caller gave up is no failure.
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

func typedUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return typed(invoke(ctx, method, req, reply, cc, opts...))
}

func typedStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, typed(err)
	}
	return &tappedStream{stream, typed}, nil
}

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
