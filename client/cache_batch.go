package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// BatchGetOptions say how to read entries.
type BatchGetOptions struct {
	// Primary reads from the Redis primaries, never from the replica's near cache.
	Primary bool
}

// BatchGet reads up to 1000 entries, each by itself, and returns one for each key in the order of keys. An entry may be
// Failed, or Unprocessed when the answer grew too large; ask for such keys again.
func (c *Cache) BatchGet(ctx context.Context, keys []string, o BatchGetOptions) ([]Entry, error) {
	r, err := c.rpc.BatchGet(ctx, &cachev1.BatchGetRequest{Namespace: c.namespace, Keys: keys, Consistency: consistency(o.Primary)})
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(r.GetResults()))
	for i, result := range r.GetResults() {
		e := entry(result)
		e.Key, e.Outcome, e.Err = result.GetKey(), Outcome(name(result.GetOutcome(), "BATCH_GET_OUTCOME_")), itemError(result.GetReason())
		entries[i] = e
	}
	return entries, nil
}

// An Item is an entry to write in a batch.
type Item struct {
	// Key is the entry's key.
	Key string
	// Value is the value to store.
	Value []byte
	// Options say how to write it. A batch takes no conditions.
	Options SetOptions
}

// BatchSet writes up to 1000 entries, each by itself, and returns what became of each in the order of items: Stored or
// Failed. Of items with one key the last wins; one invalid item fails the call.
func (c *Cache) BatchSet(ctx context.Context, items []Item) ([]Written, error) {
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
			return nil, invalid(fmt.Sprintf("items[%d].precondition", i), "a batch takes no conditions")
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
	written := make([]Written, len(r.GetResults()))
	for i, result := range r.GetResults() {
		written[i] = Written{
			Key:     result.GetKey(),
			Outcome: Outcome(name(result.GetOutcome(), "BATCH_SET_OUTCOME_")),
			ETag:    result.GetEtag(),
			Err:     itemError(result.GetReason()),
		}
	}
	return written, nil
}

// BatchDelete removes up to 1000 entries, each by itself, and returns what became of each in the order of keys: Deleted,
// Miss or Failed.
func (c *Cache) BatchDelete(ctx context.Context, keys []string) ([]Written, error) {
	r, err := c.rpc.BatchDelete(ctx, &cachev1.BatchDeleteRequest{Namespace: c.namespace, Keys: keys})
	if err != nil {
		return nil, err
	}
	written := make([]Written, len(r.GetResults()))
	for i, result := range r.GetResults() {
		written[i] = Written{
			Key:     result.GetKey(),
			Outcome: Outcome(name(result.GetOutcome(), "BATCH_DELETE_OUTCOME_")),
			Err:     itemError(result.GetReason()),
		}
	}
	return written, nil
}

// itemError is why one item of a batch failed: the server tells its reason alone.
func itemError(reason string) error {
	if reason == "" {
		return nil
	}
	return &Error{Code: codes.Unknown, Reason: reason}
}
