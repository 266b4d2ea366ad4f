package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// watching is a Watch under way and what it has told.
type watching struct {
	mu     sync.Mutex
	events []cache.WatchEvent
	cancel context.CancelFunc
	done   chan error
}

func (w *watching) seen() []cache.WatchEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]cache.WatchEvent(nil), w.events...)
}

// after returns what was told from the nth event on.
func (w *watching) after(n int) []cache.WatchEvent { return w.seen()[n:] }

func (w *watching) has(e cache.WatchEvent) func() bool {
	return func() bool {
		for _, got := range w.seen() {
			if got == e {
				return true
			}
		}
		return false
	}
}

func (w *watching) end(tb testing.TB) {
	tb.Helper()
	w.cancel()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		tb.Errorf("Watch = %v, want %v", err, context.Canceled)
	}
}

// watch begins a Watch, which has begun when it returns. Hold, if any, is called after every delivery of events.
func watch(t *testing.T, s *store.Store, namespace string, prefixes []string, hold func()) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{cancel: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- s.Cache.Watch(ctx, namespace, prefixes, time.Hour, func(events []cache.WatchEvent) error {
			w.mu.Lock()
			w.events = append(w.events, events...)
			w.mu.Unlock()
			if hold != nil {
				hold()
			}
			return nil
		}, func() error { return nil })
	}()
	t.Cleanup(cancel)
	storetest.Eventually(t, "the watch has begun", func() bool { return len(w.seen()) > 0 })
	if first := w.seen()[0]; first != (cache.WatchEvent{Kind: cache.WatchReset}) {
		t.Fatalf("first event = %+v, want a reset", first)
	}
	return w
}

// TestWatchTellsEverything: writes of every kind, by whichever replica, and nothing of other prefixes and namespaces.
func TestWatchTellsEverything(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for _, writer := range storetest.Replicas(t, s) {
			namespace := storetest.NewNamespace()
			all, some := watch(t, s, namespace, nil, nil), watch(t, s, namespace, []string{"a/", "b/"}, nil)
			step := func(what string, want cache.WatchEvent, told bool, do func() error) {
				t.Helper()
				counts := len(all.seen())
				if err := do(); err != nil {
					t.Fatalf("%s: error %v, want none: %s", what, err, redis.Cause(err))
				}
				storetest.Eventually(t, what+" is told", func() bool {
					for _, e := range all.after(counts) {
						if e == want {
							return true
						}
					}
					return false
				})
				if told {
					storetest.Eventually(t, what+" is told by prefix", some.has(want))
				}
			}
			step("set", written("a/1"), true, func() error {
				_, _, err := writer.Cache.Set(t.Context(), namespace, "a/1", tagged("value", "tag"), cache.Condition{})
				return err
			})
			step("touch", written("a/1"), true, func() error {
				_, _, err := writer.Cache.Touch(t.Context(), namespace, "a/1", 2*time.Hour, cache.TouchOverwrite)
				return err
			})
			step("delete", written("a/1"), true, func() error {
				_, _, err := writer.Cache.Delete(t.Context(), namespace, "a/1", nil)
				return err
			})
			step("another prefix", written("c/1"), false, func() error {
				_, err := writer.Cache.Increment(t.Context(), namespace, "c/1", cache.Increment{Delta: 1})
				return err
			})
			step("batch", written("b/{}"), true, func() error {
				_, err := writer.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "b/{}", Write: tagged("value")}})
				return err
			})
			step("fill", written("b/filled"), true, func() error {
				_, _, err := writer.Cache.Fill(t.Context(), namespace, "b/filled", lease(t, writer, namespace, "b/filled", tenSeconds), tagged("value"))
				return err
			})
			step("tag", cache.WatchEvent{Kind: cache.TagInvalidated, Name: "a tag}"}, true, func() error {
				return writer.Cache.InvalidateTags(t.Context(), namespace, []string{"a tag}"}, cache.InvalidateDelete)
			})
			storetest.Set(t, writer, namespace+"0", "a/of another namespace", tagged("value"))
			step("clear", cache.WatchEvent{Kind: cache.NamespaceCleared}, true, func() error {
				return writer.Cache.ClearNamespace(t.Context(), namespace, cache.InvalidateStale)
			})
			for _, e := range some.seen()[1:] {
				if e.Kind == cache.KeyWritten && !strings.HasPrefix(e.Name, "a/") && !strings.HasPrefix(e.Name, "b/") || strings.Contains(e.Name, "another") {
					t.Errorf("told of %+v, want keys with a prefix of its own alone", e)
				}
			}
			for _, e := range all.seen()[1:] {
				if e.Kind == cache.WatchReset || strings.Contains(e.Name, "another") {
					t.Errorf("told of %+v, want events of the namespace and no reset", e)
				}
			}
			all.end(t)
			some.end(t)
		}
	})
}

