package redis_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestDeadlinesHoldWhenRedisStalls: connections stay open and nothing answers. No call outlives its deadline, not even
// while connections are given up and dialled anew, and what is beyond MaxInFlight is turned away.
func TestDeadlinesHoldWhenRedisStalls(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, MaxInFlight: 32, NearCacheBytes: 1 << 20}})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	const deadline, margin = 250 * time.Millisecond, 500 * time.Millisecond
	server.Pause(t)
	var mu sync.Mutex
	counts := map[string]int{}
	longest, timers := time.Duration(0), time.Duration(0)
	var callers sync.WaitGroup
	stop := time.Now().Add(4 * time.Second) // the connections are given up after two seconds
	// What a timer is late by on this machine just now is no fault of the store's.
	for range 4 {
		callers.Go(func() {
			for time.Now().Before(stop) {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				begin := time.Now()
				<-ctx.Done()
				took := time.Since(begin)
				cancel()
				mu.Lock()
				timers = max(timers, took)
				mu.Unlock()
			}
		})
	}
	for caller := range 100 {
		callers.Go(func() {
			for time.Now().Before(stop) {
				patience := deadline
				if caller%4 == 0 {
					patience = 10 * deadline // and so it may be the one that dials, for longer than others can wait
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				begin := time.Now()
				var err error
				if caller%2 == 0 {
					_, err = s.Cache.Get(ctx, "n", fmt.Sprint(caller), true)
				} else {
					_, _, err = s.Cache.Set(ctx, "n", fmt.Sprint(caller), cache.Write{}, cache.Condition{})
				}
				took := time.Since(begin)
				cancel()
				kind := fmt.Sprint(err)
				if errors.Is(err, redis.ErrOverloaded) {
					kind = "overloaded"
					if redis.Retryable(err) {
						t.Errorf("Retryable(%v) = true, want false", err)
					}
				}
				mu.Lock()
				counts[kind]++
				longest = max(longest, took-patience+deadline)
				mu.Unlock()
			}
		})
	}
	storetest.Eventually(t, "the cap is reached", func() bool { return s.Stats().InFlight == 32 })
	callers.Wait()
	t.Logf("longest %v of %v, of a timer %v, %v", longest, deadline, timers, counts)
	if longest > margin+2*timers-deadline {
		t.Errorf("a call with a deadline of %v took %v while a timer took %v, want at most %v", deadline, longest, timers, margin+2*timers-deadline)
	}
	if counts["overloaded"] == 0 || counts[context.DeadlineExceeded.Error()] == 0 {
		t.Errorf("results %v, want some overloaded and some beyond their deadline", counts)
	}
	server.Resume(t)
	storetest.Eventually(t, "it works again", func() bool {
		_, err := s.Cache.Get(t.Context(), "n", "key", true)
		return err == nil
	})
	storetest.Eventually(t, "nothing is under way", func() bool { return s.Stats().InFlight == 0 })
}

// TestDeadlineHoldsWhileAnotherCallerDials: the greeting of a new connection is not answered, and the caller that waits for
// it has more patience than the next one.
func TestDeadlineHoldsWhileAnotherCallerDials(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	watched := new(watcher)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheBytes, o.Redis.Observer = []string{proxy.Addr}, 0, watched
	s := storetest.Open(t, o)
	proxy.Blackhole(true)
	proxy.CutAll()
	storetest.Eventually(t, "the loss is noticed", func() bool { return watched.seen(redis.Closed) == watched.seen(redis.Dialed) })
	dialed := watched.seen(redis.Dialed)
	patient := make(chan error, 1)
	go func() {
		for {
			_, err := s.Cache.Get(t.Context(), "n", "key", false)
			if t.Context().Err() != nil || watched.seen(redis.Dialed) > dialed { // else it met the end of the old connection
				patient <- err
				return
			}
		}
	}()
	storetest.Eventually(t, "it is dialled", func() bool { return watched.seen(redis.Dialed) > dialed })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := s.Cache.Get(ctx, "n", "key", false)
	if took := time.Since(begin); took > 500*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get with 20 ms = %v (%s) after %v, want %v within 500ms", err, storetest.Cause(err), took, context.DeadlineExceeded)
	}
	if err := <-patient; !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Get of the caller that dialled = %v (%s), want %v", err, storetest.Cause(err), redis.ErrUnavailable)
	}
}

