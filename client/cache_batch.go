package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// BatchGetOptions are the options of [Cache.BatchGet]. The zero value reads as [Cache.Get] does.
type BatchGetOptions struct {
	// Primary reads from the Redis primaries and never from the replica's near cache.
	Primary bool
}

// BatchGet reads 1 to 1000 entries and returns one [Entry] for each key, in the order of keys. A batch is not atomic:
// each entry is read by itself. The outcomes are those of [Cache.Get], [Failed] and [Unprocessed]: the server stops after
// 3.5 MiB of values, and the caller has to ask for the rest again.
func (c *Cache) BatchGet(ctx context.Context, keys []string, o BatchGetOptions) ([]Entry, error) {
	r, err := c.rpc.BatchGet(ctx, &cachev1.BatchGetRequest{Namespace: c.namespace, Keys: keys, Consistency: consistency(o.Primary)})
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(r.GetResults()))
	for i, result := range r.GetResults() {
		e := entry(result)
		e.Key, e.Outcome, e.Err = result.GetKey(), Outcome(text(result.GetOutcome(), "BATCH_GET_OUTCOME_")), itemError(result.GetReason())
		entries[i] = e
	}
	return entries, nil
}

// A SetItem is one entry for [Cache.BatchSet].
type SetItem struct {
	// Key is the key to write.
	Key string
	// Value is the value to store.
	Value []byte
	// Options say how to write it. A batch accepts no conditions.
	Options SetOptions
}

// BatchSet writes 1 to 1000 entries and returns one [WriteResult] for each item, in the order of items. A batch is not
// atomic: each entry is written by itself, and its outcome is [Stored] or [Failed]. If items share a key the last one
// wins. One invalid item fails the whole call with [ErrInvalid]; a failure that all items share fails it too.
func (c *Cache) BatchSet(ctx context.Context, items []SetItem) ([]WriteResult, error) {
	req := &cachev1.BatchSetRequest{Namespace: c.namespace, Items: make([]*cachev1.BatchSetItem, len(items))}
	for i, item := range items {
		o := item.Options
		m := &cachev1.BatchSetItem{
			Key:         item.Key,
			Value:       item.Value,
			StaleTtl:    duration(o.StaleTTL),
			Negative:    o.Negative,
			Tags:        o.Tags,
			ContentType: o.ContentType,
		}
		if o.conditions() > 0 {
			return nil, invalid(fmt.Sprintf("items[%d].precondition", i), "a batch accepts no conditions")
		}
		if !setExpiry(m, o.TTL, o.ExpireTime, o.Never) {
			return nil, invalid(fmt.Sprintf("items[%d].expiry", i), expiryTwice)
		}
		req.Items[i] = m
	}
	r, err := c.rpc.BatchSet(ctx, req)
	if err != nil {
		return nil, err
	}
	results := make([]WriteResult, len(r.GetResults()))
	for i, result := range r.GetResults() {
		results[i] = WriteResult{
			Key:     result.GetKey(),
			Outcome: Outcome(text(result.GetOutcome(), "BATCH_SET_OUTCOME_")),
			ETag:    result.GetEtag(),
			Err:     itemError(result.GetReason()),
		}
	}
	return results, nil
}

// BatchDelete deletes 1 to 1000 entries and returns one [WriteResult] for each key, in the order of keys. A batch is not
// atomic: each entry is deleted by itself, and its outcome is [Deleted], [Miss] or [Failed]. A failure that all keys
// share fails the call.
func (c *Cache) BatchDelete(ctx context.Context, keys []string) ([]WriteResult, error) {
	r, err := c.rpc.BatchDelete(ctx, &cachev1.BatchDeleteRequest{Namespace: c.namespace, Keys: keys})
	if err != nil {
		return nil, err
	}
	results := make([]WriteResult, len(r.GetResults()))
	for i, result := range r.GetResults() {
		results[i] = WriteResult{
			Key:     result.GetKey(),
			Outcome: Outcome(text(result.GetOutcome(), "BATCH_DELETE_OUTCOME_")),
			Err:     itemError(result.GetReason()),
		}
	}
	return results, nil
}

// itemError returns why one item of a batch failed, nil for no reason. The server sends the reason without a code.
func itemError(reason string) error {
	if reason == "" {
		return nil
	}
	return &Error{Code: codes.Unknown, Reason: reason}
}
