package client

import (
	"context"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// An InvalidationMode says what becomes of invalidated entries.
type InvalidationMode = cachev1.InvalidationMode

// The modes of invalidation. The zero value is Remove.
const (
	// Remove makes entries gone.
	Remove = cachev1.InvalidationMode_INVALIDATION_MODE_DELETE
	// MakeStale makes entries stale: they are answered as Stale until their hard expiry and can be leased.
	MakeStale = cachev1.InvalidationMode_INVALIDATION_MODE_STALE
)

// InvalidateTags makes every entry with one of up to 32 tags gone or stale, at a cost that does not depend on how many
// they are. Entries written afterwards are not affected.
func (c *Cache) InvalidateTags(ctx context.Context, mode InvalidationMode, tags ...string) error {
	_, err := c.rpc.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Namespace: c.namespace, Tags: tags, Mode: mode})
	return err
}

// Clear makes every entry of this cache's namespace gone or stale, at a cost that does not depend on how many they are.
// Counters and plain values written by other Redis clients are left alone.
func (c *Cache) Clear(ctx context.Context, mode InvalidationMode) error {
	ns := c.namespace
	if ns == "" {
		ns = "default"
	}
	_, err := c.rpc.ClearNamespace(ctx, &cachev1.ClearNamespaceRequest{Namespace: ns, Mode: mode})
	return err
}
