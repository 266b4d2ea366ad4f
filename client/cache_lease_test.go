package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// embedded returns a client of a server of its own, and another of the same server.
func embedded(t *testing.T) (one, other *client.Client) {
	t.Helper()
	address, stop, err := serveEmbedded()
	if err != nil {
		t.Fatalf("serveEmbedded: %v", err)
	}
	t.Cleanup(stop)
	return connect(t, client.Options{Target: address}), connect(t, client.Options{Target: address})
}

func TestGetOrLoadLoadsOnce(t *testing.T) {
	t.Parallel()
	one, other := embedded(t)
	const callers = 50
	var loads atomic.Int32
	var wg, begun sync.WaitGroup
	begun.Add(callers)
	for i := range callers {
		c := []*client.Client{one, other}[i%2]
		wg.Go(func() {
			begun.Done()
			e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{LeaseOptions: client.LeaseOptions{WaitTimeout: 20 * time.Second}}, func(context.Context) (client.LoadResult, error) {
				loads.Add(1)
				begun.Wait() // all want it while it is being loaded
				return client.LoadResult{Value: []byte("v")}, nil
			})
			if err != nil || e.Outcome != client.Hit || string(e.Value) != "v" {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads, want 1", n)
	}
}

func TestGetOrLoadWhenTheOriginFails(t *testing.T) {
	t.Parallel()
	c, _ := embedded(t)
	errOrigin := errors.New("the origin is down")
	loads := 0
	load := func(context.Context) (client.LoadResult, error) {
		loads++
		return client.LoadResult{}, errOrigin
	}
	o := client.LoadOptions{LeaseOptions: client.LeaseOptions{WaitTimeout: time.Millisecond}, RetryAfter: time.Minute}
	if _, err := c.Cache.GetOrLoad(t.Context(), "none", o, load); !errors.Is(err, errOrigin) {
		t.Errorf("error %v, want the origin's", err)
	}
	if _, err := c.Cache.GetOrLoad(t.Context(), "none", o, load); !errors.Is(err, client.ErrPending) {
		t.Errorf("error %v, want ErrPending", err)
	}
	if _, err := c.Cache.Set(t.Context(), "old", []byte("old"), client.SetOptions{TTL: time.Millisecond, StaleTTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for {
		if e, err := c.Cache.Get(t.Context(), "old"); err != nil {
			t.Fatal(err)
		} else if e.Outcome == client.Stale {
			break
		}
	}
	for range 2 { // the second time it is held back
		if e, err := c.Cache.GetOrLoad(t.Context(), "old", o, load); err != nil || e.Outcome != client.Stale || string(e.Value) != "old" {
			t.Errorf("got %+v, %v, want the stale value", e, err)
		}
	}
	if loads != 2 {
		t.Errorf("%d loads, want one for each key", loads)
	}
}

func TestGetOrLoadReturnsWhatCouldNotBeKept(t *testing.T) {
	t.Parallel()
	c, _ := embedded(t)
	e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{}, func(ctx context.Context) (client.LoadResult, error) {
		_, err := c.Cache.Set(ctx, "k", []byte("theirs"), client.SetOptions{})
		return client.LoadResult{Value: []byte("mine")}, err
	})
	if err != nil || string(e.Value) != "mine" || e.ETag != "" {
		t.Errorf("got %+v, %v", e, err)
	}
}

// TestWatch sees every kind of event, of the wanted keys alone, from a real server.
func TestWatch(t *testing.T) {
	t.Parallel()
	c, writer := embedded(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	steps := []struct {
		do   func() error
		want client.WatchEvent
	}{
		{func() error { return nil }, client.WatchEvent{Type: client.WatchReset}},
		{func() error {
			if _, err := writer.Cache.Set(ctx, "order:1", nil, client.SetOptions{}); err != nil {
				return err
			}
			_, err := writer.Cache.Set(ctx, "user:1", nil, client.SetOptions{Tags: []string{"tag"}})
			return err
		}, client.WatchEvent{Type: client.KeyInvalidated, Key: "user:1"}},
		{func() error { _, err := writer.Cache.Delete(ctx, "user:1", client.DeleteOptions{}); return err }, client.WatchEvent{Type: client.KeyInvalidated, Key: "user:1"}},
		{func() error { return writer.Cache.InvalidateTags(ctx, client.Remove, "tag") }, client.WatchEvent{Type: client.TagInvalidated, Tag: "tag"}},
		{func() error { return writer.Cache.Clear(ctx, client.Remove) }, client.WatchEvent{Type: client.NamespaceCleared}},
	}
	next := 0
	for e, err := range c.Cache.Watch(ctx, "user:") {
		if err != nil || e != steps[next].want {
			t.Fatalf("got %+v, %v, want %+v", e, err, steps[next].want)
		}
		if next++; next == len(steps) {
			break
		}
		if err := steps[next].do(); err != nil {
			t.Fatal(err)
		}
	}
	if next != len(steps) {
		t.Errorf("it ended after %d events", next)
	}
	cancel()
	for _, err := range c.Cache.Watch(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	}
}

// TestWatchLeavesHeartbeatsOut, passes on what it is told in the order of the server, and ends with the server's error.
func TestWatchLeavesHeartbeatsOut(t *testing.T) {
	t.Parallel()
	const heartbeat = cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT
	b := &backend{watch: func(s grpc.ServerStreamingServer[cachev1.WatchResponse]) error {
		for _, r := range []*cachev1.WatchResponse{
			{Event: cachev1.WatchEvent_WATCH_EVENT_RESET},
			{Event: heartbeat},
			{Event: heartbeat},
			{Event: cachev1.WatchEvent_WATCH_EVENT_INVALIDATED, Key: "k"},
			{Event: heartbeat},
			{Event: cachev1.WatchEvent_WATCH_EVENT_RESET},
			{Event: heartbeat},
		} {
			if err := s.Send(r); err != nil {
				return err
			}
		}
		return larderError(codes.Unavailable, "SERVER_SHUTTING_DOWN")
	}}
	c := connect(t, client.Options{Target: b.start(t, insecure.NewCredentials()).addr})
	var got []client.WatchEvent
	var last error
	for e, err := range c.Cache.Watch(t.Context(), "a", "b") {
		if last = err; err == nil {
			got = append(got, e)
		}
	}
	want := []client.WatchEvent{{Type: client.WatchReset}, {Type: client.KeyInvalidated, Key: "k"}, {Type: client.WatchReset}}
	if !slices.Equal(got, want) || !errors.Is(last, client.ErrUnavailable) {
		t.Errorf("got %+v and %v", got, last)
	}
	if prefixes := b.last(t).(*cachev1.WatchRequest).GetPrefixes(); !slices.Equal(prefixes, []string{"a", "b"}) {
		t.Errorf("asked for %q", prefixes)
	}
}
