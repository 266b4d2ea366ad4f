package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// TestNearKeptWhileRedisAnswers: an entry, its marks and a session are kept beyond NearCacheTTL without being read again,
// as long as the connection they came over is known to bring every invalidation.
func TestNearKeptWhileRedisAnswers(t *testing.T) {
	t.Parallel()
	type counter interface {
		ResetCommandCalls(tb testing.TB)
		CommandCalls(tb testing.TB) map[string]int64
	}
	for mode, start := range map[store.Mode]func(t *testing.T) (counter, store.Options){
		store.Standalone: func(t *testing.T) (counter, store.Options) {
			server := redistest.Start(t, redistest.Options{})
			return server, store.Options{Addrs: []string{server.Addr}}
		},
		store.Cluster: func(t *testing.T) (counter, store.Options) {
			cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
			return cluster, store.Options{Addrs: cluster.Addrs()}
		},
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			redis, o := start(t)
			o.Mode, o.NearCacheBytes, o.NearCacheTTL = mode, 1<<20, time.Second
			s := open(t, o)
			keys := keysOf(20)
			for _, k := range keys {
				set(t, s, "n", k, store.Write{Value: []byte("value"), Fresh: time.Hour, Tags: []string{"tag"}})
			}
			created, err := s.CreateSession(t.Context(), "n", store.NewSession{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			read := func() (near bool) {
				near = true
				for _, k := range keys {
					f := get(t, s, "n", k, true)
					near = near && f.Near && f.Entry != nil
				}
				if session, err := s.ValidateSession(t.Context(), "n", created.Token, true, store.TouchNever); session == nil || err != nil {
					t.Fatalf("%v, %v", session, err)
				}
				return near
			}
			eventually(t, "all is held", func() bool { return read() })
			redis.ResetCommandCalls(t)
			held := time.Now()
			for time.Since(held) < 4*o.NearCacheTTL {
				if err := s.Ping(t.Context()); err != nil { // also paces the reads
					t.Fatal(err)
				}
				read()
			}
			calls := redis.CommandCalls(t)
			for _, name := range append(background, "replconf") {
				delete(calls, name)
			}
			if len(calls) > 0 {
				t.Errorf("kept entries cost %v in %v", calls, time.Since(held))
			}
		})
	}
}

// TestNearConfirmsByItself: nobody pings but the store.
func TestNearConfirmsByItself(t *testing.T) {
	nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		o := options(s.Mode())
		o.NearCacheTTL = time.Second
		s = open(t, o)
		set(t, s, namespace, "key", store.Write{Value: []byte("1")})
		var first time.Time // when what is held was read
		longest := time.Duration(0)
		eventually(t, "an entry is kept for longer than the bound", func() bool {
			if f := get(t, s, namespace, "key", true); !f.Near {
				first = time.Now()
			}
			longest = time.Since(first)
			return longest > 2*o.NearCacheTTL
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
	direct := open(t, store.Options{Mode: store.Cluster, Addrs: cluster.Addrs()})
	keys := keysOf(30)
	write := func(value string) {
		for _, k := range keys {
			set(t, direct, "n", k, store.Write{Value: []byte(value)})
		}
	}
	write("1")
	node.Do(t, "CONFIG", "SET", "cluster-announce-port", port)
	for _, n := range cluster.Nodes {
		eventually(t, "clients are sent to the proxy", func() bool {
			nodes, _ := n.Do(t, "CLUSTER", "NODES").(string)
			return strings.Contains(nodes, proxy.Addr+"@")
		})
	}
	o := store.Options{
		Mode: store.Cluster, Addrs: []string{cluster.Nodes[1].Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: 700 * time.Millisecond,
		CommandTimeout: 50 * time.Millisecond,
	}
	s := open(t, o)
	var read time.Time // what is held was read before, or is confirmed to have been right then
	eventually(t, "the values are held", func() bool {
		for _, k := range keys {
			f, err := s.Get(t.Context(), "n", k, true)
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
	for asked := time.Now(); asked.Sub(read) < 2*o.NearCacheTTL; asked = time.Now() {
		for _, k := range keys {
			asked = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			f, err := s.Get(ctx, "n", k, true)
			cancel()
			switch {
			case err == nil && version(t, f) == 1:
				served++
				if age := asked.Sub(read); age > o.NearCacheTTL {
					t.Fatalf("served what was overwritten %v ago", age)
				}
			case err == nil && version(t, f) == 2:
			case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrUnavailable):
				lost++
			default:
				t.Fatalf("%+v, %v: %s", f.Entry, err, store.Cause(err))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := s.Ping(ctx); err == nil {
			t.Error("a ping succeeds")
		}
		cancel()
	}
	if served == 0 || lost == 0 {
		t.Errorf("%d answers from memory, %d calls into the black hole", served, lost)
	}
	proxy.Blackhole(false)
	proxy.CutAll()
}
