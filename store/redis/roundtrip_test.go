package redis_test

import (
	"context"
	"errors"
	"fmt"
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
						t.Error("asks for more of it")
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
		t.Errorf("a call with %v took %v, a timer %v", deadline, longest, timers)
	}
	if counts["overloaded"] == 0 || counts[context.DeadlineExceeded.Error()] == 0 {
		t.Errorf("%v", counts)
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
		t.Errorf("a call with 20 ms took %v: %v: %s", took, err, storetest.Cause(err))
	}
	if err := <-patient; !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("the call that dialled: %v: %s", err, storetest.Cause(err))
	}
}

// TestCancelledCallerIsAlone: one caller goes away, and neither the others nor the connections do.
func TestCancelledCallerIsAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	before := clientIDs(t, server)
	if len(before) != 2 {
		t.Fatalf("connections %v", before)
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
			t.Errorf("who went away: %v", err)
		}
	}
	server.Resume(t)
	for range 10 {
		if err := <-others; err != nil {
			t.Errorf("who stayed: %v: %s", err, redis.Cause(err))
		}
	}
	if diff := cmp.Diff(before, clientIDs(t, server)); diff != "" {
		t.Errorf("connections (-before +after):\n%s", diff)
	}
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
			t.Fatalf("%+v, %v: %s", r, err, storetest.Cause(err))
		}
		if _, _, err := s.Cache.Touch(t.Context(), "n", "counter", time.Hour, cache.TouchOverwrite); err != nil {
			t.Fatal(err)
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
	o.Redis.Observer = watched
	s, namespace := storetest.Open(t, o), storetest.NewNamespace()
	for range 2 {
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value")})
	}
	storetest.Get(t, s, namespace, "key", false)
	if _, err := s.Cache.BatchGet(t.Context(), namespace, storetest.Keys(10), true); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Cache.Touch(t.Context(), namespace, "key", time.Minute, cache.TouchOverwrite); err != nil {
		t.Error(err)
	}
	want := map[string]int{"set": 2, "get": 3, "cache_touch": 1}
	if diff := cmp.Diff(want, watched.commands); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
