package redis_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// operations are one of each kind: what they may have done when no answer comes, and whether to make them again.
var operations = []struct {
	name   string
	run    func(ctx context.Context, s *store.Store) error
	writes bool
	again  bool
}{
	{"get", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Get(ctx, "n", "key", false)
		return err
	}, false, true},
	{"near get", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Get(ctx, "n", storetest.NewNamespace(), true) // of a key that is not held
		return err
	}, false, true},
	{"batch get", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchGet(ctx, "n", []string{storetest.NewNamespace(), storetest.NewNamespace()}, true)
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, false, true},
	{"list", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.ListKeys(ctx, "n", "", "", 10)
		return err
	}, false, true},
	{"set", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Set(ctx, "n", "set", cache.Write{Value: []byte("value")}, cache.Condition{})
		return err
	}, true, true},
	{"batch set", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchSet(ctx, "n", []cache.BatchWrite{{Key: "a"}, {Key: "b"}})
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, true, true},
	{"delete", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Delete(ctx, "n", "key", nil)
		return err
	}, true, true},
	{"batch delete", func(ctx context.Context, s *store.Store) error {
		results, err := s.Cache.BatchDelete(ctx, "n", []string{"a", "b"})
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return err
	}, true, true},
	{"touch", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Touch(ctx, "n", "set", time.Minute, cache.TouchOverwrite)
		return err
	}, true, true},
	// Once more would meet its own write and say that the condition did not hold, or count twice.
	{"conditional set", func(ctx context.Context, s *store.Store) error {
		_, _, err := s.Cache.Set(ctx, "n", "conditional", cache.Write{}, cache.Condition{Kind: cache.IfAbsent})
		return err
	}, true, false},
	{"increment", func(ctx context.Context, s *store.Store) error {
		_, err := s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1})
		return err
	}, true, false},
}

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
					t.Errorf("%s: %v, again: %v: %s", op.name, err, redis.Retryable(err), storetest.Cause(err))
				} else if strings.Contains(err.Error(), "127.0.0.1") {
					t.Errorf("%s: the error tells the address: %v", op.name, err)
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
		t.Fatal(err)
	}
	if !strings.HasSuffix(server.Do(t, "GET", storetest.EntryKey("n", "key")).(string), "2") {
		t.Fatal("the write did not arrive")
	}
	// Whether or not it did, the near cache must not go on with what was there before.
	if f, err := s.Cache.Get(t.Context(), "n", "key", true); err == nil && storetest.Version(t, f) != 2 {
		t.Errorf("read %d after a write of unknown outcome", storetest.Version(t, f))
	}
	// A caller that runs out of time is told just that.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Cache.Set(ctx, "n", "key", cache.Write{}, cache.Condition{}); !errors.Is(err, context.DeadlineExceeded) || redis.Retryable(err) {
		t.Errorf("out of time: %v", err)
	}
	proxy.CutAll() // closing a connection that does not answer takes a second
}

