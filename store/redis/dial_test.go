package redis_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
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

// watcher counts what a store reports.
type watcher struct {
	mu       sync.Mutex
	events   map[redis.ConnectionEvent]int
	commands map[string]int
}

func (w *watcher) Command(name string, _ time.Duration, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.commands == nil {
		w.commands = map[string]int{}
	}
	w.commands[name]++
}

func (w *watcher) Connection(event redis.ConnectionEvent, _ int, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events == nil {
		w.events = map[redis.ConnectionEvent]int{}
	}
	w.events[event]++
}

func (w *watcher) seen(event redis.ConnectionEvent) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events[event]
}

// clientIDs are the connections that stores have to a server.
func clientIDs(t *testing.T, server *redistest.Server) []string {
	t.Helper()
	var ids []string
	for line := range strings.SplitSeq(server.Do(t, "CLIENT", "LIST").(string), "\n") {
		if m := regexp.MustCompile(`^id=(\d+) .*name=larder`).FindStringSubmatch(line); m != nil {
			ids = append(ids, m[1])
		}
	}
	slices.Sort(ids)
	return ids
}

// TestReconnectsWithoutEnd: while Redis is away, reads and writes fail fast and say that nothing was written, and however
// many ask, it is dialled no more often than the backoff says. When it is back, so is the store, by itself.
func TestReconnectsWithoutEnd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	watched := new(watcher)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, Observer: watched}})
	for range 3 {
		storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
		storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
		before := watched.seen(redis.DialFailed)
		dialed := watched.seen(redis.Dialed)
		server.Kill()
		storetest.Eventually(t, "the loss is noticed", func() bool {
			_, err := s.Cache.Get(t.Context(), "n", "key", true)
			return errors.Is(err, redis.ErrUnavailable)
		})
		outage := time.Now().Add(800 * time.Millisecond)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for time.Now().Before(outage) {
					begin := time.Now()
					_, err := s.Cache.Get(t.Context(), "n", "key", true)
					if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
						t.Errorf("Get while redis is away = %v (%s), retryable %v, want %v, retryable", err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable)
						return
					}
					_, _, err = s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{})
					if !errors.Is(err, redis.ErrUnavailable) && !errors.Is(err, redis.ErrOutcomeUnknown) || !redis.Retryable(err) {
						t.Errorf("Set while redis is away = %v (%s), retryable %v, want %v or %v, retryable", err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable, redis.ErrOutcomeUnknown)
						return
					}
					if took := time.Since(begin); took > 1500*time.Millisecond {
						t.Errorf("Get and Set failed after %v, want at most 1.5s", took)
					}
				}
			})
		}
		callers.Wait()
		// From half of 50, 100, 200, 400 and 800 ms: some five to six, and a few of callers who were on their way.
		attempts := watched.seen(redis.DialFailed) - before
		if attempts < 2 || attempts > 12 {
			t.Errorf("failed to dial %d times in 800 ms, want 2 to 12", attempts)
		}
		server.Restart(t)
		storetest.Eventually(t, "it works again", func() bool {
			f, err := s.Cache.Get(t.Context(), "n", "key", true)
			if err == nil && f.Entry != nil {
				t.Error("Get = the entry that Redis has lost, want a miss")
			}
			return err == nil && s.Redis.Ping(t.Context()) == nil
		})
		if got := watched.seen(redis.Dialed) - dialed; got < 2 || got > 4 {
			t.Errorf("opened %d connections, want 2 to 4", got)
		}
	}
	storetest.Eventually(t, "every connection but those of Primary, Tracked and Bulk has ended", func() bool {
		return watched.seen(redis.Dialed)-watched.seen(redis.Closed) == 3
	})
}

// TestBackoffBehindAProxy: a load balancer that has no Redis to offer takes connections and closes them. It is not dialled
// any more often for that, and what was never sent is not said to be of unknown outcome.
func TestBackoffBehindAProxy(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, storetest.Standalone(t).Addr)
	watched := new(watcher)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, Observer: watched}})
	proxy.Refuse(true)
	proxy.CutAll()
	storetest.Eventually(t, "the loss is noticed", func() bool { return watched.seen(redis.Closed) >= 2 })
	before := watched.seen(redis.Dialed)
	outage := time.Now().Add(800 * time.Millisecond)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for time.Now().Before(outage) {
				_, err := s.Cache.Get(t.Context(), "n", "key", true)
				if !errors.Is(err, redis.ErrUnavailable) {
					t.Errorf("Get = %v (%s), want %v", err, storetest.Cause(err), redis.ErrUnavailable)
				}
				_, _, err = s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
				if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
					t.Errorf("Set = %v (%s), retryable %v, want %v, retryable", err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable)
				}
			}
		})
	}
	callers.Wait()
	if attempts := watched.seen(redis.Dialed) - before; attempts < 2 || attempts > 12 {
		t.Errorf("dialled %d times in 800 ms, want 2 to 12", attempts)
	}
	proxy.Refuse(false)
	storetest.Eventually(t, "it works again", func() bool { return s.Redis.Ping(t.Context()) == nil })
}

// TestShortDeadlinesKeepConnections: callers whose time runs out again and again do not wear out the connections.
func TestShortDeadlinesKeepConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	before := clientIDs(t, server)
	late := 0
	for i := range 500 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%50)*10*time.Microsecond)
		if _, err := s.Cache.Get(ctx, "n", "key", false); err != nil {
			if late++; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Get = %v (%s), want %v", err, redis.Cause(err), context.DeadlineExceeded)
			}
		}
		cancel()
	}
	if late == 0 {
		t.Error("0 of 500 calls ran out of time, want some")
	}
	if diff := cmp.Diff(before, clientIDs(t, server)); diff != "" {
		t.Errorf("connections (-before +after):\n%s", diff)
	}
}
