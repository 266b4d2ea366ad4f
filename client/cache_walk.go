package client

import (
	"context"
	"errors"
	"io"
	"iter"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// DeleteMatchingOptions say how to walk the keys.
type DeleteMatchingOptions struct {
	// ResumeToken continues a walk that was cut short, with the same pattern. Empty begins one.
	ResumeToken string
}

// Progress is how far DeleteMatching has come.
type Progress struct {
	// Deleted is how many entries this call has removed so far.
	Deleted int64
	// Done is set on the last progress of a walk that reached its end.
	Done bool
	// ResumeToken continues the walk from here in another call; empty when Done.
	ResumeToken string
}

// DeleteMatching removes every entry whose key matches a glob pattern over the whole key (* ? [a-c] [^a] \), by walking
// the keys of every primary. The walk goes on while the caller ranges over its progress and ends with the loop; an error
// comes last, and the ResumeToken before it continues the walk. Entries written meanwhile may or may not be removed.
func (c *Cache) DeleteMatching(ctx context.Context, pattern string, o DeleteMatchingOptions) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.rpc.DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{
			Namespace:   c.namespace,
			Pattern:     pattern,
			ResumeToken: o.ResumeToken,
		})
		if err != nil {
			yield(Progress{}, typed(err))
			return
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Progress{}, err)
				return
			}
			if !yield(Progress{Deleted: r.GetDeletedCount(), Done: r.GetDone(), ResumeToken: r.GetResumeToken()}, nil) {
				return
			}
		}
	}
}

// ListKeysOptions say how to walk the keys.
type ListKeysOptions struct {
	// PageSize is about how many keys to ask for at a time, at most 1000. Zero means 100.
	PageSize int32
}

// ListKeys walks the keys that match a glob pattern as in DeleteMatching, all keys if it is empty, in no order. It is for
// operators: it reads through every key in Redis. A key may come twice; one that exists throughout comes at least once.
// An error comes last.
func (c *Cache) ListKeys(ctx context.Context, pattern string, o ListKeysOptions) iter.Seq2[string, error] {
	return pages(func(token string) ([]string, string, error) {
		r, err := c.rpc.ListKeys(ctx, &cachev1.ListKeysRequest{
			Namespace: c.namespace,
			Pattern:   pattern,
			PageSize:  o.PageSize,
			PageToken: token,
		})
		return r.GetKeys(), r.GetNextPageToken(), err
	})
}
