package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"pgregory.net/rapid"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/cache"
)

// A watching is a Watch over a connection of its own, since the flow control windows that hold up a slow reader belong to
// connections.
type watching struct {
	grpc.ServerStreamingClient[cachev1.WatchResponse]
}

// watch begins a Watch of the namespace "n" and waits for its first event.
func watch(ctx context.Context, t *testing.T, a *api) watching {
	t.Helper()
	stream := must[grpc.ServerStreamingClient[cachev1.WatchResponse]](t)(cachev1.NewCacheServiceClient(dial(t, a.running.addr)).Watch(ctx, &cachev1.WatchRequest{Namespace: "n"}))
	if first := must[*cachev1.WatchResponse](t)(stream.Recv()); first.Event != cachev1.WatchEvent_WATCH_EVENT_RESET {
		t.Fatalf("the first response is %v, want a RESET", first)
	}
	return watching{stream}
}

// until reads until a key has been invalidated and returns what came up to then, without the heartbeats.
func (w watching) until(key string) (responses []*cachev1.WatchResponse, err error) {
	for {
		r, err := w.Recv()
		if err != nil {
			return responses, err
		}
		if r.Event != cachev1.WatchEvent_WATCH_EVENT_HEARTBEAT {
			responses = append(responses, r)
		}
		if slices.Contains(r.Keys, key) {
			return responses, nil
		}
	}
}

// isReset reports whether a response says that something was missed.
func isReset(r *cachev1.WatchResponse) bool { return r.Event == cachev1.WatchEvent_WATCH_EVENT_RESET }

// bytesOf returns the length of all keys in responses.
func bytesOf(responses ...*cachev1.WatchResponse) (n int) {
	for _, r := range responses {
		for _, key := range r.Keys {
			n += len(key)
		}
	}
	return n
}

// checkLimits checks what every response promises.
func checkLimits(t interface{ Errorf(string, ...any) }, responses []*cachev1.WatchResponse) {
	for i, r := range responses {
		if invalidated := r.Event == cachev1.WatchEvent_WATCH_EVENT_INVALIDATED; invalidated != (len(r.Keys) > 0) {
			t.Errorf("response %d: %v has %d keys, want some with INVALIDATED and none with others", i, r.Event, len(r.Keys))
		}
		if len(r.Keys) > 1000 || bytesOf(r) > 64<<10 {
			t.Errorf("response %d: %d keys of %d bytes, want at most 1000 of %d", i, len(r.Keys), bytesOf(r), 64<<10)
		}
		if sorted := slices.Sorted(slices.Values(r.Keys)); len(slices.Compact(sorted)) != len(r.Keys) {
			t.Errorf("response %d has the keys %q, want each key once", i, r.Keys)
		}
	}
}

// TestWatchOfACallerThatDoesNotRead: what waits for it is bounded to its queue and the windows of its connection, the
// others are not held up, and when it reads again it is told that it has missed something.
func TestWatchOfACallerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	slow, fast := watch(ctx, t, a), watch(ctx, t, a)
	told := make(chan error, 1)
	go func() {
		_, err := fast.until("last")
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
		t.Errorf("the caller that reads: error %v, want the last key", err)
	}
	responses, err := slow.until("last")
	bytes, reset := bytesOf(responses...), slices.ContainsFunc(responses, isReset)
	if err != nil || !reset || bytes > written/2 {
		t.Errorf("for the caller that did not read %d of %d bytes waited, a RESET among them: %v, error %v; want at most half of them and a RESET", bytes, written, reset, err)
	}
	checkLimits(t, responses)
	t.Logf("%d bytes waited", bytes)
}

