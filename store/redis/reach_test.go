package redis_test

import (
	"crypto/tls"
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
			servers := serversOf(t, mode)
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
		return all > 1 && with == all
	}
	storetest.Eventually(t, "all connections are protected", protected)
	server.Do(t, "CLIENT", "KILL", "TYPE", "normal")
	storetest.Eventually(t, "it is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })
	storetest.Eventually(t, "all new connections are protected", protected)
}

// A certificate that has no subject alternative name is refused, unless its common name is accepted, which is then the host.
func TestCertificatesWithoutSAN(t *testing.T) {
	t.Parallel()
	nameless, named := redistest.GenerateTLSWithoutSAN(t), redistest.GenerateTLS(t)
	for _, tt := range []struct {
		name, host string
		files      *redistest.TLSFiles
		serverName string
		accept, ok bool
	}{
		{"Refused", "localhost", nameless, "", false, false},
		{"Accepted", "localhost", nameless, "", true, true},
		{"AcceptedByName", "127.0.0.1", nameless, "localhost", true, true},
		{"AnotherName", "localhost", nameless, "other", true, false},
		{"AnotherHost", "127.0.0.1", nameless, "", true, false},
		{"SAN", "127.0.0.1", named, "", true, true},
		{"SANOfAnotherHost", "localhost", named, "other", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{TLS: tt.files})
			config := tt.files.ClientConfig(t)
			config.ServerName = tt.serverName
			o := store.Options{Redis: redis.Options{
				Addrs: []string{strings.Replace(server.Addr, "127.0.0.1", tt.host, 1)}, TLS: config, TLSCommonName: tt.accept, NearCacheBytes: 1 << 20,
			}}
			if tt.ok {
				writesAndReads(t, storetest.Open(t, o))
			} else if err := connect(t, o, 300*time.Millisecond); !errors.Is(err, redis.ErrUnavailable) || !strings.Contains(redis.Cause(err), "x509") {
				t.Errorf("Connect = %v (%s), want %v because of the certificate", err, storetest.Cause(err), redis.ErrUnavailable)
			}
		})
	}
	// An authority that is not trusted is refused whatever the names are.
	server := redistest.Start(t, redistest.Options{TLS: nameless})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, TLS: named.ClientConfig(t), TLSCommonName: true}}
	if err := connect(t, o, 300*time.Millisecond); !errors.Is(err, redis.ErrUnavailable) || !strings.Contains(redis.Cause(err), "unknown authority") {
		t.Errorf("Connect to a certificate of another authority = %v (%s), want %v", err, storetest.Cause(err), redis.ErrUnavailable)
	}
}

// A password in a file can change while the process runs: the next connection uses it.
func TestPasswordFileIsReadAnew(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			user := "rotating-" + storetest.NewNamespace()
			servers := serversOf(t, mode)
			all := func(args ...string) {
				for _, s := range servers {
					s.Do(t, args...)
				}
			}
			all("ACL", "SETUSER", user, "on", ">first", "~*", "resetchannels", "+@all")
			file := filepath.Join(t.TempDir(), "password")
			write(t, file, "first\n")
			o := storetest.Options(t, mode)
			o.Redis.Username, o.Redis.Password, o.Redis.PasswordFile = user, "first", file
			s := storetest.Open(t, o)
			writesAndReads(t, s)
			all("ACL", "SETUSER", user, ">second")
			write(t, file, "second\n")
			all("ACL", "SETUSER", user, "<first")
			all("CLIENT", "KILL", "USER", user)
			storetest.Eventually(t, "it is connected with the new password", func() bool { return s.Redis.Ping(t.Context()) == nil })
			writesAndReads(t, s)
			// A file that is gone or empty changes nothing.
			for _, spoil := range []func(){func() { write(t, file, "\n") }, func() { _ = os.Remove(file) }} {
				spoil()
				all("CLIENT", "KILL", "USER", user)
				storetest.Eventually(t, "it is connected with the last password", func() bool { return s.Redis.Ping(t.Context()) == nil })
			}
		})
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatalf("WriteFile = %v, want no error", err)
	}
}

// serversOf returns the servers of the binary's Redis of a mode.
func serversOf(t *testing.T, mode redis.Mode) []*redistest.Server {
	t.Helper()
	switch mode {
	case redis.Cluster:
		return storetest.Cluster(t).Nodes
	case redis.Sentinel:
		return append(slices.Clone(storetest.Sentinel(t).Replicas), storetest.Sentinel(t).Primary)
	default:
		return []*redistest.Server{storetest.Standalone(t)}
	}
}

// The authorities and the client certificate can be replaced while the process runs.
func TestTLSFilesAreReadAnew(t *testing.T) {
	t.Parallel()
	before, after := redistest.GenerateTLS(t), redistest.GenerateTLS(t)
	before.RequireClientCert, after.RequireClientCert = true, true
	server := redistest.Start(t, redistest.Options{TLS: before})
	proxy := redistest.StartProxy(t, server.Addr)
	dir := t.TempDir()
	files := redis.TLSFiles{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	install := func(f *redistest.TLSFiles) {
		t.Helper()
		for from, to := range map[string]string{f.CA: files.CA, f.ClientCert: files.Cert, f.ClientKey: files.Key} {
			text, err := os.ReadFile(from)
			if err != nil {
				t.Fatalf("ReadFile = %v, want no error", err)
			}
			write(t, to, string(text))
		}
	}
	install(before)
	o := store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, TLS: &tls.Config{MinVersion: tls.VersionTLS12}, TLSFiles: files, NearCacheBytes: 1 << 20}}
	s := storetest.Open(t, o)
	writesAndReads(t, s)

	// Half of a change is no change: what was there last stays in use.
	write(t, files.Cert, "no certificate")
	proxy.CutAll()
	storetest.Eventually(t, "it is connected again", func() bool { return s.Redis.Ping(t.Context()) == nil })

	install(after)
	server.Do(t, "CONFIG", "SET", "tls-ca-cert-file", after.CA, "tls-cert-file", after.Cert, "tls-key-file", after.Key)
	proxy.CutAll()
	storetest.Eventually(t, "it is connected with the new files", func() bool { return s.Redis.Ping(t.Context()) == nil })
	writesAndReads(t, s)
}
