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
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
)

// watcher counts what a store reports.
type watcher struct {
	mu       sync.Mutex
	events   map[store.ConnectionEvent]int
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

func (w *watcher) Connection(event store.ConnectionEvent, _ int, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events == nil {
		w.events = map[store.ConnectionEvent]int{}
	}
	w.events[event]++
}

func (w *watcher) seen(event store.ConnectionEvent) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events[event]
}

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

func TestNewTurnsAwayMistakes(t *testing.T) {
	t.Parallel()
	addr := []string{"127.0.0.1:1"}
	for name, o := range map[string]store.Options{
		"unknown mode":        {Mode: "guess", Addrs: addr},
		"no address":          {},
		"two addresses":       {Addrs: append(addr, addr...)},
		"database of cluster": {Mode: store.Cluster, Addrs: addr, DB: 1},
		"no name of primary":  {Mode: store.Sentinel, Addrs: addr},
	} {
		if s, err := store.New(o); err == nil {
			s.Close()
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestOperationsBeforeConnect(t *testing.T) {
	t.Parallel()
	s, err := store.New(options(store.Standalone))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "n", "key", true); !errors.Is(err, store.ErrUnavailable) || !store.Retryable(err) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("set: %v", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
	if s.Version() != "" {
		t.Errorf("version %q", s.Version())
	}
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
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, Observer: watched})
	for range 3 {
		set(t, s, "n", "key", store.Write{Value: []byte("value")})
		eventually(t, "the value is held", func() bool { return get(t, s, "n", "key", true).Near })
		before := watched.seen(store.DialFailed)
		dialed := watched.seen(store.Dialed)
		server.Kill()
		eventually(t, "the loss is noticed", func() bool {
			_, err := s.Get(t.Context(), "n", "key", true)
			return errors.Is(err, store.ErrUnavailable)
		})
		outage := time.Now().Add(800 * time.Millisecond)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for time.Now().Before(outage) {
					begin := time.Now()
					_, err := s.Get(t.Context(), "n", "key", true)
					if !errors.Is(err, store.ErrUnavailable) || !store.Retryable(err) {
						t.Errorf("get: %v: %s", err, cause(err))
						return
					}
					_, _, err = s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{})
					if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrOutcomeUnknown) || !store.Retryable(err) {
						t.Errorf("set: %v: %s", err, cause(err))
						return
					}
					if took := time.Since(begin); took > 500*time.Millisecond {
						t.Errorf("failed only after %v", took)
					}
				}
			})
		}
		callers.Wait()
		// From half of 50, 100, 200, 400 and 800 ms: some five to six, and a few of callers who were on their way.
		attempts := watched.seen(store.DialFailed) - before
		if attempts < 2 || attempts > 12 {
			t.Errorf("dialled %d times", attempts)
		}
		server.Restart(t)
		eventually(t, "it works again", func() bool {
			f, err := s.Get(t.Context(), "n", "key", true)
			if err == nil && f.Entry != nil {
				t.Error("served what Redis has lost")
			}
			return err == nil && s.Ping(t.Context()) == nil
		})
		if got := watched.seen(store.Dialed) - dialed; got != 2 {
			t.Errorf("opened %d connections", got)
		}
	}
	if opened, closed := watched.seen(store.Dialed), watched.seen(store.Closed); opened-closed != 2 {
		t.Errorf("opened %d connections, closed %d", opened, closed)
	}
}

