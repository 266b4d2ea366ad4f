package redis_test

import (
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

// TestRefusals: what Redis may answer instead of doing its work, what it is called here, and that it passes.
func TestRefusals(t *testing.T) {
	t.Parallel()
	gone := t.TempDir() + "/gone"
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatalf("Mkdir = %v, want no error", err)
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
				do(t, s, "DEBUG POPULATE 20000 x 1000", "CONFIG SET key-load-delay 1000")
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
					t.Fatalf("RemoveAll = %v, want no error", err)
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
					t.Fatalf("Mkdir = %v, want no error", err)
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
					t.Fatalf("%s before = %v (%s), want no error", op.name, err, redis.Cause(err))
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
				for test.name == "a replica now" && errors.Is(err, redis.ErrOutcomeUnknown) {
					// The READONLY of the operation before closes the connections, under this one too: that is asked again.
					err = op.run(t.Context(), s)
				}
				if !errors.Is(err, want) || err != nil && redis.Retryable(err) != test.retryable {
					t.Errorf("%s = %v (%s), retryable %v, want %v, retryable %v", op.name, err, storetest.Cause(err), redis.Retryable(err), want, test.retryable)
				}
			}
			reads, writes := test.reads, test.writes
			if test.name == "a replica now" { // whose answers are late
				reads = test.writes
			}
			got := s.Redis.Check(t.Context())
			for ability, want := range map[redis.Ability]error{redis.ToRead: reads, redis.ToReadByScript: reads, redis.ToWrite: writes} {
				if err := got.Failures[ability]; !errors.Is(err, want) {
					t.Errorf("Check: failure of ability %d = %v (%s), want %v", ability, err, storetest.Cause(err), want)
				}
			}
			if writes != nil && reads == nil && (len(got.Problems) != 1 || got.Problems[0].Kind != "writes") {
				t.Errorf("Check: problems = %v, want one of writes", got.Problems)
			}
			err := connect(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}}, 3*time.Second)
			if reads == nil && err != nil || reads != nil && err == nil {
				t.Errorf("Connect = %v (%s), want an error only if calls that read have one: %v", err, storetest.Cause(err), reads)
			}
			if test.name == "loading its data" && !strings.Contains(storetest.Cause(err), "LOADING") {
				t.Errorf("Connect = %v (%s), want LOADING in it", err, storetest.Cause(err))
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
			t.Fatalf("Dial = %v, want no error", err)
		}
		others = append(others, c)
	}
	storetest.Eventually(t, "there is no room", func() bool {
		_, err := server.TryDo("PING")
		return err != nil
	})
	_, err := s.Cache.Get(t.Context(), "n", "key", true)
	if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		t.Errorf("Get = %v (%s), retryable %v, want %v, retryable", err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable)
	}
	_, _, err = s.Cache.Set(t.Context(), "n", "key", cache.Write{}, cache.Condition{})
	if !errors.Is(err, redis.ErrUnavailable) || !redis.Retryable(err) {
		t.Errorf("Set = %v (%s), retryable %v, want %v, retryable", err, storetest.Cause(err), redis.Retryable(err), redis.ErrUnavailable)
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
				t.Errorf("Get = %v (%s), want no error or %v", err, redis.Cause(err), redis.ErrUnavailable)
			}
			if err != nil {
				down++
			}
		}
		return down == len(keys)
	})
	if _, _, err := s.Cache.Set(t.Context(), "n", keys[0], cache.Write{}, cache.Condition{}); !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Set = %v (%s), want %v", err, storetest.Cause(err), redis.ErrUnavailable)
	}
	if err := s.Redis.Ping(t.Context()); err == nil {
		t.Error("Ping = no error while a primary is away, want one")
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