// TestCancelledCallerIsAlone: one caller goes away, and neither the others nor the connections do.
func TestCancelledCallerIsAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	before := clientIDs(t, server)
	if len(before) != 3 {
		t.Fatalf("connections = %v, want 3", before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone, others := make(chan error, 20), make(chan error, 20)
	server.Pause(t)
	for i := range 20 {
		ctx, results := ctx, gone
		if i%2 == 0 {
			ctx, results = t.Context(), others
		}
		go func() {
			var err error
			switch i % 4 {
			case 0, 1: // one key: of those who share a read, the one that asks may be the one that goes away
				_, err = s.Cache.Get(ctx, "n", "shared", true)
			case 2:
				_, err = s.Cache.Get(ctx, "n", "key", false)
			default:
				_, _, err = s.Cache.Set(ctx, "n", "other", cache.Write{}, cache.Condition{})
			}
			results <- err
		}()
	}
	storetest.Eventually(t, "all are under way", func() bool { return s.Stats().InFlight >= 10 })
	cancel()
	for range 10 {
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled caller got %v, want %v", err, context.Canceled)
		}
	}
	server.Resume(t)
	for range 10 {
		if err := <-others; err != nil {
			t.Errorf("a caller that stayed got %v (%s), want no error", err, redis.Cause(err))
		}
	}
	if diff := cmp.Diff(before, clientIDs(t, server)); diff != "" {
		t.Errorf("connections (-before +after):\n%s", diff)
	}
}

// TestPanicInARoundTripIsAnError: a command built wrongly fails its own caller alone, also while connections are being made,
// when round trips run in goroutines of their own.
func TestPanicInARoundTripIsAnError(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	watched, logged := new(watcher), new(syncBuffer)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs, o.Redis.NearCacheBytes, o.Redis.Observer = []string{proxy.Addr}, 0, watched
	o.Redis.Logger = slog.New(slog.NewTextHandler(logged, nil))
	s := storetest.Open(t, o)
	check := func(when string) {
		t.Helper()
		_, err := redis.RoundTrip(t.Context(), s.Redis, "test", redis.Reads, func(context.Context, *redis.Conns) (int, error) {
			panic("wrongly built")
		})
		if !errors.Is(err, redis.ErrInternal) {
			t.Errorf("%s: RoundTrip = %v, want %v", when, err, redis.ErrInternal)
		}
	}
	check("connected")
	proxy.Blackhole(true)
	proxy.CutAll()
	storetest.Eventually(t, "the loss is noticed", func() bool { return watched.seen(redis.Closed) == watched.seen(redis.Dialed) })
	check("connecting")
	if text := logged.String(); strings.Count(text, "panic in a round trip") != 2 || !strings.Contains(text, "roundtrip_test.go") {
		t.Errorf("log = %q, want two panics with their stacks", text)
	}
	storetest.Eventually(t, "nothing is under way", func() bool { return s.Stats().InFlight == 0 })
}

// syncBuffer is a buffer that a logger writes and a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestScriptsSurviveAFlush: a Redis that has forgotten the scripts, as after a restart, is taught them again.
func TestScriptsSurviveAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				server.Do(t, "SCRIPT", "FLUSH")
			}
		}
	}()
	for i := range int64(300) {
		r, err := s.Cache.Increment(t.Context(), "n", "counter", cache.Increment{Delta: 1})
		if err != nil || r.Value != i+1 {
			t.Fatalf("Increment = %+v, %v (%s), want %d", r, err, storetest.Cause(err), i+1)
		}
		if _, _, err := s.Cache.Touch(t.Context(), "n", "counter", time.Hour, cache.TouchOverwrite); err != nil {
			t.Fatalf("Touch = %v (%s), want no error", err, storetest.Cause(err))
		}
	}
	close(stop)
	<-stopped
}

// TestObserverHearsOfEveryTrip, by names that say nothing about keys.
func TestObserverHearsOfEveryTrip(t *testing.T) {
	t.Parallel()
	watched := new(watcher)
	o := storetest.Options(t, redis.Standalone)
	teacher := storetest.Open(t, o) // a server that does not know a script yet costs another round trip
	if _, _, err := teacher.Cache.Touch(t.Context(), storetest.NewNamespace(), "key", time.Minute, cache.TouchOverwrite); err != nil {
		t.Errorf("Touch = %v, want no error", err)
	}
	o.Redis.Observer = watched
	s, namespace := storetest.Open(t, o), storetest.NewNamespace()
	for range 2 {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value")})
	}
	storetest.Get(t, s, namespace, "key", false)
	if _, err := s.Cache.BatchGet(t.Context(), namespace, storetest.Keys(10), true); err != nil {
		t.Errorf("BatchGet = %v, want no error", err)
	}
	if _, _, err := s.Cache.Touch(t.Context(), namespace, "key", time.Minute, cache.TouchOverwrite); err != nil {
		t.Errorf("Touch = %v, want no error", err)
	}
	want := map[string]int{"set": 2, "get": 3, "cache_touch": 1}
	if diff := cmp.Diff(want, watched.commands); diff != "" {
		t.Errorf("round trips (-want +got):\n%s", diff)
	}
}
