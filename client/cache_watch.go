package client

import (
	"context"
	"iter"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A WatchEvent is something that happened to the keys of a namespace.
type WatchEvent struct {
	// Kind says what happened.
	Kind WatchKind
	// Key is the key of KeyInvalidated; Tag is the tag of TagInvalidated.
	Key, Tag string
}

// A WatchKind is a kind of event. It is the name of the protocol's enum value without its prefix.
type WatchKind string

// The kinds of events.
const (
	// KeyInvalidated means that a key was written, deleted or has expired.
	KeyInvalidated WatchKind = "INVALIDATED"
	// TagInvalidated means that a tag was invalidated.
	TagInvalidated WatchKind = "TAG_INVALIDATED"
	// NamespaceCleared means that the namespace was cleared.
	NamespaceCleared WatchKind = "CLEARED"
	// WatchReset means that events may have been lost: drop all copies. It is the first event of every watch.
	WatchReset WatchKind = "RESET"
)

// Watch tells which keys that begin with one of the prefixes are written, all keys if there are none, for callers that
// keep copies of their own. The watch goes on while the caller ranges over it and ends with the loop; an error comes last,
// and a new watch begins with a WatchReset, so that nothing is missed. Heartbeats are left out.
func (c *Cache) Watch(ctx context.Context, prefixes ...string) iter.Seq2[WatchEvent, error] {
	return func(yield func(WatchEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.rpc.Watch(ctx, &cachev1.WatchRequest{Namespace: c.namespace, Prefixes: prefixes})
		if err != nil {
			yield(WatchEvent{}, typed(err))
			return
		}
		for {
			r, err := stream.Recv()
			if err != nil {
				yield(WatchEvent{}, err)
				return
			}
			if r.GetEvent() == cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT {
				continue
			}
			if !yield(WatchEvent{Kind: WatchKind(name(r.GetEvent(), "WATCH_EVENT_")), Key: r.GetKey(), Tag: r.GetTag()}, nil) {
				return
			}
		}
	}
}
