package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// watching is a Watch under way and what it has told.
type watching struct {
	mu     sync.Mutex
	events []store.WatchEvent
	cancel context.CancelFunc
	done   chan error
}

func (w *watching) seen() []store.WatchEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]store.WatchEvent(nil), w.events...)
}

// after returns what was told from the nth event on.
func (w *watching) after(n int) []store.WatchEvent { return w.seen()[n:] }

func (w *watching) has(e store.WatchEvent) func() bool {
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
		tb.Errorf("the watch ended with %v", err)
	}
}

// watch begins a Watch, which has begun when it returns. Hold, if any, is called after every delivery of events.
func watch(t *testing.T, s *store.Store, namespace string, prefixes []string, hold func()) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{cancel: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- s.Watch(ctx, namespace, prefixes, time.Hour, func(events []store.WatchEvent) error {
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
	eventually(t, "the watch has begun", func() bool { return len(w.seen()) > 0 })
	if first := w.seen()[0]; first != (store.WatchEvent{Kind: store.WatchReset}) {
		t.Fatalf("begins with %+v", first)
	}
	return w
}

// TestWatchTellsEverything: writes of every kind, by whichever replica, and nothing of other prefixes and namespaces.
func TestWatchTellsEverything(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		for _, writer := range replicas(t, s) {
			namespace := newNamespace()
			all, some := watch(t, s, namespace, nil, nil), watch(t, s, namespace, []string{"a/", "b/"}, nil)
			step := func(what string, want store.WatchEvent, told bool, do func() error) {
				t.Helper()
				counts := len(all.seen())
				if err := do(); err != nil {
					t.Fatalf("%s: %v: %s", what, err, store.Cause(err))
				}
				eventually(t, what+" is told", func() bool {
					for _, e := range all.after(counts) {
						if e == want {
							return true
						}
					}
					return false
				})
				if told {
					eventually(t, what+" is told by prefix", some.has(want))
				}
			}
			step("set", written("a/1"), true, func() error {
				_, _, err := writer.Set(t.Context(), namespace, "a/1", tagged("value", "tag"), store.Condition{})
				return err
			})
			step("touch", written("a/1"), true, func() error {
				_, _, err := writer.Touch(t.Context(), namespace, "a/1", 2*time.Hour, store.TouchOverwrite)
				return err
			})
			step("delete", written("a/1"), true, func() error {
				_, _, err := writer.Delete(t.Context(), namespace, "a/1", nil)
				return err
			})
			step("another prefix", written("c/1"), false, func() error {
				_, err := writer.Increment(t.Context(), namespace, "c/1", store.Increment{Delta: 1})
				return err
			})
			step("batch", written("b/{}"), true, func() error {
				_, err := writer.BatchSet(t.Context(), namespace, []store.BatchWrite{{Key: "b/{}", Write: tagged("value")}})
				return err
			})
			step("fill", written("b/filled"), true, func() error {
				_, _, err := writer.Fill(t.Context(), namespace, "b/filled", lease(t, writer, namespace, "b/filled", tenSeconds), tagged("value"))
				return err
			})
			step("tag", store.WatchEvent{Kind: store.TagInvalidated, Name: "a tag}"}, true, func() error {
				return writer.InvalidateTags(t.Context(), namespace, []string{"a tag}"}, store.InvalidateDelete, time.Hour)
			})
			set(t, writer, namespace+"0", "a/of another namespace", tagged("value"))
			step("clear", store.WatchEvent{Kind: store.NamespaceCleared}, true, func() error {
				return writer.ClearNamespace(t.Context(), namespace, store.InvalidateStale)
			})
			for _, e := range some.seen()[1:] {
				if e.Kind == store.KeyWritten && !strings.HasPrefix(e.Name, "a/") && !strings.HasPrefix(e.Name, "b/") || strings.Contains(e.Name, "another") {
					t.Errorf("told of %+v", e)
				}
			}
			for _, e := range all.seen()[1:] {
				if e.Kind == store.WatchReset || strings.Contains(e.Name, "another") {
					t.Errorf("told of %+v", e)
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
	_, s := alone(t)
	set(t, s, "n", "key", store.Write{Value: []byte("value"), Fresh: 200 * time.Millisecond})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	eventually(t, "the expiry is told", w.has(store.WatchEvent{Kind: store.KeyWritten, Name: "key"}))
}

// TestWatchLosesNothing: with 100 watchers and writes as fast as they go, thousands a second, every watcher is told of
// every write, unless it is told that it may not have been.
func TestWatchLosesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		writer := replicas(t, s)[1]
		watchers := make([]*watching, 100)
		for i := range watchers {
			watchers[i] = watch(t, s, namespace, nil, nil)
		}
		keys := keysOf(many(s, 4000))
		began := time.Now()
		var writers sync.WaitGroup
		for part := range 16 {
			writers.Go(func() {
				for i := part; i < len(keys); i += 16 {
					if _, _, err := writer.Set(t.Context(), namespace, keys[i], store.Write{}, store.Condition{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		took := time.Since(began)
		var resets int
		for i, w := range watchers {
			eventually(t, fmt.Sprintf("watcher %d knows all", i), func() bool {
				told := make(map[string]bool)
				for _, e := range w.after(1) {
					if e.Kind == store.WatchReset {
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
	proxy := redistest.StartProxy(t, topologies.standalone.Addr)
	o := options(store.Standalone)
	o.Addrs = []string{proxy.Addr}
	s, direct, namespace := open(t, o), open(t, options(store.Standalone)), newNamespace()
	watchers := make([]*watching, 10)
	for i := range watchers {
		watchers[i] = watch(t, s, namespace, nil, nil)
	}
	keys := keysOf(2000)
	before := make([][]int, len(keys)) // what each watcher had been told before the write
	for i, key := range keys {
		for _, w := range watchers {
			before[i] = append(before[i], len(w.seen()))
		}
		if i%200 == 100 {
			go proxy.CutAll()
		}
		set(t, direct, namespace, key, store.Write{})
	}
	for j, w := range watchers {
		for i, key := range keys {
			w.tells(t, before[i][j], written(key))
		}
		if w.resets() == 1 {
			t.Error("no connection was cut")
		}
		w.end(t)
	}
}

// TestWatchSlowReader: what waits for a slow reader is bounded, and it is told to start over. The others are not held up.
func TestWatchSlowReader(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const most = 1 << 20
		gate := make(chan struct{})
		slow := watch(t, s, namespace, nil, func() { <-gate })
		fast := watch(t, s, namespace, nil, nil)
		long := strings.Repeat("k", 1000)
		n := 2 * most / len(long)
		for start := 0; start < n; start += 100 {
			items := make([]store.BatchWrite, 100)
			for i := range items {
				items[i].Key = fmt.Sprintf("%s-%d", long, start+i)
			}
			if _, err := s.BatchSet(t.Context(), namespace, items); err != nil {
				t.Fatal(err)
			}
		}
		set(t, s, namespace, "last", store.Write{})
		last := store.WatchEvent{Kind: store.KeyWritten, Name: "last"}
		eventually(t, "the fast one knows the last", fast.has(last))
		if got := len(slow.seen()); got != 1 {
			t.Fatalf("the slow one has had %d", got)
		}
		close(gate)
		eventually(t, "the slow one knows the last", slow.has(last))
		events := slow.after(1)
		if events[0].Kind != store.WatchReset {
			t.Errorf("goes on with %+v", events[0].Kind)
		}
		bytes := 0
		for _, e := range events {
			bytes += len(e.Name)
		}
		if bytes > most {
			t.Errorf("%d bytes waited for it", bytes)
		}
		slow.end(t)
		fast.end(t)
	})
}

// TestWatchResetAfterConnectionCut: what was written meanwhile is covered by a reset that comes after it, and then events
// go on.
func TestWatchResetAfterConnectionCut(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, topologies.standalone.Addr)
	o := options(store.Standalone)
	o.Addrs = []string{proxy.Addr}
	s, direct, namespace := open(t, o), open(t, options(store.Standalone)), newNamespace()
	w := watch(t, s, namespace, []string{"key"}, nil)
	defer w.end(t)
	resets := func() (n int) {
		for _, e := range w.seen() {
			if e.Kind == store.WatchReset {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		before := resets()
		proxy.Refuse(true)
		proxy.CutAll()
		eventually(t, "the loss is told", func() bool { return resets() > before })
		missed := fmt.Sprintf("key-missed-%d", round)
		set(t, direct, namespace, missed, store.Write{})
		before = resets()
		proxy.Refuse(false)
		eventually(t, "the end of the loss is told", func() bool { return resets() > before })
		heard := fmt.Sprintf("key-heard-%d", round)
		set(t, direct, namespace, heard, store.Write{})
		eventually(t, "events go on", w.has(store.WatchEvent{Kind: store.KeyWritten, Name: heard}))
	}
}

// TestWatchIdle: its caller hears when nothing happens, and can end it.
func TestWatchIdle(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		enough := errors.New("enough")
		idles, began := 0, time.Now()
		err := s.Watch(t.Context(), namespace, nil, 30*time.Millisecond, func([]store.WatchEvent) error { return nil }, func() error {
			if idles++; idles == 3 {
				return enough
			}
			return nil
		})
		if took := time.Since(began); !errors.Is(err, enough) || took < 90*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
		err = s.Watch(t.Context(), namespace, nil, time.Hour, func([]store.WatchEvent) error { return enough }, func() error { return nil })
		if !errors.Is(err, enough) {
			t.Errorf("the caller's error became %v", err)
		}
	})
}

// TestLastWatcherClosesTheConnections, and all watchers of a namespace share them.
func TestLastWatcherClosesTheConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}})
	connections := func() int {
		return strings.Count(fmt.Sprint(server.Do(t, "CLIENT", "LIST")), "name=larder")
	}
	before := connections()
	for range 3 {
		first := watch(t, s, "n", nil, nil)
		one := connections()
		if one <= before {
			t.Errorf("%d connections, %d before", one, before)
		}
		second := watch(t, s, "n", []string{"x"}, nil)
		if got := connections(); got != one {
			t.Errorf("%d connections for two watchers, %d for one", got, one)
		}
		first.end(t)
		set(t, s, "n", "x", store.Write{})
		eventually(t, "the second goes on", second.has(store.WatchEvent{Kind: store.KeyWritten, Name: "x"}))
		second.end(t)
		eventually(t, "the connections are closed", func() bool { return connections() == before })
	}
}
