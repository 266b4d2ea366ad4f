package service

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// A deadlineCap bounds how long a unary call may take: the time that the caller gave it, but at most this long.
type deadlineCap time.Duration

func (d deadlineCap) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= time.Duration(d) {
		return handler(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(d))
	defer cancel()
	return handler(ctx, req)
}
