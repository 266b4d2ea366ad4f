package store_test

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
	"github.com/berthcare/larder/store/redistest"
)

// connect makes one store that is expected not to connect within the time, and returns why.
func connect(t *testing.T, o store.Options, within time.Duration) error {
	t.Helper()
	s, err := store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return s.Connect(ctx)
}

func TestConnectInEveryMode(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, _ string) {
		want := topologies.standalone.Version()
		if s.Mode() == store.Embedded {
			want = "embedded"
		}
		if s.Version() != want {
			t.Errorf("version %q", s.Version())
		}
		if err := s.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		if off := time.Since(s.Now()); off.Abs() > time.Second { // the clock of Redis is the clock of this machine
			t.Errorf("the time of redis is off by %v", off)
		}
	})
}

// TestConnectWaitsForRedis: it tries until there is one, whatever is started first.
func TestConnectWaitsForRedis(t *testing.T) {
	t.Parallel()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := options(mode)
			proxy := redistest.StartProxy(t, o.Addrs[0])
			proxy.Refuse(true)
			watched := new(watcher)
			o.Addrs, o.Observer = []string{proxy.Addr}, watched
			s, err := store.New(o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			connected := make(chan error)
			go func() { connected <- s.Connect(t.Context()) }()
			// Refused connections are opened and closed at once.
			eventually(t, "it has tried", func() bool { return watched.seen(store.Closed) > 2 })
			if _, err := s.Get(t.Context(), "n", "key", true); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("meanwhile: %v", err)
			}
			proxy.Refuse(false)
			if err := <-connected; err != nil {
				t.Fatal(err, store.Cause(err))
			}
			namespace := newNamespace()
			set(t, s, namespace, "key", store.Write{Value: []byte("value")})
			if get(t, s, namespace, "key", true).Entry == nil {
				t.Error("nothing there")
			}
		})
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, o := range []store.Options{
		{Addrs: []string{nobody}},
		{Mode: store.Cluster, Addrs: []string{nobody}},
		{Mode: store.Sentinel, Addrs: []string{nobody}, SentinelMaster: "larder"},
		{Mode: store.Sentinel, Addrs: topologies.sentinel.Addrs(), SentinelMaster: "somebody-else"},
	} {
		begin := time.Now()
		err := connect(t, o, 300*time.Millisecond)
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v: %s", o.Mode, err, cause(err))
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: took %v", o.Mode, took)
		}
		if strings.Contains(fmt.Sprint(err), "127.0.0.1") {
			t.Errorf("%s: the error tells the address: %v", o.Mode, err)
		}
	}
}

// TestConnectTellsAnOperatorsMistakeAtOnce: waiting would not help.
func TestConnectTellsAnOperatorsMistakeAtOnce(t *testing.T) {
	t.Parallel()
	locked := redistest.Start(t, redistest.Options{Password: "secret", ACL: []string{
		"user limited on >pass ~* -@all +hello +client|setname +info +ping +time +get",
	}})
	lockedNode := redistest.Start(t, redistest.Options{Password: "secret", Args: []string{"cluster-enabled", "yes"}})
	standalone, cluster, sentinel := []string{topologies.standalone.Addr}, topologies.cluster.Addrs()[:1], topologies.sentinel.Addrs()[:1]
	tests := []struct {
		name string
		o    store.Options
		want error
	}{
		{"no password", store.Options{Addrs: []string{locked.Addr}}, store.ErrRefused},
		{"wrong password", store.Options{Addrs: []string{locked.Addr}, Password: "guess"}, store.ErrRefused},
		{"unknown user", store.Options{Addrs: []string{locked.Addr}, Username: "nobody", Password: "secret"}, store.ErrRefused},
		{"password of another user", store.Options{Addrs: []string{locked.Addr}, Username: "limited", Password: "secret"}, store.ErrRefused},
		{"rights too few", store.Options{Addrs: []string{locked.Addr}, Username: "limited", Password: "pass"}, store.ErrRefused},
		{"cluster, no password", store.Options{Mode: store.Cluster, Addrs: []string{lockedNode.Addr}}, store.ErrRefused},
		{"cluster, wrong password", store.Options{Mode: store.Cluster, Addrs: []string{lockedNode.Addr}, Password: "guess"}, store.ErrRefused},
		{"a cluster for one server", store.Options{Addrs: cluster}, store.ErrWrongMode},
		{"one server for a cluster", store.Options{Mode: store.Cluster, Addrs: standalone}, store.ErrWrongMode},
		{"a server for a sentinel", store.Options{Mode: store.Sentinel, Addrs: standalone, SentinelMaster: "larder"}, store.ErrWrongMode},
		{"a sentinel for a server", store.Options{Addrs: sentinel}, store.ErrWrongMode},
		{"a sentinel for a cluster", store.Options{Mode: store.Cluster, Addrs: sentinel}, store.ErrWrongMode},
		{"a database that is not there", store.Options{Addrs: standalone, DB: 99}, store.ErrWrongMode},
	}
	for _, test := range tests {
		for _, bytes := range []int64{0, 1 << 20} {
			test.o.NearCacheBytes = bytes
			begin := time.Now()
			err := connect(t, test.o, 10*time.Second)
			if !errors.Is(err, test.want) || store.Retryable(err) {
				t.Errorf("%s, near cache of %d: %v: %s", test.name, bytes, err, cause(err))
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%s: took %v", test.name, took)
			}
			for _, secret := range []string{"guess", "127.0.0.1", "secret"} {
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("%s: the error holds %q: %v", test.name, secret, err)
				}
			}
		}
	}
}