// TestWatchGathersForASlowCaller: what is written while a send waits for the caller comes in few responses, and all of it.
func TestWatchGathersForASlowCaller(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	slow := watch(ctx, t, a)

	const keys = 1400 // of 300 bytes and each twice: more than the windows of a connection hold, and less than the queue
	long := strings.Repeat("k", 295)
	write := func(from, to int) {
		r := &cachev1.BatchSetRequest{Namespace: "n"}
		for i := from; i < to; i++ {
			r.Items = append(r.Items, &cachev1.BatchSetItem{Key: fmt.Sprintf("%s-%04d", long, i)})
		}
		must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(ctx, r))
	}
	for from := 0; from < keys; from += 100 {
		write(from, from+100)
		write(from, from+100) // and again
	}
	a.set(t, &cachev1.SetRequest{Namespace: "n", Key: "last"})

	responses, err := slow.until("last")
	if err != nil {
		t.Fatalf("the slow caller: error %v, want the last key", err)
	}
	checkLimits(t, responses)
	told := map[string]bool{}
	for _, r := range responses {
		for _, key := range r.Keys {
			told[key] = true
		}
	}
	if lost := slices.ContainsFunc(responses, isReset); !lost && len(told) != keys+1 || len(responses) > keys/3 {
		t.Errorf("%d keys in %d responses, a RESET among them: %v; want %d in at most %d", len(told), len(responses), lost, keys+1, keys/3)
	}
	t.Logf("%d keys in %d responses", len(told), len(responses))
}

// TestWatchKeyWrittenWhileASendIsUnderWay: writers race with the sends to a caller that reads at once and to one that
// reads a response for each hundred writes. Neither misses a key without a RESET, and the events of each writer keep
// their order.
func TestWatchKeyWrittenWhileASendIsUnderWay(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const writers, rounds, run = 4, 20, 10 // a writer writes a run of keys, then invalidates a tag, again and again
	long := strings.Repeat("k", 500)
	name := func(w, i int) string { return fmt.Sprintf("%d/%04d/%s", w, i, long) }
	tag := func(w, i int) string { return fmt.Sprintf("%d/%04d", w, i) }

	fast, slow := watch(ctx, t, a), watch(ctx, t, a)
	type told struct {
		responses []*cachev1.WatchResponse
		err       error
	}
	fastTold, slowTold := make(chan told, 1), make(chan told, 1)
	go func() {
		r, err := fast.until("last")
		fastTold <- told{r, err}
	}()
	paced := make(chan struct{}, writers*rounds)
	go func() {
		var early []*cachev1.WatchResponse
		for range paced { // ends with the writers
			r, err := slow.Recv()
			if err != nil {
				slowTold <- told{early, err}
				return
			}
			early = append(early, r)
			if slices.Contains(r.Keys, "last") {
				slowTold <- told{early, nil}
				return
			}
		}
		r, err := slow.until("last")
		slowTold <- told{append(early, r...), err}
	}()

	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for round := range rounds {
				for i := round * run; i < (round+1)*run; i++ {
					if _, err := a.cache.Set(ctx, &cachev1.SetRequest{Namespace: "n", Key: name(w, i)}); err != nil {
						t.Errorf("Set = error %v, want none", err)
					}
					if _, err := a.cache.Set(ctx, &cachev1.SetRequest{Namespace: "n", Key: "hot"}); err != nil {
						t.Errorf("Set = error %v, want none", err)
					}
				}
				if _, err := a.cache.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Namespace: "n", Tags: []string{tag(w, round)}}); err != nil {
					t.Errorf("InvalidateTags = error %v, want none", err)
				}
				if round%5 == 4 {
					paced <- struct{}{}
				}
			}
		})
	}
	writing.Wait()
	close(paced)
	a.set(t, &cachev1.SetRequest{Namespace: "n", Key: "last"})

	for who, got := range map[string]told{"the fast caller": <-fastTold, "the slow caller": <-slowTold} {
		if got.err != nil {
			t.Errorf("%s: error %v, want the last key", who, got.err)
			continue
		}
		checkLimits(t, got.responses)
		if slices.ContainsFunc(got.responses, isReset) { // Redis did not answer for seconds
			t.Logf("%s: got a RESET", who)
			continue
		}
		place := map[string]int{} // of keys and tags among all that was told
		for _, r := range got.responses {
			for _, key := range r.Keys {
				place[key] = len(place) + 1
			}
			if r.Tag != "" {
				place["tag "+r.Tag] = len(place) + 1
			}
		}
		for w := range writers {
			before := 0
			for round := range rounds {
				for i := round * run; i < (round+1)*run; i++ {
					if at := place[name(w, i)]; at <= before {
						t.Errorf("%s: key %d of writer %d has place %d, want one after %d", who, i, w, at, before)
					} else {
						before = at
					}
				}
				if at := place["tag "+tag(w, round)]; at <= before {
					t.Errorf("%s: tag %d of writer %d has place %d, want one after %d", who, round, w, at, before)
				} else {
					before = at
				}
			}
		}
		if place["hot"] == 0 {
			t.Errorf("%s: was not told of the key that everybody writes, want to be told of it at least once", who)
		}
		t.Logf("%s: %d keys and tags in %d responses", who, len(place), len(got.responses))
	}
}

