package service

import (
	"strconv"
	"time"

	"google.golang.org/grpc"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

const (
	maxPrefixes = 16
	// heartbeat is how long a watch is silent at most.
	heartbeat = 5 * time.Second
)

// Watch tells which keys are written.
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
	return c.store.Cache.Watch(stream.Context(), ns, r.GetPrefixes(), heartbeat, func(e cache.WatchEvent) error {
		resp := new(cachev1.WatchResponse)
		switch e.Kind {
		case cache.KeyWritten:
			resp.Event, resp.Key = cachev1.WatchEvent_WATCH_EVENT_INVALIDATED, e.Name
		case cache.TagInvalidated:
			resp.Event, resp.Tag = cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED, e.Name
		case cache.NamespaceCleared:
			resp.Event = cachev1.WatchEvent_WATCH_EVENT_CLEARED
		case cache.WatchReset:
			resp.Event = cachev1.WatchEvent_WATCH_EVENT_RESET
		}
		return stream.Send(resp)
	}, func() error {
		return stream.Send(&cachev1.WatchResponse{Event: cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT})
	})
}
