package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// A deadlineCap is the maximum duration of a unary call; the caller's own deadline applies if it is earlier.
type deadlineCap time.Duration

func (d deadlineCap) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= time.Duration(d) {
		return handler(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d))
	defer cancel()
	return handler(ctx, req)
}
