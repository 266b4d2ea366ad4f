package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

func TestNewTurnsAwayMistakes(t *testing.T) {
	t.Parallel()
	addr := []string{"127.0.0.1:1"}
	for name, o := range map[string]redis.Options{
		"unknown mode":        {Mode: "guess", Addrs: addr},
		"no address":          {},
		"two addresses":       {Addrs: append(addr, addr...)},
		"database of cluster": {Mode: redis.Cluster, Addrs: addr, DB: 1},
		"no name of primary":  {Mode: redis.Sentinel, Addrs: addr},
	} {
		if s, err := store.New(store.Options{Redis: o}); err == nil {
			s.Close()
			t.Errorf("New with %s succeeded, want an error", name)
		}
	}
}

func TestOperationsBeforeConnect(t *testing.T) {
	t.Parallel()
	s, err := store.New(storetest.Options(t, redis.Standalone))
	if err != nil {
		t.Fatalf("New: error %v, want none", err)
	}
	defer s.Close()
	if _, err := s.Cache.Get(t.Context(), "n", "key", true); !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		t.Errorf("Get: error %v, want %v, retryable", err, redis.ErrUnavailable)
	}
	if _, _, err := s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{}); !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Set: error %v, want %v", err, redis.ErrUnavailable)
	}
	if err := s.Redis.Ping(t.Context()); !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Ping: error %v, want %v", err, redis.ErrUnavailable)
	}
	if s.Redis.Version() != "" {
		t.Errorf("Version = %q, want none", s.Redis.Version())
	}
}

// TestCloseIsBounded, and ends what it began, even where Redis does not answer.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	server.Pause(t)
	defer server.Resume(t)
	pending := make(chan error)
	go func() {
		_, err := s.Cache.Get(t.Context(), "n", "key", true)
		pending <- err
	}()
	storetest.Eventually(t, "a read is under way", func() bool { return s.Stats().InFlight == 1 })
	begin := time.Now()
	s.Close()
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("Close took %v, want at most 4s", took)
	}
	if err := <-pending; !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("the read under way: error %v, want %v", err, redis.ErrUnavailable)
	}
	begin = time.Now()
	if _, err := s.Cache.Get(t.Context(), "n", "key", true); !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Get after Close: error %v, want %v", err, redis.ErrUnavailable)
	}
	if _, _, err := s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{}); err == nil {
		t.Error("Set after Close succeeded, want an error")
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("calls after Close took %v, want at most 1s", took)
	}
	s.Close() // again does no harm
}

// TestCloseEndsConnect: a process that is told to stop while it waits for Redis stops.
func TestCloseEndsConnect(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	proxy.Refuse(true)
	o := storetest.Options(t, redis.Standalone)
	o.Redis.Addrs = []string{proxy.Addr}
	s, err := store.New(o)
	if err != nil {
		t.Fatalf("New: error %v, want none", err)
	}
	connected := make(chan error)
	go func() { connected <- s.Redis.Connect(t.Context()) }()
	s.Close()
	if err := <-connected; !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Connect: error %v, want %v", err, redis.ErrUnavailable)
	}
}

// TestCloseLeavesNothingBehind runs alone, so that every goroutine is one of its own.
func TestCloseLeavesNothingBehind(t *testing.T) {
	storetest.Standalone(t)
	storetest.Cluster(t)
	storetest.Sentinel(t)
	existing := goleak.IgnoreCurrent()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel, redis.Embedded} {
		s := storetest.Open(t, storetest.Options(t, mode))
		storetest.Set(t, s, storetest.NewNamespace(), "key", cache.Write{Value: []byte("value")})
		s.Close()
		if mode != redis.Embedded {
			refused := storetest.Options(t, mode)
			refused.Redis.Username = "nobody"
			if err := connect(t, refused, 5*time.Second); err == nil {
				t.Errorf("%s: Connect as an unknown user succeeded, want an error", mode)
			}
		}
	}
	// After a change of topology rueidis lets connections live five seconds longer, and it delays some work by one.
	leaving := goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2")
	var err error
	for range 5 {
		if err = goleak.Find(existing, leaving); err == nil {
			return
		}
	}
	t.Errorf("goroutines are left, want none: %v", err)
}

// connect makes and closes a store, and returns the error of connecting it.
func connect(t *testing.T, o store.Options, within time.Duration) error {
	t.Helper()
	s, err := store.New(o)
	if err != nil {
		t.Fatalf("New: error %v, want none", err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return s.Redis.Connect(ctx)
}
