package service

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

// TestWatchOfACallerThatDoesNotRead: what waits for it is bounded to its queue and the windows of its connection, the
// others are not held up, and when it reads again it is told that it has missed something.
func TestWatchOfACallerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch := func() grpc.ServerStreamingClient[cachev1.WatchResponse] {
		// A connection of its own, as the windows are those of connections.
		stream := must[grpc.ServerStreamingClient[cachev1.WatchResponse]](t)(cachev1.NewCacheServiceClient(dial(t, a.running.addr)).Watch(ctx, &cachev1.WatchRequest{Namespace: "n"}))
		if first := must[*cachev1.WatchResponse](t)(stream.Recv()); first.Event != cachev1.WatchEvent_WATCH_EVENT_RESET {
			t.Fatalf("begins with %v", first)
		}
		return stream
	}
	slow, fast := watch(), watch()
	told := make(chan error, 1)
	until := func(stream grpc.ServerStreamingClient[cachev1.WatchResponse], key string) (bytes int, reset bool, err error) {
		for {
			r, err := stream.Recv()
			if err != nil || r.Key == key {
				return bytes, reset, err
			}
			bytes += len(r.Key)
			reset = reset || r.Event == cachev1.WatchEvent_WATCH_EVENT_RESET
		}
	}
	go func() {
		_, _, err := until(fast, "last")
		told <- err
	}()

	const written = 4 << 20
	long := strings.Repeat("k", 1000)
	for n := 0; n*len(long) < written; n += 200 {
		r := &cachev1.BatchSetRequest{Namespace: "n"}
		for i := range 200 {
			r.Items = append(r.Items, &cachev1.BatchSetItem{Key: fmt.Sprintf("%s-%d", long, n+i)})
		}
		must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(ctx, r))
	}
	a.set(t, &cachev1.SetRequest{Namespace: "n", Key: "last"})
	if err := <-told; err != nil {
		t.Errorf("the one that reads: %v", err)
	}
	bytes, reset, err := until(slow, "last")
	if err != nil || !reset || bytes > written/2 {
		t.Errorf("the one that did not read had %d of %d bytes waiting, a reset among them: %v, %v", bytes, written, reset, err)
	}
	t.Logf("%d bytes waited", bytes)
}
