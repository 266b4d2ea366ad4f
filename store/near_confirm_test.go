package store_test

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
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// TestNearKeptWhileRedisAnswers: an entry, the invalidations it depends on and a session are kept beyond NearCacheTTL without being read again,
// as long as the connection they came over is known to bring every invalidation.
func TestNearKeptWhileRedisAnswers(t *testing.T) {
	t.Parallel()
	for mode, start := range map[redis.Mode]func(t *testing.T) (storetest.Counter, store.Options){
		redis.Standalone: func(t *testing.T) (storetest.Counter, store.Options) {
			server := redistest.Start(t, redistest.Options{})
			return server, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}}
		},
		redis.Cluster: func(t *testing.T) (storetest.Counter, store.Options) {
			cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
			return cluster, store.Options{Redis: redis.Options{Addrs: cluster.Addrs()}}
		},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			server, o := start(t)
			o.Redis.Mode, o.Redis.NearCacheBytes, o.Redis.NearCacheTTL = mode, 1<<20, 2*time.Second
			s := storetest.Open(t, o)
			keys := storetest.Keys(20)
			for _, k := range keys {
				storetest.Set(t, s, "n", k, cache.Write{Value: []byte("value"), Fresh: time.Hour, Tags: []string{"tag"}})
			}
			created, err := s.Sessions.Create(t.Context(), "n", session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
			if err != nil {
				t.Fatalf("Create: error %v, want none", err)
			}
			read := func() (near bool) {
				near = true
				for _, k := range keys {
					f := storetest.Get(t, s, "n", k, true)
					near = near && f.Near && f.Entry != nil
				}
				if v, err := s.Sessions.Validate(t.Context(), "n", session.Validation{Token: created.Token, Near: true, Touch: session.TouchNever}); v.Session == nil || err != nil {
					t.Fatalf("Validate = %+v, %v, want an active session", v, err)
				}
				return near
			}
			storetest.Eventually(t, "all is held", func() bool { return read() })
			server.ResetCommandCalls(t)
			held := time.Now()
			for time.Since(held) < 3*o.Redis.NearCacheTTL {
				if err := s.Redis.Ping(t.Context()); err != nil { // also paces the reads
					t.Fatalf("Ping: error %v, want none", err)
				}
				if !read() {
					t.Fatalf("an entry was read from Redis %v after all were held, want all of them from memory", time.Since(held))
				}
			}
			calls := storetest.CommandCalls(t, server)
			delete(calls, "replconf")
			delete(calls, "get") // those of Ping
			if len(calls) > 0 {
				t.Errorf("kept entries cost %v in %v with %d flushes, want no commands", calls, time.Since(held), s.Stats().Near.Flushes)
			}
		})
	}
}

// TestNearConfirmsByItself: nobody pings but the store.
func TestNearConfirmsByItself(t *testing.T) {
	storetest.Nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		o := storetest.Options(t, s.Redis.Mode())
		o.Redis.NearCacheTTL = time.Second
		s = storetest.Open(t, o)
		storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("1")})
		var first time.Time // when what is held was read
		longest := time.Duration(0)
		storetest.Eventually(t, "an entry is kept for longer than the bound", func() bool {
			if f := storetest.Get(t, s, namespace, "key", true); !f.Near {
				first = time.Now()
			}
			longest = time.Since(first)
			return longest > 2*o.Redis.NearCacheTTL
		})
	})
}

// TestNearHardBoundWhenAClusterNodeIsPartitioned: one node's connection for reads is silent, all others answer, among them
// the node itself over another connection. What was read over it is not served beyond the bound, nor anything else.
func TestNearHardBoundWhenAClusterNodeIsPartitioned(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	node := cluster.Nodes[0]
	proxy := redistest.StartProxy(t, node.Addr)
	_, port, _ := strings.Cut(proxy.Addr, ":")
	direct := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}})
	keys := storetest.Keys(30)
	write := func(value string) {
		for _, k := range keys {
			storetest.Set(t, direct, "n", k, cache.Write{Value: []byte(value)})
		}
	}
	write("1")
	node.Do(t, "CONFIG", "SET", "cluster-announce-port", port)
	for _, n := range cluster.Nodes {
		storetest.Eventually(t, "clients are sent to the proxy", func() bool {
			nodes, _ := n.Do(t, "CLUSTER", "NODES").(string)
			return strings.Contains(nodes, proxy.Addr+"@")
		})
	}
	o := store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{cluster.Nodes[1].Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: 700 * time.Millisecond, CommandTimeout: 50 * time.Millisecond}}
	s := storetest.Open(t, o)
	var read time.Time // what is held was read before, or is confirmed to have been right then
	storetest.Eventually(t, "the values are held", func() bool {
		for _, k := range keys {
			f, err := s.Cache.Get(t.Context(), "n", k, true)
			if err != nil || !f.Near {
				return false
			}
		}
		return true
	})
	proxy.BlackholeOnly("TRACKING")
	read = time.Now()
	write("2") // over connections that are not in the black hole, being for writes
	served, lost := 0, 0
	for asked := time.Now(); asked.Sub(read) < 2*o.Redis.NearCacheTTL; asked = time.Now() {
		for _, k := range keys {
			asked = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			f, err := s.Cache.Get(ctx, "n", k, true)
			cancel()
			switch {
			case err == nil && storetest.Version(t, f) == 1:
				served++
				if age := asked.Sub(read); age > o.Redis.NearCacheTTL {
					t.Fatalf("served a value that was overwritten %v ago, want at most %v", age, o.Redis.NearCacheTTL)
				}
			case err == nil && storetest.Version(t, f) == 2:
			case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redis.ErrUnavailable):
				lost++
			default:
				t.Fatalf("Get = %+v, %v, want version 1 or 2, or an unavailable Redis: %s", f.Entry, err, redis.Cause(err))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := s.Redis.Ping(ctx); err == nil {
			t.Error("Ping succeeded, want an error")
		}
		cancel()
	}
	if served == 0 || lost == 0 {
		t.Errorf("%d answers from memory, %d calls into the black hole, want some of each", served, lost)
	}
	proxy.Blackhole(false)
	proxy.CutAll()
}