// TestMinimalRights: all that a user of Larder's cache needs in Redis. Nothing of it may be left out, and it is enough.
func TestMinimalRights(t *testing.T) {
	t.Parallel()
	rights := map[string]string{
		"+client|no-evict": "opening a connection",
		"+client|tracking": "the near cache",
		"+info":            "asserting mode and version",
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
	server := redistest.Start(t, redistest.Options{ACL: []string{user("")}})
	o := store.Options{Addrs: []string{server.Addr}, Username: "larder", Password: "pass", NearCacheBytes: 1 << 20}
	ctx := t.Context()
	everything := func(s *store.Store) error {
		var errs []error
		check := func(_ any, err error) { errs = append(errs, err) }
		_, _, err := s.Set(ctx, "n", "key", store.Write{Value: []byte("value")}, store.Condition{})
		check(nil, err)
		check(s.Get(ctx, "n", "key", true))
		check(s.BatchSet(ctx, "n", []store.BatchWrite{{Key: "a"}}))
		check(s.BatchGet(ctx, "n", []string{"a", "b"}, true))
		check(s.BatchDelete(ctx, "n", []string{"a", "b"}))
		_, _, err = s.Set(ctx, "n", "key", store.Write{Value: []byte("value")}, store.Condition{Kind: store.IfPresent})
		check(nil, err)
		for _, fresh := range []time.Duration{time.Hour, 0} {
			_, _, err = s.Touch(ctx, "n", "key", fresh, store.TouchOverwrite)
			check(nil, err)
		}
		check(s.Increment(ctx, "n", "none", store.Increment{Delta: 5, Max: to(3)}))
		check(s.Increment(ctx, "n", "counter", store.Increment{Delta: 1, TTL: time.Hour, Policy: store.TTLAlways}))
		check(s.Increment(ctx, "n", "counter", store.Increment{Delta: 1, Policy: store.TTLAlways}))
		check(s.Get(ctx, "n", "counter", true))
		_, _, err = s.Touch(ctx, "n", "counter", time.Hour, store.TouchOverwrite)
		check(nil, err)
		_, _, err = s.Touch(ctx, "n", "absent", time.Hour, store.TouchOverwrite)
		check(nil, err)
		_, _, err = s.Delete(ctx, "n", "key", &store.ETag{})
		check(nil, err)
		_, _, err = s.Delete(ctx, "n", "key", nil)
		check(nil, err)
		_, _, err = s.ListKeys(ctx, "n", "", "", 10)
		check(nil, err)
		check(nil, s.DeleteMatching(ctx, "n", "*", "", func(int64, string) error { return nil }))
		check(nil, s.Ping(ctx))
		return errors.Join(errs...)
	}
	if err := everything(open(t, o)); err != nil {
		t.Errorf("the rights are not enough: %v", err)
	}
	for _, right := range slices.Sorted(maps.Keys(rights)) {
		server.Do(t, "SCRIPT", "FLUSH")
		server.Do(t, append([]string{"ACL", "SETUSER"}, strings.Fields(strings.TrimPrefix(strings.Replace(user(right), "resetchannels", "resetkeys resetchannels", 1), "user "))...)...)
		s, err := store.New(o)
		if err != nil {
			t.Fatal(err)
		}
		connecting, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = s.Connect(connecting)
		cancel()
		if err == nil {
			err = everything(s)
		}
		if !errors.Is(err, store.ErrRefused) {
			t.Errorf("without %s, for %s: %v: %s", right, rights[right], err, cause(err))
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
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemCA)
	pair, err := tls.LoadX509KeyPair(files.ClientCert, files.ClientKey)
	if err != nil {
		t.Fatal(err)
	}
	o := store.Options{Addrs: []string{server.Addr}, Password: "secret", NearCacheBytes: 1 << 20}
	o.TLS = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s := open(t, o)
	set(t, s, "n", "key", store.Write{Value: []byte("value")})
	eventually(t, "the value is held", func() bool { return get(t, s, "n", "key", true).Near })

	for name, config := range map[string]*tls.Config{
		"no client certificate": {RootCAs: roots, MinVersion: tls.VersionTLS12},
		"another CA":            {Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		"another name":          {RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		"no TLS":                nil,
	} {
		o.TLS = config
		if err := connect(t, o, 200*time.Millisecond); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v: %s", name, err, cause(err))
		}
	}
}

func TestDatabaseNumber(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}
	zero := open(t, o)
	o.DB = 3
	three := open(t, o)
	set(t, three, "n", "key", store.Write{Value: []byte("value")})
	eventually(t, "it is read from the near cache", func() bool { return get(t, three, "n", "key", true).Near })
	if get(t, zero, "n", "key", true).Entry != nil {
		t.Error("it is in database 0")
	}
	if info := server.Do(t, "INFO", "keyspace").(string); !strings.Contains(info, "db3:keys=1") {
		t.Errorf("%s", info)
	}
	if diff := cmp.Diff([]string{"key"}, list(t, three, "n", "", 10)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
