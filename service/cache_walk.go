package service

import (
	"context"

	"google.golang.org/grpc"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// DeleteMatching removes the entries whose keys match a pattern.
func (c *Cache) DeleteMatching(r *cachev1.DeleteMatchingRequest, stream grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	pattern := f.pattern(r.GetPattern(), 1)
	if err := f.err(); err != nil {
		return err
	}
	return c.store.Cache.DeleteMatching(stream.Context(), ns, pattern, r.GetResumeToken(), func(deleted int64, next string) error {
		return stream.Send(&cachev1.DeleteMatchingResponse{DeletedCount: deleted, Done: next == "", ResumeToken: next})
	})
}

// ListKeys lists keys page by page.
func (c *Cache) ListKeys(ctx context.Context, r *cachev1.ListKeysRequest) (*cachev1.ListKeysResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	pattern := f.pattern(r.GetPattern(), 0)
	size := f.pageSize(r.GetPageSize(), 100, maxBatchItems)
	if err := f.err(); err != nil {
		return nil, err
	}
	keys, next, err := c.store.Cache.ListKeys(ctx, ns, pattern, r.GetPageToken(), size)
	if err != nil {
		return nil, err
	}
	return &cachev1.ListKeysResponse{Keys: keys, NextPageToken: next}, nil
}
