package service

import (
	"context"
	"errors"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// Set writes one entry.
func (c *Cache) Set(ctx context.Context, r *cachev1.SetRequest) (*cachev1.SetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.SetRequest_Never)
	w := f.write(r, neverSet)
	cond := f.condition(r)
	w.Fence = f.fence(r.GetFence())
	if err := f.err(); err != nil {
		return nil, err
	}
	stored, etag, err := c.store.Cache.Set(ctx, ns, key, w, cond)
	if errors.Is(err, cache.ErrFenced) {
		return &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_FENCED}, nil
	}
	if err != nil {
		return nil, err
	}
	outcome := cachev1.SetOutcome_SET_OUTCOME_NOT_STORED
	if stored {
		outcome = cachev1.SetOutcome_SET_OUTCOME_STORED
	}
	return &cachev1.SetResponse{Outcome: outcome, Etag: etag}, nil
}

// Delete removes one entry.
func (c *Cache) Delete(ctx context.Context, r *cachev1.DeleteRequest) (*cachev1.DeleteResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	var match *cache.ETag
	if r.GetIfMatch() != "" {
		e := f.etag("if_match", r.GetIfMatch())
		match = &e
	}
	fence := f.fence(r.GetFence())
	if err := f.err(); err != nil {
		return nil, err
	}
	deleted, etag, err := c.store.Cache.DeleteFenced(ctx, ns, key, match, fence)
	if errors.Is(err, cache.ErrFenced) {
		return &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_FENCED}, nil
	}
	if err != nil {
		return nil, err
	}
	outcome := cachev1.DeleteOutcome_DELETE_OUTCOME_MISS
	switch {
	case deleted:
		outcome = cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED
	case etag != "":
		outcome = cachev1.DeleteOutcome_DELETE_OUTCOME_NOT_DELETED
	}
	return &cachev1.DeleteResponse{Outcome: outcome, Etag: etag}, nil
}

// touchModes maps the modes of the API to those of the store.
var touchModes = map[cachev1.TouchMode]cache.TouchMode{
	cachev1.TouchMode_TOUCH_MODE_UNSPECIFIED:  cache.TouchOverwrite,
	cachev1.TouchMode_TOUCH_MODE_OVERWRITE:    cache.TouchOverwrite,
	cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY:  cache.TouchExtend,
	cachev1.TouchMode_TOUCH_MODE_SHORTEN_ONLY: cache.TouchShorten,
}

// Touch changes the expiry of one entry.
func (c *Cache) Touch(ctx context.Context, r *cachev1.TouchRequest) (*cachev1.TouchResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.TouchRequest_Never)
	fresh := f.jittered(f.fresh(r, neverSet), r, neverSet)
	mode := enum(f, "mode", r.GetMode(), cachev1.TouchMode_name)
	if err := f.err(); err != nil {
		return nil, err
	}
	found, changed, err := c.store.Cache.Touch(ctx, ns, key, fresh, touchModes[mode])
	if err != nil {
		return nil, err
	}
	outcome := cachev1.TouchOutcome_TOUCH_OUTCOME_MISS
	switch {
	case changed:
		outcome = cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED
	case found:
		outcome = cachev1.TouchOutcome_TOUCH_OUTCOME_UNCHANGED
	}
	return &cachev1.TouchResponse{Outcome: outcome}, nil
}
