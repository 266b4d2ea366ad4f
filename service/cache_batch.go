package service

import (
	"context"
	"strconv"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// BatchGet reads several entries.
func (c *Cache) BatchGet(ctx context.Context, r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.keys(ns, r.GetKeys())
	near := enum(f, "consistency", r.GetConsistency(), cachev1.Consistency_name) != cachev1.Consistency_CONSISTENCY_PRIMARY
	if err := f.err(); err != nil {
		return nil, err
	}
	answer := newBatchAnswer(r.GetKeys(), c.limits.MaxBatchBytes, f.rules.Cache.AllowStale, c.reads.of(ns))
	err := c.store.Cache.BatchGetEach(ctx, ns, r.GetKeys(), near && f.rules.Cache.NearCache, func(first int, found []cache.BatchFound) bool {
		now := c.store.Redis.Now()
		for i := range found {
			answer.add(first+i, &found[i], now)
		}
		return len(answer.resp.Unprocessed) == 0
	})
	if err != nil {
		return nil, err
	}
	return answer.end(), nil
}

// BatchSet writes several entries.
func (c *Cache) BatchSet(ctx context.Context, r *cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.count("items", len(r.GetItems()))
	items := make([]cache.BatchWrite, min(len(r.GetItems()), maxBatchItems))
	for i := range items {
		item := r.GetItems()[i]
		f.prefix = "items[" + strconv.Itoa(i) + "]."
		_, neverSet := item.GetExpiry().(*cachev1.BatchSetItem_Never)
		items[i] = cache.BatchWrite{Key: f.key("key", ns, item.GetKey()), Write: f.write(item, neverSet)}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	stored, err := c.store.Cache.BatchSet(ctx, ns, items)
	if err == nil {
		err = shared(stored, func(s cache.BatchStored) error { return s.Err })
	}
	if err != nil {
		return nil, err
	}
	resp := &cachev1.BatchSetResponse{Results: make([]*cachev1.BatchSetResult, len(items))}
	for i, s := range stored {
		resp.Results[i] = &cachev1.BatchSetResult{
			Key: items[i].Key, Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED, Etag: s.ETag,
		}
		if s.Err != nil {
			resp.Results[i].Outcome = cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED
			resp.Results[i].Reason = reason(s.Err)
		}
	}
	return resp, nil
}

// shared returns the error of the first item if every item of a batch failed for the same reason, otherwise nil.
func shared[T any](results []T, errOf func(T) error) error {
	first := errOf(results[0])
	for _, r := range results {
		if reason(errOf(r)) != reason(first) {
			return nil
		}
	}
	return first
}

// BatchDelete removes several entries.
func (c *Cache) BatchDelete(ctx context.Context, r *cachev1.BatchDeleteRequest) (*cachev1.BatchDeleteResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.keys(ns, r.GetKeys())
	if err := f.err(); err != nil {
		return nil, err
	}
	deleted, err := c.store.Cache.BatchDelete(ctx, ns, r.GetKeys())
	if err == nil {
		err = shared(deleted, func(d cache.BatchDeleted) error { return d.Err })
	}
	if err != nil {
		return nil, err
	}
	resp := &cachev1.BatchDeleteResponse{Results: make([]*cachev1.BatchDeleteResult, len(deleted))}
	for i, d := range deleted {
		result := &cachev1.BatchDeleteResult{Key: r.GetKeys()[i], Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_MISS}
		switch {
		case d.Err != nil:
			result.Outcome, result.Reason = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_FAILED, reason(d.Err)
		case d.Deleted:
			result.Outcome = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED
		}
		resp.Results[i] = result
	}
	return resp, nil
}
