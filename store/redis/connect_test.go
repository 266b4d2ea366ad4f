package redis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// connect makes one store that is expected not to connect within the time, and returns why.
func connect(t *testing.T, o store.Options, within time.Duration) error {
	t.Helper()
	s, err := store.New(o)
	if err != nil {
		t.Fatalf("New = %v, want no error", err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return s.Redis.Connect(ctx)
}

func TestConnectInEveryMode(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		want := storetest.Standalone(t).Version()
		if s.Redis.Mode() == redis.Embedded {
			want = "embedded"
		}
		if s.Redis.Version() != want {
			t.Errorf("Version = %q, want %q", s.Redis.Version(), want)
		}
		if err := s.Redis.Ping(t.Context()); err != nil {
			t.Errorf("Ping = %v, want no error", err)
		}
		if off := time.Since(s.Redis.Now()); off.Abs() > time.Second { // the clock of Redis is the clock of this machine
			t.Errorf("Now is off by %v, want at most 1s", off)
		}
	})
}

// TestConnectWaitsForRedis: it tries until there is one, whatever is started first.
func TestConnectWaitsForRedis(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, mode)
			proxy := redistest.StartProxy(t, o.Redis.Addrs[0])
			proxy.Refuse(true)
			watched := new(watcher)
			o.Redis.Addrs, o.Redis.Observer = []string{proxy.Addr}, watched
			s, err := store.New(o)
			if err != nil {
				t.Fatalf("New = %v, want no error", err)
			}
			defer s.Close()
			connected := make(chan error)
			go func() { connected <- s.Redis.Connect(t.Context()) }()
			// Refused connections are opened and closed at once.
			storetest.Eventually(t, "it has tried", func() bool { return watched.seen(redis.Closed) > 2 })
			if _, err := s.Cache.Get(t.Context(), "n", "key", true); !errors.Is(err, redis.ErrUnavailable) {
				t.Errorf("Get before Connect has succeeded = %v, want %v", err, redis.ErrUnavailable)
			}
			proxy.Refuse(false)
			if err := <-connected; err != nil {
				t.Fatalf("Connect = %v (%s), want no error", err, redis.Cause(err))
			}
			namespace := storetest.NewNamespace()
			storetest.Set(t, s, namespace, "key", cache.Write{Value: []byte("value")})
			if storetest.Get(t, s, namespace, "key", true).Entry == nil {
				t.Error("Get = a miss, want the entry just set")
			}
		})
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen = %v, want no error", err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, o := range []redis.Options{
		{Addrs: []string{nobody}},
		{Mode: redis.Cluster, Addrs: []string{nobody}},
		{Mode: redis.Sentinel, Addrs: []string{nobody}, SentinelMaster: "larder"},
		{Mode: redis.Sentinel, Addrs: storetest.Sentinel(t).Addrs(), SentinelMaster: "somebody-else"},
	} {
		begin := time.Now()
		err := connect(t, store.Options{Redis: o}, 300*time.Millisecond)
		if !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("%s: Connect = %v (%s), want %v", o.Mode, err, storetest.Cause(err), redis.ErrUnavailable)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: Connect took %v, want at most 3s", o.Mode, took)
		}
		if strings.Contains(fmt.Sprint(err), "127.0.0.1") {
			t.Errorf("%s: Connect = %q, want no address in it", o.Mode, err)
		}
	}
}

