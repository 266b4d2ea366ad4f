package client

import (
	"context"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// An InvalidationMode says what an invalidation does to the entries. Empty means [Remove].
type InvalidationMode string

// The modes of [Cache.InvalidateTags] and [Cache.Clear].
const (
	// Remove removes the entries: reads of them are a [Miss].
	Remove InvalidationMode = "DELETE"
	// MakeStale makes the entries stale: reads of them are [Stale] until TTL and StaleTTL are over, and the next
	// [Cache.GetOrLease] gets the lease to load a new value.
	MakeStale InvalidationMode = "STALE"
)

// InvalidateTags invalidates every entry that has one of the tags, 1 to 32 of them. Its cost does not depend on the
// number of entries. Entries that are written afterwards are not affected.
func (c *Cache) InvalidateTags(ctx context.Context, mode InvalidationMode, tags ...string) error {
	m, err := number[cachev1.InvalidationMode]("mode", mode, "INVALIDATION_MODE_", cachev1.InvalidationMode_value)
	if err != nil {
		return err
	}
	_, err = c.rpc.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Namespace: c.namespace, Tags: tags, Mode: m})
	return err
}

// Clear invalidates every entry of the Cache's namespace. Its cost does not depend on the number of entries. Counters,
// and plain values that other Redis clients wrote, do not record when they were written and are not affected:
// [Cache.DeleteMatching] deletes them too.
func (c *Cache) Clear(ctx context.Context, mode InvalidationMode) error {
	m, err := number[cachev1.InvalidationMode]("mode", mode, "INVALIDATION_MODE_", cachev1.InvalidationMode_value)
	if err != nil {
		return err
	}
	ns := c.namespace
	if ns == "" {
		ns = "default"
	}
	_, err = c.rpc.ClearNamespace(ctx, &cachev1.ClearNamespaceRequest{Namespace: ns, Mode: m})
	return err
}