// TestDeadlinesHoldWhenRedisStalls: connections stay open and nothing answers. No call outlives its deadline, not even
// while connections are given up and dialled anew, and what is beyond MaxInFlight is turned away.
func TestDeadlinesHoldWhenRedisStalls(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, MaxInFlight: 32, NearCacheBytes: 1 << 20})
	set(t, s, "n", "key", store.Write{Value: []byte("value")})
	// Who waits for the dialling of another caller waits for as long as that one does: up to its deadline, or the second
	// after which dialling is given up.
	const deadline, margin = 250 * time.Millisecond, 500 * time.Millisecond
	server.Pause(t)
	var mu sync.Mutex
	counts := map[string]int{}
	longest := time.Duration(0)
	var callers sync.WaitGroup
	stop := time.Now().Add(3500 * time.Millisecond) // the connections are given up after two seconds
	for caller := range 100 {
		callers.Go(func() {
			for time.Now().Before(stop) {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				begin := time.Now()
				var err error
				if caller%2 == 0 {
					_, err = s.Get(ctx, "n", fmt.Sprint(caller), true)
				} else {
					_, _, err = s.Set(ctx, "n", fmt.Sprint(caller), store.Write{}, store.Condition{})
				}
				took := time.Since(begin)
				cancel()
				kind := fmt.Sprint(err)
				if errors.Is(err, store.ErrOverloaded) {
					kind = "overloaded"
					if store.Retryable(err) {
						t.Error("asks for more of it")
					}
				}
				mu.Lock()
				counts[kind]++
				longest = max(longest, took)
				mu.Unlock()
			}
		})
	}
	eventually(t, "the cap is reached", func() bool { return s.Stats().InFlight == 32 })
	callers.Wait()
	t.Logf("longest %v of %v, %v", longest, deadline, counts)
	if longest > deadline+margin {
		t.Errorf("a call with %v took %v", deadline, longest)
	}
	if counts["overloaded"] == 0 || counts[context.DeadlineExceeded.Error()] == 0 {
		t.Errorf("%v", counts)
	}
	server.Resume(t)
	eventually(t, "it works again", func() bool {
		_, err := s.Get(t.Context(), "n", "key", true)
		return err == nil
	})
	eventually(t, "nothing is under way", func() bool { return s.Stats().InFlight == 0 })
}

// TestCancelledCallerIsAlone: one caller goes away, and neither the others nor the connections do.
func TestCancelledCallerIsAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	set(t, s, "n", "key", store.Write{Value: []byte("value")})
	before := clientIDs(t, server)
	if len(before) != 2 {
		t.Fatalf("connections %v", before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone, others := make(chan error, 20), make(chan error, 20)
	server.Pause(t)
	for i := range 20 {
		ctx, results := ctx, gone
		if i%2 == 0 {
			ctx, results = t.Context(), others
		}
		go func() {
			var err error
			switch i % 4 {
			case 0, 1: // one key: of those who share a read, the one that asks may be the one that goes away
				_, err = s.Get(ctx, "n", "shared", true)
			case 2:
				_, err = s.Get(ctx, "n", "key", false)
			default:
				_, _, err = s.Set(ctx, "n", "other", store.Write{}, store.Condition{})
			}
			results <- err
		}()
	}
	eventually(t, "all are under way", func() bool { return s.Stats().InFlight >= 10 })
	cancel()
	for range 10 {
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away: %v", err)
		}
	}
	server.Resume(t)
	for range 10 {
		if err := <-others; err != nil {
			t.Errorf("who stayed: %v: %s", err, store.Cause(err))
		}
	}
	if diff := cmp.Diff(before, clientIDs(t, server)); diff != "" {
		t.Errorf("connections (-before +after):\n%s", diff)
	}
}

// TestBackoffBehindAProxy: a load balancer that has no Redis to offer takes connections and closes them. It is not dialled
// any more often for that, and what was never sent is not said to be of unknown outcome.
func TestBackoffBehindAProxy(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, topologies.standalone.Addr)
	watched := new(watcher)
	s := open(t, store.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, Observer: watched})
	proxy.Refuse(true)
	proxy.CutAll()
	eventually(t, "the loss is noticed", func() bool { return watched.seen(store.Closed) >= 2 })
	before := watched.seen(store.Dialed)
	outage := time.Now().Add(800 * time.Millisecond)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for time.Now().Before(outage) {
				_, err := s.Get(t.Context(), "n", "key", true)
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("get: %v: %s", err, cause(err))
				}
				_, _, err = s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{Kind: store.IfAbsent})
				if !errors.Is(err, store.ErrUnavailable) || !store.Retryable(err) {
					t.Errorf("set: %v: %s", err, cause(err))
				}
			}
		})
	}
	callers.Wait()
	if attempts := watched.seen(store.Dialed) - before; attempts < 2 || attempts > 12 {
		t.Errorf("dialled %d times", attempts)
	}
	proxy.Refuse(false)
	eventually(t, "it works again", func() bool { return s.Ping(t.Context()) == nil })
}