// TestConnectTellsAnOperatorsMistakeAtOnce: waiting would not help.
func TestConnectTellsAnOperatorsMistakeAtOnce(t *testing.T) {
	t.Parallel()
	locked := redistest.Start(t, redistest.Options{Password: "secret", ACL: []string{
		"user limited on >pass ~* -@all +hello +client|setname +info +ping +get",
	}})
	lockedNode := redistest.Start(t, redistest.Options{Password: "secret", Args: []string{"cluster-enabled", "yes"}})
	standalone, cluster, sentinel := []string{storetest.Standalone(t).Addr}, storetest.Cluster(t).Addrs()[:1], storetest.Sentinel(t).Addrs()[:1]
	tests := []struct {
		name string
		o    store.Options
		want error
	}{
		{"no password", store.Options{Redis: redis.Options{Addrs: []string{locked.Addr}}}, redis.ErrRefused},
		{"wrong password", store.Options{Redis: redis.Options{Addrs: []string{locked.Addr}, Password: "guess"}}, redis.ErrRefused},
		{"unknown user", store.Options{Redis: redis.Options{Addrs: []string{locked.Addr}, Username: "nobody", Password: "secret"}}, redis.ErrRefused},
		{"password of another user", store.Options{Redis: redis.Options{Addrs: []string{locked.Addr}, Username: "limited", Password: "secret"}}, redis.ErrRefused},
		{"rights too few", store.Options{Redis: redis.Options{Addrs: []string{locked.Addr}, Username: "limited", Password: "pass"}}, redis.ErrRefused},
		{"cluster, no password", store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{lockedNode.Addr}}}, redis.ErrRefused},
		{"cluster, wrong password", store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{lockedNode.Addr}, Password: "guess"}}, redis.ErrRefused},
		{"a cluster for one server", store.Options{Redis: redis.Options{Addrs: cluster}}, redis.ErrWrongMode},
		{"one server for a cluster", store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: standalone}}, redis.ErrWrongMode},
		{"a server for a sentinel", store.Options{Redis: redis.Options{Mode: redis.Sentinel, Addrs: standalone, SentinelMaster: "larder"}}, redis.ErrWrongMode},
		{"a sentinel for a server", store.Options{Redis: redis.Options{Addrs: sentinel}}, redis.ErrWrongMode},
		{"a sentinel for a cluster", store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: sentinel}}, redis.ErrWrongMode},
		{"a database that is not there", store.Options{Redis: redis.Options{Addrs: standalone, DB: 99}}, redis.ErrWrongMode},
	}
	for _, test := range tests {
		for _, bytes := range []int64{0, 1 << 20} {
			test.o.Redis.NearCacheBytes = bytes
			begin := time.Now()
			err := connect(t, test.o, 10*time.Second)
			if !errors.Is(err, test.want) || redis.Retryable(err) {
				t.Errorf("%s, near cache of %d bytes: Connect = %v (%s), retryable %v, want %v, not retryable", test.name, bytes, err, storetest.Cause(err), redis.Retryable(err), test.want)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%s: Connect took %v, want at most 5s", test.name, took)
			}
			for _, secret := range []string{"guess", "127.0.0.1", "secret"} {
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("%s: Connect = %q, want it without %q", test.name, err, secret)
				}
			}
		}
	}
}

