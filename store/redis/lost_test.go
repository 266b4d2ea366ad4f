package redis_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// TestLostReplies: a write that was sent and not answered says so, and says whether it may be made again.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	for name, lose := range map[string]struct {
		timeout time.Duration
		reply   func(p *redistest.Proxy)
	}{
		"no answer comes":        {200 * time.Millisecond, func(*redistest.Proxy) {}},
		"the connection is lost": {10 * time.Second, func(p *redistest.Proxy) { p.CutAll() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := redistest.StartProxy(t, server.Addr)
			s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, CommandTimeout: lose.timeout}})
			for _, op := range operations {
				storetest.Eventually(t, "it works", func() bool { return s.Redis.Ping(t.Context()) == nil && op.run(t.Context(), s) == nil })
				proxy.DropReplies(true)
				result := make(chan error, 1)
				go func() { result <- op.run(t.Context(), s) }()
				storetest.Eventually(t, "it is under way", func() bool { return s.Stats().InFlight == 1 || len(result) == 1 })
				lose.reply(proxy)
				err := <-result
				want := redis.ErrUnavailable
				if op.writes {
					want = redis.ErrOutcomeUnknown
				}
				if !errors.Is(err, want) || redis.Retryable(err) != op.again {
					t.Errorf("%s = %v (%s), retryable %v, want %v, retryable %v", op.name, err, storetest.Cause(err), redis.Retryable(err), want, op.again)
				} else if strings.Contains(err.Error(), "127.0.0.1") {
					t.Errorf("%s = %q, want no address in it", op.name, err)
				}
				proxy.DropReplies(false)
				proxy.CutAll()
			}
		})
	}
}

// TestLostReplyOfAWriteThatArrived: unknown means unknown.
func TestLostReplyOfAWriteThatArrived(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, CommandTimeout: 200 * time.Millisecond}})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("1")})
	storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
	proxy.DropReplies(true)
	_, _, err := s.Cache.Set(t.Context(), "n", "key", cache.Write{Value: []byte("2")}, cache.Condition{})
	if !errors.Is(err, redis.ErrOutcomeUnknown) {
		t.Fatalf("Set without an answer = %v (%s), want %v", err, storetest.Cause(err), redis.ErrOutcomeUnknown)
	}
	if !strings.HasSuffix(server.Do(t, "GET", storetest.EntryKey("n", "key")).(string), "2") {
		t.Fatal("the write has not arrived at Redis, want it there")
	}
	// Whether or not it did, the near cache must not go on with what was there before.
	if f, err := s.Cache.Get(t.Context(), "n", "key", true); err == nil && storetest.Version(t, f) != 2 {
		t.Errorf("Get = %d after a write of 2 of unknown outcome, want 2", storetest.Version(t, f))
	}
	// A caller that runs out of time is told just that.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Cache.Set(ctx, "n", "key", cache.Write{}, cache.Condition{}); !errors.Is(err, context.DeadlineExceeded) || redis.Retryable(err) {
		t.Errorf("Set beyond its deadline = %v, retryable %v, want %v, not retryable", err, redis.Retryable(err), context.DeadlineExceeded)
	}
	proxy.CutAll() // closing a connection that does not answer takes a second
}