// TestGatherKeepsEveryEvent: whatever the events, the responses tell all of them, in order, within the limits.
func TestGatherKeepsEveryEvent(t *testing.T) {
	t.Parallel()
	name := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "c"}),
		rapid.Map(rapid.IntRange(1, 1024), func(n int) string { return strings.Repeat("x", n) }),
	)
	event := rapid.Custom(func(r *rapid.T) cache.WatchEvent {
		switch kind := rapid.SampledFrom([]cache.WatchKind{
			cache.KeyWritten, cache.KeyWritten, cache.KeyWritten, cache.KeyWritten, cache.TagInvalidated, cache.NamespaceCleared, cache.WatchReset,
		}).Draw(r, "kind"); kind {
		case cache.KeyWritten, cache.TagInvalidated:
			return cache.WatchEvent{Kind: kind, Name: name.Draw(r, "name")}
		default:
			return cache.WatchEvent{Kind: kind}
		}
	})
	rapid.Check(t, func(r *rapid.T) {
		var events []cache.WatchEvent
		for range rapid.IntRange(1, 3).Draw(r, "parts") {
			if rapid.Bool().Draw(r, "many keys") {
				length := rapid.SampledFrom([]int{1, 60, 1000}).Draw(r, "length")
				for i := range rapid.IntRange(1, 2500).Draw(r, "keys") {
					events = append(events, cache.WatchEvent{Kind: cache.KeyWritten, Name: fmt.Sprintf("%0*d", length, i)})
				}
			}
			events = append(events, rapid.SliceOfN(event, 0, 50).Draw(r, "events")...)
		}
		var responses []*cachev1.WatchResponse
		for left := events; len(left) > 0; {
			var resp *cachev1.WatchResponse
			resp, left = gather(left)
			responses = append(responses, resp)
		}
		checkLimits(r, responses)

		// Told is what the responses say, events what they should; a key that is repeated before anything else happens
		// may be left out.
		i := 0
		for n, resp := range responses {
			if resp.Event != cachev1.WatchEvent_WATCH_EVENT_INVALIDATED {
				want := map[cache.WatchKind]cachev1.WatchEvent{
					cache.TagInvalidated: cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED, cache.NamespaceCleared: cachev1.WatchEvent_WATCH_EVENT_CLEARED,
					cache.WatchReset: cachev1.WatchEvent_WATCH_EVENT_RESET,
				}[events[i].Kind]
				if resp.Event != want || want == cachev1.WatchEvent_WATCH_EVENT_TAG_INVALIDATED && resp.Tag != events[i].Name {
					r.Fatalf("response %d is %v, want event %d: %+v", n, resp, i, events[i])
				}
				i++
				continue
			}
			told := 0
			for i < len(events) && events[i].Kind == cache.KeyWritten {
				if told < len(resp.Keys) && resp.Keys[told] == events[i].Name {
					told++
				} else if !slices.Contains(resp.Keys[:told], events[i].Name) {
					break
				}
				i++
			}
			if told != len(resp.Keys) {
				r.Fatalf("response %d has the keys %q, want those of the events from %d on", n, resp.Keys, i)
			}
			if next := n + 1; next < len(responses) && responses[next].Event == resp.Event && len(resp.Keys) < 1000 && bytesOf(resp)+len(responses[next].Keys[0]) <= 64<<10 {
				r.Fatalf("response %d has %d keys and %d bytes, and room for the first key of the next; want it there", n, len(resp.Keys), bytesOf(resp))
			}
		}
		if i != len(events) {
			r.Fatalf("the responses tell %d events, want %d", i, len(events))
		}
	})
}