// TestRefusals: what Redis may answer instead of doing its work, what it is called here, and that it passes.
func TestRefusals(t *testing.T) {
	t.Parallel()
	gone := t.TempDir() + "/gone"
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	do := func(t *testing.T, server *redistest.Server, commands ...string) {
		t.Helper()
		for _, c := range commands {
			server.Do(t, strings.Fields(c)...)
		}
	}
	tests := []struct {
		name          string
		options       redistest.Options
		begin, end    func(t *testing.T, server *redistest.Server)
		reads, writes error
		retryable     bool
	}{
		{
			name:   "out of memory",
			begin:  func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "CONFIG SET maxmemory 1") },
			end:    func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "CONFIG SET maxmemory 0") },
			writes: redis.ErrOverloaded,
		},
		{
			name:   "a replica now",
			begin:  func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "REPLICAOF 127.0.0.1 1") },
			end:    func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "REPLICAOF NO ONE") },
			writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name: "a replica without its primary",
			begin: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				do(t, s, "CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1")
			},
			end:   func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "REPLICAOF NO ONE") },
			reads: redis.ErrUnavailable, writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name:   "too few replicas",
			begin:  func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "CONFIG SET min-replicas-to-write 1") },
			end:    func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "CONFIG SET min-replicas-to-write 0") },
			writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name: "busy with a script",
			begin: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				do(t, s, "CONFIG SET busy-reply-threshold 1")
				go func() { _, _ = s.TryDo("EVAL", "while true do end", "0") }()
				storetest.Eventually(t, "it is busy", func() bool {
					_, err := s.TryDo("GET", "x")
					return err != nil && strings.HasPrefix(err.Error(), "BUSY")
				})
			},
			end:   func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "SCRIPT KILL") },
			reads: redis.ErrUnavailable, writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name:    "loading its data",
			options: redistest.Options{Args: []string{"enable-debug-command", "yes", "loading-process-events-interval-bytes", "1024"}},
			begin: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				do(t, s, "DEBUG POPULATE 5000 x 1000", "CONFIG SET key-load-delay 1000")
				go func() { _, _ = s.TryDo("DEBUG", "RELOAD") }()
				storetest.Eventually(t, "it is loading", func() bool {
					_, err := s.TryDo("GET", "x")
					return err != nil && strings.HasPrefix(err.Error(), "LOADING")
				})
			},
			end:   func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "CONFIG SET key-load-delay 0") },
			reads: redis.ErrUnavailable, writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name:    "unable to save its data",
			options: redistest.Options{Dir: gone, Args: []string{"save", "3600 1"}},
			begin: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				if err := os.RemoveAll(gone); err != nil {
					t.Fatal(err)
				}
				do(t, s, "BGSAVE")
				storetest.Eventually(t, "saving has failed", func() bool {
					_, err := s.TryDo("SET", "x", "y")
					return err != nil && strings.HasPrefix(err.Error(), "MISCONF")
				})
			},
			end: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				do(t, s, "CONFIG SET stop-writes-on-bgsave-error no")
				if err := os.Mkdir(filepath.Clean(gone), 0o700); err != nil {
					t.Fatal(err)
				}
			},
			writes: redis.ErrUnavailable, retryable: true,
		},
		{
			name:  "rights taken away",
			begin: func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "ACL SETUSER default -@write -@read") },
			end:   func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "ACL SETUSER default +@all") },
			reads: redis.ErrRefused, writes: redis.ErrRefused,
		},
		{
			name: "keys taken away",
			begin: func(t *testing.T, s *redistest.Server) {
				t.Helper()
				do(t, s, "ACL SETUSER default resetkeys ~other:*")
			},
			end:   func(t *testing.T, s *redistest.Server) { t.Helper(); do(t, s, "ACL SETUSER default allkeys") },
			reads: redis.ErrRefused, writes: redis.ErrRefused,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(test.name, "rights") || strings.HasPrefix(test.name, "keys") {
				test.options.ACL = []string{"user default on nopass ~* &* +@all"}
			}
			server := redistest.Start(t, test.options)
			s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
			for _, op := range operations {
				if err := op.run(t.Context(), s); err != nil {
					t.Fatalf("%s: %v: %s", op.name, err, redis.Cause(err))
				}
			}
			server.Do(t, "DEL", storetest.EntryKey("n", "conditional")) // so that there is something to write
			storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
			test.begin(t, server)
			for _, op := range operations {
				want := test.reads
				if op.writes {
					want = test.writes
				}
				switch {
				case op.name == "list" && test.name == "keys taken away": // names of keys are not theirs
					want = nil
				case test.name == "out of memory" && strings.Contains(op.name, "delete"): // these make room
					want = nil
				}
				err := op.run(t.Context(), s)
				if !errors.Is(err, want) || err != nil && redis.Retryable(err) != test.retryable {
					t.Errorf("%s: %v, again: %v: %s", op.name, err, redis.Retryable(err), storetest.Cause(err))
				}
			}
			test.end(t, server)
			for _, op := range operations {
				storetest.Eventually(t, op.name+" works again", func() bool { return op.run(t.Context(), s) == nil })
			}
		})
	}
}