// TestWatchTellsOfExpiry, on a server of its own: Redis looks for keys whose time is over a few at a time, and among very
// many takes long to find one.
func TestWatchTellsOfExpiry(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value"), Fresh: 200 * time.Millisecond})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	storetest.Eventually(t, "the expiry is told", w.has(cache.WatchEvent{Kind: cache.KeyWritten, Name: "key"}))
}

// TestWatchLosesNothing: with 100 watchers and writes as fast as they go, thousands a second, every watcher is told of
// every write, unless it is told that it may not have been.
func TestWatchLosesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		writer := storetest.Replicas(t, s)[1]
		watchers := make([]*watching, 100)
		for i := range watchers {
			watchers[i] = watch(t, s, namespace, nil, nil)
		}
		keys := storetest.Keys(many(s, 4000))
		began := time.Now()
		var writers sync.WaitGroup
		for part := range 16 {
			writers.Go(func() {
				for i := part; i < len(keys); i += 16 {
					if _, _, err := writer.Cache.Set(t.Context(), namespace, keys[i], cache.Write{}, cache.Condition{}); err != nil {
						t.Errorf("Set: error %v, want none", err)
					}
				}
			})
		}
		writers.Wait()
		took := time.Since(began)
		var resets int
		for i, w := range watchers {
			storetest.Eventually(t, fmt.Sprintf("watcher %d knows all", i), func() bool {
				told := make(map[string]bool)
				for _, e := range w.after(1) {
					if e.Kind == cache.WatchReset {
						return true
					}
					told[e.Name] = true
				}
				return len(told) == len(keys)
			})
			resets += w.resets() - 1
			w.end(t)
		}
		t.Logf("%.0f writes per second, %d resets", float64(len(keys))/took.Seconds(), resets)
	})
}

// TestWatchLosesNothingWhileConnectionsAreCut: of every write each watcher is told after it, or of a loss.
func TestWatchLosesNothingWhileConnectionsAreCut(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs = []string{proxy.Addr}
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	watchers := make([]*watching, 10)
	for i := range watchers {
		watchers[i] = watch(t, s, namespace, nil, nil)
	}
	keys := storetest.Keys(2000)
	before := make([][]int, len(keys)) // what each watcher had been told before the write
	for i, key := range keys {
		for _, w := range watchers {
			before[i] = append(before[i], len(w.seen()))
		}
		if i%200 == 100 {
			go proxy.CutAll()
		}
		storetest.Set(t, direct, namespace, key, cache.Write{})
	}
	for j, w := range watchers {
		for i, key := range keys {
			w.tells(t, before[i][j], written(key))
		}
		if w.resets() == 1 {
			t.Error("1 reset, want more: no connection was cut")
		}
		w.end(t)
	}
}

