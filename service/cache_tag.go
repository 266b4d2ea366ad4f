package service

import (
	"context"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// invalidationModes maps the modes of the API to those of the store.
var invalidationModes = map[cachev1.InvalidationMode]cache.InvalidationMode{
	cachev1.InvalidationMode_INVALIDATION_MODE_UNSPECIFIED: cache.InvalidateDelete,
	cachev1.InvalidationMode_INVALIDATION_MODE_DELETE:      cache.InvalidateDelete,
	cachev1.InvalidationMode_INVALIDATION_MODE_STALE:       cache.InvalidateStale,
}

// InvalidateTags makes all entries with any of the tags stale, or deletes them.
func (c *Cache) InvalidateTags(ctx context.Context, r *cachev1.InvalidateTagsRequest) (*cachev1.InvalidateTagsResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	tags := f.tags(r.GetTags())
	if len(r.GetTags()) == 0 {
		f.add("tags", "must not be empty")
	}
	mode := enum(f, "mode", r.GetMode(), cachev1.InvalidationMode_name)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := c.store.Cache.InvalidateTags(ctx, ns, tags, invalidationModes[mode]); err != nil {
		return nil, err
	}
	return &cachev1.InvalidateTagsResponse{}, nil
}

// ClearNamespace makes all entries of a namespace stale, or deletes them.
func (c *Cache) ClearNamespace(ctx context.Context, r *cachev1.ClearNamespaceRequest) (*cachev1.ClearNamespaceResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	if r.GetNamespace() == "" {
		f.add("namespace", "must not be empty")
	}
	mode := enum(f, "mode", r.GetMode(), cachev1.InvalidationMode_name)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := c.store.Cache.ClearNamespace(ctx, ns, invalidationModes[mode]); err != nil {
		return nil, err
	}
	return &cachev1.ClearNamespaceResponse{}, nil
}
