package service

import (
	"strconv"
	"time"

	"google.golang.org/grpc"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

const (
	// maxPrefixes is the maximum number of prefixes of one Watch.
	maxPrefixes = 16
	// heartbeat is the longest time for which a watch sends nothing.
	heartbeat = 5 * time.Second
	// maxWatchKeys and maxWatchBytes bound the keys of one WatchResponse and the sum of their lengths, so that a caller
	// with gRPC's default limit of 4 MiB can receive it and a slow one sees progress.
	maxWatchKeys  = 1000
	maxWatchBytes = 64 << 10
)

// Watch sends the events of a namespace until the caller ends the call.
func (c *Cache) Watch(r *cachev1.WatchRequest, stream grpc.ServerStreamingServer[cachev1.WatchResponse]) error {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	if len(r.GetPrefixes()) > maxPrefixes {
		f.add("prefixes", "must be at most %d", maxPrefixes)
	}
	for i, p := range r.GetPrefixes() {
		f.text("prefixes["+strconv.Itoa(i)+"]", p, 1, maxKeyBytes)
	}
	if err := f.err(); err != nil {
		return err
	}
	return c.store.Cache.Watch(stream.Context(), ns, r.GetPrefixes(), heartbeat, func(events []cache.WatchEvent) error {
		for len(events) > 0 {
			var resp *cachev1.WatchResponse
			resp, events = gather(events)
			// While Send waits for a slow caller, further events queue in the store.
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		return nil
	}, func() error {
		return stream.Send(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT})
	})
}

// gather returns the response that reports the first of the events, and the events that it leaves for the next response.
// If the first event is a key, the response reports the keys that directly follow it too, up to the limits and each once:
// a key that would move past another event, such as a RESET, starts the next response.
func gather(events []cache.WatchEvent) (resp *cachev1.WatchResponse, left []cache.WatchEvent) {
	switch e := events[0]; e.Kind {
	case cache.TagInvalidated:
		return &cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED, Tag: e.Name}, events[1:]
	case cache.NamespaceCleared:
		return &cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_CLEARED}, events[1:]
	case cache.WatchReset:
		return &cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_RESET}, events[1:]
	}
	resp = &cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_INVALIDATED, Keys: []string{events[0].Name}}
	bytes := len(events[0].Name)
	var told map[string]bool // the keys in the response; nil for a single event, the usual case
	for i, e := range events[1:] {
		if e.Kind != cache.KeyWritten {
			return resp, events[1+i:]
		}
		if told == nil {
			told = map[string]bool{events[0].Name: true}
		}
		if told[e.Name] {
			continue
		}
		if bytes += len(e.Name); len(resp.Keys) == maxWatchKeys || bytes > maxWatchBytes {
			return resp, events[1+i:]
		}
		told[e.Name] = true
		resp.Keys = append(resp.Keys, e.Name)
	}
	return resp, nil
}
