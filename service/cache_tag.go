package service

import (
	"context"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// invalidationModes are the store's words for the modes.
var invalidationModes = map[cachev1.InvalidationMode]cache.InvalidationMode{
	cachev1.InvalidationMode_INVALIDATION_MODE_UNSPECIFIED: cache.InvalidateDelete,
	cachev1.InvalidationMode_INVALIDATION_MODE_DELETE:      cache.InvalidateDelete,
	cachev1.InvalidationMode_INVALIDATION_MODE_STALE:       cache.InvalidateStale,
}

// tagMemory is for how many times the longest ttl an invalidation is remembered: Touch gives an entry a ttl of up to that
// and leaves its stale_ttl, which may be as long.
const tagMemory = 2

// InvalidateTags makes the entries of tags stale or gone.
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
	if err := c.store.Cache.InvalidateTags(ctx, ns, tags, invalidationModes[mode], tagMemory*c.limits.MaxTTL); err != nil {
		return nil, err
	}
	return &cachev1.InvalidateTagsResponse{}, nil
}

// ClearNamespace makes the entries of a namespace stale or gone.
func (c *Cache) ClearNamespace(ctx context.Context, r *cachev1.ClearNamespaceRequest) (*cachev1.ClearNamespaceResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	if r.GetNamespace() == "" {
		f.add("namespace", "must be given")
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
