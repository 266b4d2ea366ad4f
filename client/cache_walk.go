package client

import (
	"context"
	"errors"
	"io"
	"iter"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// DeleteMatchingOptions are the options of [Cache.DeleteMatching].
type DeleteMatchingOptions struct {
	// ResumeToken continues a walk that did not reach its end, with the same namespace and pattern. Empty begins a walk.
	ResumeToken string
}

// Progress says how far [Cache.DeleteMatching] has come.
type Progress struct {
	// Deleted is the number of entries that this call has deleted so far.
	Deleted int64
	// Done is true for the last Progress of a walk that reached its end.
	Done bool
	// ResumeToken continues the walk from here in another call. It is empty if Done is true.
	ResumeToken string
}

// DeleteMatching deletes every entry whose key matches a pattern, by walking the keys of every Redis primary, and yields
// its [Progress] after each step. The walk goes on while the caller ranges over it and ends with the loop. Entries that
// are written during the walk may or may not be deleted.
//
// The pattern is a glob over the whole key, 1 to 1024 bytes: * matches any bytes, ? one byte, [a-c] and [^a] one byte of
// a class, and \ takes the next character literally.
//
// An error is yielded last; the ResumeToken of the Progress before it continues the walk. [Options].Timeout does not
// apply.
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

// ListKeysOptions are the options of [Cache.ListKeys].
type ListKeysOptions struct {
	// PageSize is approximately how many keys one call to the server asks for, 1 to 1000. Zero means 100, and more than
	// 1000 means 1000.
	PageSize int
}

// ListKeys yields the keys that match a pattern as in [Cache.DeleteMatching], in no order; an empty pattern matches all
// keys. A key may be yielded twice; a key that exists during the whole walk is yielded at least once. An error is
// yielded last.
//
// ListKeys is for operators: it reads every key in Redis, whatever its namespace.
func (c *Cache) ListKeys(ctx context.Context, pattern string, o ListKeysOptions) iter.Seq2[string, error] {
	return pages(func(token string) ([]string, string, error) {
		r, err := c.rpc.ListKeys(ctx, &cachev1.ListKeysRequest{
			Namespace: c.namespace,
			Pattern:   pattern,
			PageSize:  toInt32(o.PageSize),
			PageToken: token,
		})
		return r.GetKeys(), r.GetNextPageToken(), err
	})
}
