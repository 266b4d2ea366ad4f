package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// TestWatch receives events of every type from a real server, and none of keys without the prefix.
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
			t.Fatalf("event %d = %+v, %v; want %+v", next, e, err, steps[next].want)
		}
		if next++; next == len(steps) {
			break
		}
		if err := steps[next].do(); err != nil {
			t.Fatalf("step %d failed with %v, want no error", next, err)
		}
	}
	if next != len(steps) {
		t.Errorf("Watch ended after %d events, want %d", next, len(steps))
	}
	cancel()
	for _, err := range c.Cache.Watch(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Watch with a canceled context = error %v, want context.Canceled", err)
		}
	}
}

// TestWatchLeavesHeartbeatsOut: Watch yields all other events in the order of the server, a WatchReset for a response that
// it does not understand, and last the server's error.
func TestWatchLeavesHeartbeatsOut(t *testing.T) {
	t.Parallel()
	const heartbeat, invalidated = cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT, cachev1.WatchEvent_WATCH_EVENT_INVALIDATED
	b := &backend{watch: func(s grpc.ServerStreamingServer[cachev1.WatchResponse]) error {
		for _, r := range []*cachev1.WatchResponse{
			{Event: cachev1.WatchEvent_WATCH_EVENT_RESET},
			{Event: heartbeat},
			{Event: heartbeat},
			{Event: invalidated, Keys: []string{"k"}},
			{Event: heartbeat},
			{Event: invalidated, Keys: []string{"a1", "b1", "a2"}},
			{Event: cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED, Tag: "t"},
			{Event: cachev1.WatchEvent_WATCH_EVENT_CLEARED},
			{Event: 99, Keys: []string{"of a later server"}},
			{Event: invalidated},
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
	want := []client.WatchEvent{
		{Type: client.WatchReset},
		{Type: client.KeyInvalidated, Key: "k"},
		{Type: client.KeyInvalidated, Key: "a1"},
		{Type: client.KeyInvalidated, Key: "b1"},
		{Type: client.KeyInvalidated, Key: "a2"},
		{Type: client.TagInvalidated, Tag: "t"},
		{Type: client.NamespaceCleared},
		{Type: client.WatchReset},
		{Type: client.WatchReset},
		{Type: client.WatchReset},
	}
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(last, client.ErrUnavailable) {
		t.Errorf("Watch ended with %v, want ErrUnavailable; events (-want +got):\n%s", last, diff)
	}
	if prefixes := b.last(t).(*cachev1.WatchRequest).GetPrefixes(); !slices.Equal(prefixes, []string{"a", "b"}) {
		t.Errorf("the server was asked for the prefixes %q, want a and b", prefixes)
	}
}

// TestWatchOfASlowCaller: a caller that does not read while keys are written receives all of them afterwards.
func TestWatchOfASlowCaller(t *testing.T) {
	t.Parallel()
	c, writer := embedded(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const keys, batch = 300, 20 // of 1000 bytes and each twice: more than the windows of a connection hold, and less than the queue
	set := func(items ...client.SetItem) error {
		_, err := writer.Cache.BatchSet(ctx, items)
		for errors.Is(err, client.ErrUnavailable) && ctx.Err() == nil { // the machine is busy
			_, err = writer.Cache.BatchSet(ctx, items)
		}
		return err
	}
	write := func() error {
		for first := 0; first < keys; first += batch {
			items := make([]client.SetItem, batch)
			for i := range items {
				items[i].Key = fmt.Sprintf("%s-%d", strings.Repeat("k", 1000), first+i)
			}
			if err := errors.Join(set(items...), set(items...)); err != nil {
				return err
			}
		}
		return set(client.SetItem{Key: "last"})
	}
	told := map[string]bool{}
	for e, err := range c.Cache.Watch(ctx) {
		switch {
		case err != nil:
			t.Fatalf("Watch ended with %v after %d keys, want all", err, len(told))
		case e.Type == client.WatchReset:
			if err := write(); err != nil { // the loop does not read meanwhile
				t.Fatalf("writing failed with %v, want no error", err)
			}
		}
		told[e.Key] = true
		if e.Key == "last" {
			break
		}
	}
	if delete(told, ""); len(told) != keys+1 {
		t.Errorf("%d keys were yielded, want %d", len(told), keys+1)
	}
}
