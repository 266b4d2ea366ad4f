package client

import (
	"context"
	"iter"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A WatchEvent says what happened in a watched namespace.
type WatchEvent struct {
	// Type says what happened.
	Type WatchEventType
	// Key is the key of a [KeyInvalidated] event; empty otherwise.
	Key string
	// Tag is the tag of a [TagInvalidated] event; empty otherwise.
	Tag string
}

// A WatchEventType is a type of [WatchEvent].
type WatchEventType string

// The types of events that [Cache.Watch] yields.
const (
	// KeyInvalidated means that a key was written or deleted, or has expired.
	KeyInvalidated WatchEventType = "INVALIDATED"
	// TagInvalidated means that a tag was invalidated.
	TagInvalidated WatchEventType = "TAG_INVALIDATED"
	// NamespaceCleared means that the namespace was cleared.
	NamespaceCleared WatchEventType = "CLEARED"
	// WatchReset means that events may have been lost: drop all copies. It is the first event of every watch. It also
	// stands for an event that only a later server knows.
	WatchReset WatchEventType = "RESET"
)

// Watch yields an event for every change of a key that begins with one of the prefixes, at most 16; without prefixes it
// yields those of every key of the namespace. It is for callers that keep copies of values, which the events do not
// contain. Events are in the order in which the replica heard of them, and a key that changes several times in quick
// succession may be reported once.
//
// The watch goes on while the caller ranges over it and ends with the loop. A caller that is slower than the events gets
// a [WatchReset] in place of those that it has missed. An error is yielded last; a new watch begins with a [WatchReset],
// so that a caller which drops its copies then misses nothing. The server's heartbeats are not yielded.
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
			for _, e := range watchEvents(r) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// watchEvents returns the events of a response, none for a heartbeat. A response that it cannot read may mean any change,
// for which the caller is told to drop all copies.
func watchEvents(r *cachev1.WatchResponse) []WatchEvent {
	switch r.GetEvent() {
	case cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT:
		return nil
	case cachev1.WatchEvent_WATCH_EVENT_INVALIDATED:
		if len(r.GetKeys()) == 0 {
			break
		}
		events := make([]WatchEvent, len(r.GetKeys()))
		for i, key := range r.GetKeys() {
			events[i] = WatchEvent{Type: KeyInvalidated, Key: key}
		}
		return events
	case cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED:
		return []WatchEvent{{Type: TagInvalidated, Tag: r.GetTag()}}
	case cachev1.WatchEvent_WATCH_EVENT_CLEARED:
		return []WatchEvent{{Type: NamespaceCleared}}
	}
	return []WatchEvent{{Type: WatchReset}}
}
