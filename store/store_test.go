package store_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

func TestNewTurnsAwayMistakes(t *testing.T) {
	t.Parallel()
	addr := []string{"127.0.0.1:1"}
	for name, o := range map[string]store.Options{
		"unknown mode":        {Mode: "guess", Addrs: addr},
		"no address":          {},
		"two addresses":       {Addrs: append(addr, addr...)},
		"database of cluster": {Mode: store.Cluster, Addrs: addr, DB: 1},
		"no name of primary":  {Mode: store.Sentinel, Addrs: addr},
	} {
		if s, err := store.New(o); err == nil {
			s.Close()
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestOperationsBeforeConnect(t *testing.T) {
	t.Parallel()
	s, err := store.New(options(store.Standalone))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "n", "key", true); !errors.Is(err, store.ErrUnavailable) || !store.Retryable(err) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("set: %v", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
	if s.Version() != "" {
		t.Errorf("version %q", s.Version())
	}
}

// TestCloseIsBounded, and ends what it began, even where Redis does not answer.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	server.Pause(t)
	defer server.Resume(t)
	pending := make(chan error)
	go func() {
		_, err := s.Get(t.Context(), "n", "key", true)
		pending <- err
	}()
	eventually(t, "a read is under way", func() bool { return s.Stats().InFlight == 1 })
	begin := time.Now()
	s.Close()
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if err := <-pending; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the read under way: %v", err)
	}
	begin = time.Now()
	if _, err := s.Get(t.Context(), "n", "key", true); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a read after the end: %v", err)
	}
	if _, _, err := s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{}); err == nil {
		t.Error("a write after the end succeeds")
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("calls after the end took %v", took)
	}
	s.Close() // again does no harm
}

// TestCloseEndsConnect: a process that is told to stop while it waits for Redis stops.
func TestCloseEndsConnect(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, topologies.standalone.Addr)
	proxy.Refuse(true)
	o := options(store.Standalone)
	o.Addrs = []string{proxy.Addr}
	s, err := store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan error)
	go func() { connected <- s.Connect(t.Context()) }()
	s.Close()
	if err := <-connected; !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

// TestCloseLeavesNothingBehind runs alone, so that every goroutine is one of its own.
func TestCloseLeavesNothingBehind(t *testing.T) {
	existing := goleak.IgnoreCurrent()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel, store.Embedded} {
		s := open(t, options(mode))
		set(t, s, newNamespace(), "key", store.Write{Value: []byte("value")})
		s.Close()
		if mode != store.Embedded {
			refused := options(mode)
			refused.Username = "nobody"
			if err := connect(t, refused, 5*time.Second); err == nil {
				t.Errorf("%s knows nobody", mode)
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
	t.Error(err)
}