// TestShortDeadlinesKeepConnections: callers whose time runs out again and again do not wear out the connections.
func TestShortDeadlinesKeepConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	before := clientIDs(t, server)
	late := 0
	for i := range 500 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%50)*10*time.Microsecond)
		if _, err := s.Get(ctx, "n", "key", false); err != nil {
			if late++; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: %s", err, store.Cause(err))
			}
		}
		cancel()
	}
	if late == 0 {
		t.Error("nobody was late")
	}
	if diff := cmp.Diff(before, clientIDs(t, server)); diff != "" {
		t.Errorf("connections (-before +after):\n%s", diff)
	}
}

// TestScriptsSurviveAFlush: a Redis that has forgotten the scripts, as after a restart, is taught them again.
func TestScriptsSurviveAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				server.Do(t, "SCRIPT", "FLUSH")
			}
		}
	}()
	for i := range int64(300) {
		r, err := s.Increment(t.Context(), "n", "counter", store.Increment{Delta: 1})
		if err != nil || r.Value != i+1 {
			t.Fatalf("%+v, %v: %s", r, err, cause(err))
		}
		if _, _, err := s.Touch(t.Context(), "n", "counter", time.Hour, store.TouchOverwrite); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-stopped
}

// TestCloseIsBounded, and ends what it began, even where Redis does not answer.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := open(t, store.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20})
	server.Pause(t)
	defer server.Resume(t)
	pending := make(chan error)
	go func() {
		_, err := s.Get(t.Context(), "n", "key", true)
		pending <- err
	}()
	eventually(t, "a read is under way", func() bool { return s.Stats().InFlight == 1 })
	begin := time.Now()
	s.Close()
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if err := <-pending; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the read under way: %v", err)
	}
	begin = time.Now()
	if _, err := s.Get(t.Context(), "n", "key", true); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a read after the end: %v", err)
	}
	if _, _, err := s.Set(t.Context(), "n", "key", store.Write{}, store.Condition{}); err == nil {
		t.Error("a write after the end succeeds")
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("calls after the end took %v", took)
	}
	s.Close() // again does no harm
}

// TestCloseEndsConnect: a process that is told to stop while it waits for Redis stops.
func TestCloseEndsConnect(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, topologies.standalone.Addr)
	proxy.Refuse(true)
	o := options(store.Standalone)
	o.Addrs = []string{proxy.Addr}
	s, err := store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan error)
	go func() { connected <- s.Connect(t.Context()) }()
	s.Close()
	if err := <-connected; !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

// TestCloseLeavesNothingBehind runs alone, so that every goroutine is one of its own.
func TestCloseLeavesNothingBehind(t *testing.T) {
	existing := goleak.IgnoreCurrent()
	for _, mode := range []store.Mode{store.Standalone, store.Cluster, store.Sentinel, store.Embedded} {
		s := open(t, options(mode))
		set(t, s, newNamespace(), "key", store.Write{Value: []byte("value")})
		s.Close()
		if mode != store.Embedded {
			refused := options(mode)
			refused.Username = "nobody"
			if err := connect(t, refused, 5*time.Second); err == nil {
				t.Errorf("%s knows nobody", mode)
			}
		}
	}
	// After a change of topology rueidis lets connections live five seconds longer.
	leaving := goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2")
	if err := goleak.Find(existing, leaving); err != nil {
		t.Error(err)
	}
}
