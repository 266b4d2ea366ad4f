package redis_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// writesAndReads fails the test unless a store works, its near cache included.
func writesAndReads(t *testing.T, s *store.Store) {
	t.Helper()
	namespace := storetest.NewNamespace()
	storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value")})
	storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, namespace, "key", true).Near })
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "larder") // a short path: that of a socket has at most 107 bytes
	if err != nil {
		t.Fatalf("MkdirTemp = %v, want no error", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	redistest.Start(t, redistest.Options{Password: "secret", Args: []string{"unixsocket", socket}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{socket}, Password: "secret", DB: 3, NearCacheBytes: 1 << 20, NearCacheTTL: time.Second}})
	writesAndReads(t, s)
	if err := s.Redis.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v (%s), want no error", err, redis.Cause(err))
	}
	err = connect(t, store.Options{Redis: redis.Options{Addrs: []string{filepath.Join(dir, "none")}}}, 200*time.Millisecond)
	if !errors.Is(err, redis.ErrUnavailable) {
		t.Errorf("Connect to a socket that is not there = %v, want %v", err, redis.ErrUnavailable)
	}
}

// What sentinels and nodes tell of themselves may be addresses that Larder cannot reach. Here everything is reached through
// proxies, and nothing past them.
func TestAddressMap(t *testing.T) {
	t.Parallel()
	for mode, nodes := range map[redis.Mode][]string{redis.Sentinel: storetest.Sentinel(t).Addrs(), redis.Cluster: storetest.Cluster(t).Addrs()} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, mode)
			o.Redis.AddressMap = make(map[string]string)
			var proxies []*redistest.Proxy
			through := func(addr string) {
				p := redistest.StartProxy(t, addr)
				proxies = append(proxies, p)
				o.Redis.AddressMap[addr] = p.Addr
			}
			for _, addr := range nodes {
				through(addr)
			}
			if mode == redis.Sentinel {
				for _, s := range append(slices.Clone(storetest.Sentinel(t).Replicas), storetest.Sentinel(t).Primary) {
					through(s.Addr)
				}
			}
			for _, p := range proxies {
				p.Refuse(true)
			}
			if err := connect(t, o, 300*time.Millisecond); !errors.Is(err, redis.ErrUnavailable) {
				t.Errorf("Connect while the proxies refuse = %v, want %v", err, redis.ErrUnavailable)
			}
			for _, p := range proxies {
				p.Refuse(false)
			}
			writesAndReads(t, storetest.Open(t, o))
			conns := 0
			for _, p := range proxies {
				conns += p.Conns()
			}
			if conns == 0 {
				t.Error("connections through the proxies = 0, want some")
			}
		})
	}
}

// A whole host is mapped with its ports.
func TestAddressMapOfAHost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	_, port, _ := strings.Cut(server.Addr, ":")
	writesAndReads(t, storetest.Open(t, store.Options{Redis: redis.Options{
		Addrs: []string{"redis.invalid:" + port}, AddressMap: map[string]string{"redis.invalid": "127.0.0.1"}, NearCacheBytes: 1 << 20,
	}}))
}

// CLIENT NO-EVICT and INFO only help. A user without them is served, from the start and after a reconnection.
func TestCommandsThatOnlyHelp(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			user := "user-" + storetest.NewNamespace()
			servers := map[redis.Mode][]*redistest.Server{
				redis.Standalone: {storetest.Standalone(t)}, redis.Cluster: storetest.Cluster(t).Nodes, redis.Sentinel: append(slices.Clone(storetest.Sentinel(t).Replicas), storetest.Sentinel(t).Primary),
			}[mode]
			for _, s := range servers {
				s.Do(t, "ACL", "SETUSER", user, "on", ">pass", "~*", "resetchannels", "+@all", "-info", "-client|no-evict", "-client|setname")
			}
			o := storetest.Options(t, mode)
			o.Redis.Username, o.Redis.Password = user, "pass"
			s := storetest.Open(t, o)
			writesAndReads(t, s)
			if s.Redis.Version() != storetest.Standalone(t).Version() {
				t.Errorf("Version = %q, want %q", s.Redis.Version(), storetest.Standalone(t).Version())
			}
			for _, server := range servers {
				server.Do(t, "CLIENT", "KILL", "USER", user)
			}
			storetest.Eventually(t, "it is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })
			writesAndReads(t, s)
		})
	}
}

// Each connection is protected where the user may ask for it, also one that is made anew.
func TestConnectionsAreProtected(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	protected := func() bool {
		all, with := 0, 0
		for client := range strings.Lines(server.Do(t, "CLIENT", "LIST").(string)) {
			if strings.Contains(client, "name=larder ") {
				all++
				_, flags, _ := strings.Cut(client, " flags=")
				if flags, _, _ = strings.Cut(flags, " "); strings.Contains(flags, "e") {
					with++
				}
			}
		}
		return all == 2 && with == 2
	}
	storetest.Eventually(t, "both connections are protected", protected)
	server.Do(t, "CLIENT", "KILL", "TYPE", "normal")
	storetest.Eventually(t, "it is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })
	storetest.Eventually(t, "both new connections are protected", protected)
}