// TestMinimalRights: all that a user of Larder's cache needs in Redis. Nothing of it may be left out, and it is enough.
func TestMinimalRights(t *testing.T) {
	t.Parallel()
	rights := map[string]string{
		"+client|tracking": "the near cache",
		"+ping":            "a sign of life",
		"+time":            "the clock of Redis",
		"+get":             "reads",
		"+pttl":            "reads of plain values, counters",
		"+getrange":        "conditions, touches",
		"+set":             "writes",
		"+setrange":        "touches",
		"+type":            "touches",
		"+pexpire":         "touches, counters",
		"+persist":         "touches, counters",
		"+incrby":          "counters",
		"+unlink":          "deletions",
		"+del":             "counters that come to nothing",
		"+scan":            "walks",
		"+evalsha":         "scripts",
		"+eval":            "scripts, the first time",
	}
	user := func(left string) string {
		r := "user larder on >pass resetchannels ~ld:* -@all"
		for right := range rights {
			if right != left {
				r += " " + right
			}
		}
		return r
	}
	server := redistest.Start(t, redistest.Options{ACL: []string{user("")}}) // and neither +info nor +client|no-evict, which only help
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, Username: "larder", Password: "pass", NearCacheBytes: 1 << 20}}
	ctx := t.Context()
	everything := func(s *store.Store) error {
		var errs []error
		check := func(_ any, err error) { errs = append(errs, err) }
		_, _, err := s.Cache.Set(ctx, "n", "key", cache.Write{Value: []byte("value")}, cache.Condition{})
		check(nil, err)
		check(s.Cache.Get(ctx, "n", "key", true))
		check(s.Cache.BatchSet(ctx, "n", []cache.BatchWrite{{Key: "a"}}))
		check(s.Cache.BatchGet(ctx, "n", []string{"a", "b"}, true))
		check(s.Cache.BatchDelete(ctx, "n", []string{"a", "b"}))
		_, _, err = s.Cache.Set(ctx, "n", "key", cache.Write{Value: []byte("value")}, cache.Condition{Kind: cache.IfPresent})
		check(nil, err)
		for _, fresh := range []time.Duration{time.Hour, 0} {
			_, _, err = s.Cache.Touch(ctx, "n", "key", fresh, cache.TouchOverwrite)
			check(nil, err)
		}
		check(s.Cache.Increment(ctx, "n", "none", cache.Increment{Delta: 5, Max: new(int64(3))}))
		check(s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1, TTL: time.Hour, Policy: cache.TTLAlways}))
		check(s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1, Policy: cache.TTLAlways}))
		check(s.Cache.Get(ctx, "n", "counter", true))
		_, _, err = s.Cache.Touch(ctx, "n", "counter", time.Hour, cache.TouchOverwrite)
		check(nil, err)
		_, _, err = s.Cache.Touch(ctx, "n", "absent", time.Hour, cache.TouchOverwrite)
		check(nil, err)
		_, _, err = s.Cache.Delete(ctx, "n", "key", &cache.ETag{})
		check(nil, err)
		_, _, err = s.Cache.Delete(ctx, "n", "key", nil)
		check(nil, err)
		_, _, err = s.Cache.ListKeys(ctx, "n", "", "", 10)
		check(nil, err)
		check(nil, s.Cache.DeleteMatching(ctx, "n", "*", "", func(int64, string) error { return nil }))
		check(nil, s.Redis.Ping(ctx))
		watch := s.Redis.Broadcast(nil, func(string) {}, func() {})
		defer watch.Close()
		<-watch.Begun()
		check(nil, watch.Err())
		return errors.Join(errs...)
	}
	if err := everything(storetest.Open(t, o)); err != nil {
		t.Errorf("with all rights: %v, want no error", err)
	}
	for _, right := range slices.Sorted(maps.Keys(rights)) {
		server.Do(t, "SCRIPT", "FLUSH")
		server.Do(t, append([]string{"ACL", "SETUSER"}, strings.Fields(strings.TrimPrefix(strings.Replace(user(right), "resetchannels", "resetkeys resetchannels", 1), "user "))...)...)
		s, err := store.New(o)
		if err != nil {
			t.Fatalf("New = %v, want no error", err)
		}
		connecting, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = s.Redis.Connect(connecting)
		cancel()
		if err == nil {
			err = everything(s)
		}
		if !errors.Is(err, redis.ErrRefused) {
			t.Errorf("without %s, for %s: %v (%s), want %v", right, rights[right], err, storetest.Cause(err), redis.ErrRefused)
		}
		s.Close()
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	files := redistest.GenerateTLS(t)
	files.RequireClientCert = true
	server := redistest.Start(t, redistest.Options{TLS: files, Password: "secret"})
	pemCA, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatalf("ReadFile(%q) = %v, want no error", files.CA, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemCA)
	pair, err := tls.LoadX509KeyPair(files.ClientCert, files.ClientKey)
	if err != nil {
		t.Fatalf("LoadX509KeyPair = %v, want no error", err)
	}
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, Password: "secret", NearCacheBytes: 1 << 20}}
	o.Redis.TLS = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s := storetest.Open(t, o)
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
	storetest.Eventually(t, "the value is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })

	for name, config := range map[string]*tls.Config{
		"no client certificate": {RootCAs: roots, MinVersion: tls.VersionTLS12},
		"another CA":            {Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		"another name":          {RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		"no TLS":                nil,
	} {
		o.Redis.TLS = config
		if err := connect(t, o, 200*time.Millisecond); !errors.Is(err, redis.ErrUnavailable) {
			t.Errorf("%s: Connect = %v (%s), want %v", name, err, storetest.Cause(err), redis.ErrUnavailable)
		}
	}
}

func TestDatabaseNumber(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}}
	zero := storetest.Open(t, o)
	o.Redis.DB = 3
	three := storetest.Open(t, o)
	storetest.Set(t, three, "n", "key", cache.Write{Value: []byte("value")})
	storetest.Eventually(t, "it is read from the near cache", func() bool { return storetest.Get(t, three, "n", "key", true).Near })
	if storetest.Get(t, zero, "n", "key", true).Entry != nil {
		t.Error("Get in database 0 = the entry of database 3, want a miss")
	}
	if info := server.Do(t, "INFO", "keyspace").(string); !strings.Contains(info, "db3:keys=1") {
		t.Errorf("INFO keyspace = %q, want db3:keys=1 in it", info)
	}
	if diff := cmp.Diff([]string{"key"}, list(t, three)); diff != "" {
		t.Errorf("ListKeys in database 3 (-want +got):\n%s", diff)
	}
}

// list returns the first page of the keys of namespace n.
func list(t *testing.T, s *store.Store) []string {
	t.Helper()
	keys, _, err := s.Cache.ListKeys(t.Context(), "n", "", "", 10)
	if err != nil {
		t.Fatalf("ListKeys = %v (%s), want no error", err, redis.Cause(err))
	}
	return keys
}