// TestWatchSlowReader: what waits for a slow reader is bounded, and it is told to start over. The others are not held up.
func TestWatchSlowReader(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const most = 1 << 20
		gate := make(chan struct{})
		slow := watch(t, s, namespace, nil, func() { <-gate })
		fast := watch(t, s, namespace, nil, nil)
		long := strings.Repeat("k", 1000)
		n := 2 * most / len(long)
		for start := 0; start < n; start += 100 {
			items := make([]cache.BatchWrite, 100)
			for i := range items {
				items[i].Key = fmt.Sprintf("%s-%d", long, start+i)
			}
			if _, err := s.Cache.BatchSet(t.Context(), namespace, items); err != nil {
				t.Fatalf("BatchSet: error %v, want none: %s", err, redis.Cause(err))
			}
		}
		storetest.Set(t, s, namespace, "last", cache.Write{})
		last := cache.WatchEvent{Kind: cache.KeyWritten, Name: "last"}
		storetest.Eventually(t, "the fast one knows the last", fast.has(last))
		if got := len(slow.seen()); got != 1 {
			t.Fatalf("the slow watcher has had %d events, want 1", got)
		}
		close(gate)
		storetest.Eventually(t, "the slow one knows the last", slow.has(last))
		events := slow.after(1)
		if events[0].Kind != cache.WatchReset {
			t.Errorf("the slow watcher's next event = %+v, want a reset", events[0])
		}
		bytes := 0
		for _, e := range events {
			bytes += len(e.Name)
		}
		if bytes > most {
			t.Errorf("%d bytes of events waited for the slow watcher, want at most %d", bytes, most)
		}
		slow.end(t)
		fast.end(t)
	})
}

// TestWatchResetAfterConnectionCut: what was written meanwhile is covered by a reset that comes after it, and then events
// go on.
func TestWatchResetAfterConnectionCut(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs = []string{proxy.Addr}
	s, direct, namespace := storetest.Open(t, o), storetest.Open(t, storetest.Options(t, redis.Standalone)), storetest.NewNamespace()
	w := watch(t, s, namespace, []string{"key"}, nil)
	defer w.end(t)
	resets := func() (n int) {
		for _, e := range w.seen() {
			if e.Kind == cache.WatchReset {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		before := resets()
		proxy.Refuse(true)
		proxy.CutAll()
		storetest.Eventually(t, "the loss is told", func() bool { return resets() > before })
		missed := fmt.Sprintf("key-missed-%d", round)
		storetest.Set(t, direct, namespace, missed, cache.Write{})
		before = resets()
		proxy.Refuse(false)
		storetest.Eventually(t, "the end of the loss is told", func() bool { return resets() > before })
		heard := fmt.Sprintf("key-heard-%d", round)
		storetest.Set(t, direct, namespace, heard, cache.Write{})
		storetest.Eventually(t, "events go on", w.has(cache.WatchEvent{Kind: cache.KeyWritten, Name: heard}))
	}
}

// TestWatchIdle: its caller hears when nothing happens, and can end it.
func TestWatchIdle(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		enough := errors.New("enough")
		idles, began := 0, time.Now()
		err := s.Cache.Watch(t.Context(), namespace, nil, 30*time.Millisecond, func([]cache.WatchEvent) error { return nil }, func() error {
			if idles++; idles == 3 {
				return enough
			}
			return nil
		})
		if took := time.Since(began); !errors.Is(err, enough) || took < 90*time.Millisecond {
			t.Errorf("Watch = %v after %v, want %v after 100ms", err, took, enough)
		}
		err = s.Cache.Watch(t.Context(), namespace, nil, time.Hour, func([]cache.WatchEvent) error { return enough }, func() error { return nil })
		if !errors.Is(err, enough) {
			t.Errorf("Watch = %v, want the caller's error %v", err, enough)
		}
	})
}

// TestLastWatcherClosesTheConnections, and all watchers of a namespace share them.
func TestLastWatcherClosesTheConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	connections := func() int {
		return strings.Count(fmt.Sprint(server.Do(t, "CLIENT", "LIST")), "name=larder")
	}
	before := connections()
	for range 3 {
		first := watch(t, s, "n", nil, nil)
		one := connections()
		if one <= before {
			t.Errorf("%d connections with a watcher, want more than the %d before", one, before)
		}
		second := watch(t, s, "n", []string{"x"}, nil)
		if got := connections(); got != one {
			t.Errorf("%d connections for two watchers, want the %d for one", got, one)
		}
		first.end(t)
		storetest.Set(t, s, "n", "x", cache.Write{})
		storetest.Eventually(t, "the second goes on", second.has(cache.WatchEvent{Kind: cache.KeyWritten, Name: "x"}))
		second.end(t)
		storetest.Eventually(t, "the connections are closed", func() bool { return connections() == before })
	}
}