// TestTooManyClients: Redis turns away connections when it has too many, which passes.
func TestTooManyClients(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	server.Do(t, "CONFIG", "SET", "maxclients", "4")
	server.Do(t, "CLIENT", "KILL", "TYPE", "normal")
	var others []net.Conn
	defer func() {
		for _, c := range others {
			c.Close()
		}
	}()
	for range 4 {
		c, err := net.Dial("tcp", server.Addr)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, c)
	}
	storetest.Eventually(t, "there is no room", func() bool {
		_, err := server.TryDo("PING")
		return err != nil
	})
	_, err := s.Cache.Get(t.Context(), "n", "key", true)
	if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		t.Errorf("get: %v: %s", err, storetest.Cause(err))
	}
	_, _, err = s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{})
	if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		t.Errorf("set: %v: %s", err, storetest.Cause(err))
	}
	for _, c := range others {
		c.Close()
	}
	storetest.Eventually(t, "it works again", func() bool {
		_, err := s.Cache.Get(t.Context(), "n", "key", true)
		return err == nil
	})
}

// TestClusterDown: with a primary and its slots missing, the keys of the others are refused as well, as that is how a
// cluster is set up unless told otherwise.
func TestClusterDown(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), CommandTimeout: 500 * time.Millisecond}})
	keys := storetest.Keys(30)
	storetest.Fill(t, s, "n", keys)
	cluster.Nodes[2].Kill()
	// The others take two seconds to notice.
	storetest.Eventually(t, "the cluster is down", func() bool {
		down := 0
		for _, k := range keys {
			_, err := s.Cache.Get(t.Context(), "n", k, true)
			if err != nil && !errors.Is(err, redis.ErrUnavailable) {
				t.Errorf("get: %v: %s", err, redis.Cause(err))
			}
			if err != nil {
				down++
			}
		}
		return down == len(keys)
	})
	if _, _, err := s.Cache.Set(t.Context(), "n", keys[0], cache.Write{}, cache.Condition{}); !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("set: %v: %s", err, storetest.Cause(err))
	}
	if err := s.Redis.Ping(t.Context()); err == nil {
		t.Error("ping finds nothing wrong")
	}
	cluster.Nodes[2].Restart(t)
	storetest.Eventually(t, "it is up again", func() bool {
		for _, k := range keys {
			if _, err := s.Cache.Get(t.Context(), "n", k, true); err != nil {
				return false
			}
		}
		return s.Redis.Ping(t.Context()) == nil
	})
}

// TestErrorsTellNothing: what a caller sees names no address, key, value or text of the driver; the cause, for the log,
// names no key or value.
func TestErrorsTellNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const canary = "canary-73"
		redisKey := storetest.EntryKey(namespace, canary)
		storetest.Command(t, s, "HSET", redisKey, "f", canary)
		_, err1 := s.Cache.Get(t.Context(), namespace, canary, false)
		_, err2 := s.Cache.Increment(t.Context(), namespace, canary, cache.Increment{Delta: 1})
		_, _, err3 := s.Cache.Touch(t.Context(), namespace, canary, time.Minute, cache.TouchOverwrite)
		storetest.Command(t, s, "SET", storetest.EntryKey(namespace, "counter"), canary)
		_, err4 := s.Cache.Increment(t.Context(), namespace, "counter", cache.Increment{Delta: 1})
		for _, err := range []error{err1, err2, err3, err4} {
			if err == nil {
				t.Error("no error")
				continue
			}
			if text := err.Error() + redis.Cause(err); strings.Contains(text, canary) {
				t.Errorf("%q", text)
			}
		}
	})
}
