package main

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/keyring"
)

// Each fault is one line that names the file, the line and the field, and says what is expected.
func TestPolicyFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want string }{
		{"", "1: is empty"},
		{"# soon\n", "1: is empty"},
		{"--- {}\n--- {}\n", "1: must be one YAML document"},
		{"cache: {", "1: "},
		{"\tcache:", "1: "},
		{"[cache]", "1: a policy has no lists"},
		{"cache:\n- a", "2: a policy has no lists"},
		{"cache", "1: the policy: must be a mapping"},
		{"cash: {}", "1: cash: is not known"},
		{"cache:\n  default: {}", "2: cache.default: is not known"},
		{"cache:\n  namespaces: 3", "2: cache.namespaces: must be a mapping"},
		{"cache:\n  namespaces:\n    a.b:\n      max_tll: 1s", "4: cache.namespaces.a.b.max_tll: is not known"},
		{"cache:\n  namespaces:\n    a: {}\n    a: {}", "4: "},
		{"cache:\n  defaults:\n    max_ttl: 1s\n    max_ttl: 2s", "4: "},
		{"cache:\n  defaults: {max_ttl: 30}", "2: cache.defaults.max_ttl: must be a duration"},
		{"cache:\n  defaults: {max_ttl: 1 day}", "2: cache.defaults.max_ttl: must be a duration"},
		{"cache:\n  defaults: {max_ttl: }", "2: cache.defaults.max_ttl: must not be null"},
		{"cache:\n  defaults: {max_ttl: {a: 1}}", "2: cache.defaults.max_ttl: must be a duration"},
		{"cache:\n  defaults: {jitter: 0.1}", "2: cache.defaults.jitter: must not be a fraction"},
		{"cache:\n  defaults: {jitter: 10}", "2: cache.defaults.jitter: must be a percentage, such as 10%"},
		{"cache:\n  defaults: {max_value_bytes: 1.5}", "2: cache.defaults.max_value_bytes: must not be a fraction"},
		{"cache:\n  defaults: {max_value_bytes: 99999999999999999999}", "2: cache.defaults.max_value_bytes: is too large"},
		{"cache:\n  defaults: {max_value_bytes: many}", "2: cache.defaults.max_value_bytes: must be a whole number"},
		{"cache:\n  defaults: {near_cache: yes}", "2: cache.defaults.near_cache: must be true or false"},
		{"sessions:\n  defaults: {preset: {a: 1}}", "2: sessions.defaults.preset: must be a name"},
		{"cache: &c {}\nsessions: *c", "1: must be written out"},
		{"{a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}", "1: braces are nested too deeply"},
		{"rate_limits:\n  rules: {}", "2: rate_limits.rules: is not known"},
		{"rate_limits:\n  defaults:\n    login: 3", "3: rate_limits.defaults.login: must be a mapping"},
		{"rate_limits:\n  defaults:\n    login: {capasity: 3}", "3: rate_limits.defaults.login.capasity: is not known"},
		{"rate_limits:\n  defaults:\n    login: {capacity: many}", "3: rate_limits.defaults.login.capacity: must be a whole number"},
		{"rate_limits:\n  namespaces:\n    a:\n      login:\n        period: 60", "5: rate_limits.namespaces.a.login.period: must be a duration"},
		{"rate_limits:\n  defaults:\n    login: {algorithm: {a: 1}}", "3: rate_limits.defaults.login.algorithm: must be a name"},
		// The service finds these, and they have their lines as well.
		{"cache:\n  namespaces:\n\n    No: {}", "4: cache.namespaces.No: must be 1 to 63 characters"},
		{"cache:\n  namespaces:\n    a:\n      default_ttl: 2s\n      max_ttl: 1s", "4: cache.namespaces.a.default_ttl: must be at least 1ms and at most 1s (max_ttl)"},
		{`{"sessions": {"defaults":` + "\n" + `{"preset": "aal3", "idle_timeout": "16m"}}}`, "2: sessions.defaults.idle_timeout: must be at least 1s and at most 15m (preset aal3)"},
		{"sessions:\n  defaults: {idle_timeout: 1h}", "2: sessions.defaults.idle_timeout: must be at least 1s and at most 30m (LARDER_SESSION_IDLE_TIMEOUT)"},
		{"rate_limits:\n  namespaces:\n    No: {}", "3: rate_limits.namespaces.No: must be 1 to 63 characters"},
		{"rate_limits:\n  defaults:\n    login: {period: 1m}", "3: rate_limits.defaults.login: must have capacity"},
		{"rate_limits:\n  defaults:\n    Log in: {capacity: 1, period: 1m}", "3: rate_limits.defaults.Log in: must be 1 to 63 characters"},
		{"rate_limits:\n  defaults:\n    login:\n      capacity: 1\n      period: 1us", "5: rate_limits.defaults.login.period: must be at least 1ms and at most 8784h"},
		{"rate_limits:\n  defaults:\n    login:\n      capacity: -1\n      period: 1m", "4: rate_limits.defaults.login.capacity: must be at least 0 and at most 1099511627776"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 1, period: 1m, algorithm: leaky}", "3: rate_limits.defaults.login.algorithm: must be gcra, sliding_window or fixed_window"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 1, period: 1m, on_failure: open}", "3: rate_limits.defaults.login.on_failure: must be fail_open, fail_closed or local"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 1, period: 1m, alignment: epoch}", "3: rate_limits.defaults.login.alignment: must be unset unless algorithm is fixed_window"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 1, period: 2m, alignment: calendar, algorithm: fixed_window}", "3: rate_limits.defaults.login.period: must be 1s, 1m, 1h, 24h, 168h (a week), 720h (a month) or 8760h (a year) if alignment is calendar"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 1, period: 1m, redis_timeout: 51ms}", "3: rate_limits.defaults.login.redis_timeout: must be at least 1ms and at most 50ms"},
		{"rate_limits:\n  defaults:\n    login: {capacity: 9, period: 1m, burst: 3}\n  namespaces:\n    a:\n      login:\n        algorithm: fixed_window", "6: rate_limits.namespaces.a.login: has burst, which must be unset unless algorithm is gcra"},
	} {
		path := writePolicy(t, t.TempDir(), test.text)
		code, stdout, stderr := call(t, environ{"LARDER_POLICY_FILE": path}, "serve", "--check")
		if want := "larder: LARDER_POLICY_FILE: " + path + ":" + test.want; code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, want) {
			t.Errorf("%q: exit code %d, standard output %q, standard error %q; want 1, nothing, and one line that begins with %q", test.text, code, stdout, stderr, want)
		}
	}
	for name, path := range map[string]string{
		"no such file": filepath.Join(t.TempDir(), "none"), "is a directory": t.TempDir(),
		"is longer than": writePolicy(t, t.TempDir(), strings.Repeat("#", maxPolicyBytes+1)),
	} {
		if code, _, stderr := call(t, nil, "serve", "--check", "--policy-file", path); code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, path+": "+name) {
			t.Errorf("policy file %s: exit code %d, standard error %q; want 1 and one line that contains %q", path, code, stderr, name)
		}
	}
	if code, _, stderr := call(t, nil, "serve", "--check", "--policy-file", writePolicy(t, t.TempDir(), "{}")); code != 0 {
		t.Errorf("a policy without fields: exit code %d, want 0; standard error: %s", code, stderr)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("cache: {defaults: {jitter: 10%}}")
	f.Add("sessions:\n  namespaces:\n    a: {preset: aal1}\n")
	f.Add("a: |\n  b\n? [c]\n: &d !!e *f # g\n---\n'h': \"\\x00\"")
	f.Fuzz(func(t *testing.T, text string) {
		_, _, err := parsePolicy([]byte(text))
		var fault *policyError
		if err != nil && (!errors.As(err, &fault) || fault.line < 1) {
			t.Errorf("parsePolicy = %v, want a *policyError with a line", err)
		}
	})
}

func writePolicy(t testing.TB, dir, text string) (path string) {
	t.Helper()
	path = filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	return path
}

// must fails the test if a step of its preparation has failed.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("prepare the test: %v", err)
	}
}

// allows reports whether the server accepts a ttl of 5 min in namespace "n", which the policy forbids refuses and the policy
// allowed accepts.
func allows(t testing.TB, cache cachev1.CacheServiceClient) bool {
	t.Helper()
	_, err := cache.Set(t.Context(), &cachev1.SetRequest{Namespace: "n", Key: "k", Expiry: &cachev1.SetRequest_Ttl{Ttl: durationpb.New(5 * time.Minute)}})
	if err != nil && status.Code(err) != codes.InvalidArgument {
		t.Fatalf("Set = %v, want success or InvalidArgument", err)
	}
	return err == nil
}

const forbids, allowed = "cache:\n  namespaces:\n    n: {max_ttl: 1m}\n", "cache:\n  namespaces:\n    n: {max_ttl: 10m}\n"

// The server applies the new policy in whatever way the file is changed.
func TestPolicyIsReadAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, dir, path string){
		"Rewritten": func(t *testing.T, dir, _ string) { writePolicy(t, dir, allowed) },
		"Replaced": func(t *testing.T, dir, path string) {
			must(t, os.WriteFile(filepath.Join(dir, "new"), []byte(allowed), 0o600))
			must(t, os.Rename(filepath.Join(dir, "new"), path))
		},
		"RemovedAndWritten": func(t *testing.T, dir, path string) {
			must(t, os.Remove(path))
			writePolicy(t, dir, allowed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := writePolicy(t, dir, forbids)
			changesPolicy(t, path, func() { change(t, dir, path) })
		})
	}
	// In a mounted ConfigMap the file is a link through ..data, which Kubernetes replaces.
	t.Run("LinkSwapped", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		for version, text := range map[string]string{"..1": forbids, "..2": allowed} {
			must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
			writePolicy(t, filepath.Join(dir, version), text)
		}
		path := filepath.Join(dir, "policy.yaml")
		must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
		must(t, os.Symlink("..data/policy.yaml", path))
		changesPolicy(t, path, func() {
			must(t, os.Symlink("..2", filepath.Join(dir, "..data_tmp")))
			must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		})
	})
}

// changesPolicy checks that a server applies a change of the file. It waits for less than rereadInterval, so the watch must
// see the change.
func changesPolicy(t *testing.T, path string, change func()) {
	t.Helper()
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_POLICY_FILE": path})
	p.log.Await(t, "connected to redis")
	cache := cachev1.NewCacheServiceClient(p.dial(t))
	if allows(t, cache) {
		t.Error("a ttl of 5m is accepted before the change, want it refused")
	}
	change()
	if record := p.log.Await(t, "the policy has changed"); record["file"] != path {
		t.Errorf("logged %v, want the file %s", record, path)
	}
	if !allows(t, cache) {
		t.Error("a ttl of 5m is refused after the change, want it accepted")
	}
	_, metrics := p.get(t, "/metrics")
	if want := `larder_policy_reloads_total{result="applied"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("/metrics has %q first, want %q in it", metricLine(metrics, "larder_policy_reloads_total"), want)
	}
}

// A bad file changes nothing but the log and the metrics. The server applies the next good one.
func TestBadPolicyLeavesTheOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := writePolicy(t, dir, forbids)
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_POLICY_FILE": path})
	p.log.Await(t, "connected to redis")
	cache := cachev1.NewCacheServiceClient(p.dial(t))
	_, before := p.get(t, "/metrics")
	for _, bad := range []struct{ text, fault string }{
		{"cache:\n  namespaces:\n    n: {max_ttl: 10m, color: red}\n", path + ":3: cache.namespaces.n.color: is not known"},
		{"cache:\n  namespaces:\n    n: {max_ttl: 10000h}\n", path + ":3: cache.namespaces.n.max_ttl: must be at least 1ms and at most 720h (LARDER_MAX_TTL)"},
		{"", path + ":1: is empty"},
	} {
		writePolicy(t, dir, bad.text)
		line := p.log.AwaitLine(t, bad.fault)
		if !strings.Contains(line, `"level":"ERROR"`) || !strings.Contains(line, "the old policy stays in force") {
			t.Errorf("logged %s, want the level ERROR and that the old policy stays in force", line)
		}
		if allows(t, cache) {
			t.Errorf("a ttl of 5m is accepted after the bad policy %q, want the old policy to refuse it", bad.text)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	p.log.AwaitLine(t, path+": no such file")
	if code, body := p.get(t, "/health"); code != 200 {
		t.Errorf("/health = %d %s, want 200", code, body)
	}
	_, after := p.get(t, "/metrics")
	if loaded := metricLine(before, "larder_policy_loaded_timestamp_seconds"); loaded == "" || strings.HasSuffix(loaded, " 0") || loaded != metricLine(after, "larder_policy_loaded_timestamp_seconds") {
		t.Errorf("the time of loading was %q and is %q, want it above zero and unchanged", loaded, metricLine(after, "larder_policy_loaded_timestamp_seconds"))
	}
	if got, want := metricLine(after, "larder_policy_reloads_total"), `larder_policy_reloads_total{result="rejected"} 4`; got != want {
		t.Errorf("/metrics has %q, want %q", got, want)
	}
	writePolicy(t, dir, allowed)
	p.log.Await(t, "the policy has changed")
	if !allows(t, cache) {
		t.Error("a ttl of 5m is refused after the good policy, want it accepted")
	}

	// The server logs that a file is back with the same text, and that it is gone again.
	for n := 2; n <= 3; n++ {
		if err := os.Remove(path); err != nil {
			t.Fatalf("Remove: %v", err)
		}
		p.log.AwaitLines(t, path+": no such file", n)
		writePolicy(t, dir, allowed)
		p.log.AwaitLines(t, "the policy has changed", n)
	}
}

// metricLine returns the first sample of a metric, or nothing if there is none.
func metricLine(metrics, name string) string {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, name) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// While the policy changes each call is under the old policy or under the new one, from beginning to end.
func TestPolicyChangesDuringTraffic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := writePolicy(t, dir, forbids)
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_POLICY_FILE": path})
	p.log.Await(t, "connected to redis")
	cache := cachev1.NewCacheServiceClient(p.dial(t))
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				r := &cachev1.BatchSetRequest{Namespace: "n"}
				for range 5 {
					r.Items = append(r.Items, &cachev1.BatchSetItem{Key: "k", Expiry: &cachev1.BatchSetItem_Ttl{Ttl: durationpb.New(5 * time.Minute)}})
				}
				_, err := cache.BatchSet(ctx, r)
				if ctx.Err() != nil || err == nil {
					continue
				}
				bad := status.Convert(err)
				if bad.Code() != codes.InvalidArgument || !strings.Contains(bad.Message(), "items[0].ttl: ") {
					t.Errorf("BatchSet = %v, want success or InvalidArgument for items[0].ttl", err)
				}
			}
		})
	}
	for i := range 10 {
		writePolicy(t, dir, []string{allowed, forbids}[i%2])
		for want := i%2 == 0; allows(t, cache) != want; { // until the server has applied the policy
			runtime.Gosched()
		}
	}
	stop()
	callers.Wait()
}

// The compiled command refuses a bad policy at the start, and applies a changed one.
func TestPolicyOfTheCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := writePolicy(t, dir, "cache: {defaults: {max_tll: 1s}}\n")
	code, stdout, stderr := lardertest.Run(t, []string{"REDIS_URL=embedded://", "LARDER_POLICY_FILE=" + path}, "serve")
	if want := "larder: LARDER_POLICY_FILE: " + path + ":1: cache.defaults.max_tll: is not known\n"; code != 1 || stderr != want || stdout != "" {
		t.Errorf("exit code %d, standard output %q, standard error %q; want 1, nothing, %q", code, stdout, stderr, want)
	}
	writePolicy(t, dir, forbids)
	p := lardertest.Start(t, []string{"REDIS_URL=embedded://", "LARDER_POLICY_FILE=" + path}, "serve")
	p.Stdout.Await(t, "connected to redis")
	writePolicy(t, dir, allowed)
	p.Stdout.Await(t, "the policy has changed")
}

// The example in docs/operating.md is a policy, which the server applies.
func TestDocsShowAPolicy(t *testing.T) {
	t.Parallel()
	const path = "../../docs/operating.md"
	operating, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	_, rest, _ := strings.Cut(string(operating), "--policy-file /dev/stdin <<'EOF'\n")
	text, _, found := strings.Cut(rest, "EOF\n")
	if !found {
		t.Fatalf("%s has no policy between --policy-file and EOF, want one", path)
	}
	parsed, _, err := parsePolicy([]byte(text))
	if err != nil {
		t.Fatalf("parse the policy of %s: %v", path, err)
	}
	// The example shows every field.
	for _, field := range []string{
		"default_ttl", "max_ttl", "jitter", "max_value_bytes", "near_cache", "default_stale_ttl", "allow_stale", "encrypt",
		"preset", "idle_timeout", "absolute_timeout", "rotation_grace", "max_sessions_per_subject", "max_sessions_per_class", "limit_policy", "touch_interval",
	} {
		if !strings.Contains(text, field+":") {
			t.Errorf("the policy of %s has no field %s, want every field", path, field)
		}
	}
	if err := policy.New(policy.Limits{Keyring: true}).Set(parsed); err != nil {
		t.Errorf("Set of the policy of %s = %v, want no error", path, err)
	}
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("a "+base64.StdEncoding.EncodeToString(make([]byte, keyring.KeyBytes))), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_KEYRING_FILE": keys, "LARDER_POLICY_FILE": writePolicy(t, t.TempDir(), text)})
	p.log.Await(t, "connected to redis")
	cache := cachev1.NewCacheServiceClient(p.dial(t))
	if _, err := cache.Set(t.Context(), &cachev1.SetRequest{Namespace: "prices", Key: "k"}); err != nil {
		t.Fatalf("Set = %v, want no error", err)
	}
	got, err := cache.Get(t.Context(), &cachev1.GetRequest{Namespace: "prices", Key: "k"})
	if err != nil || got.Ttl.AsDuration() > 30*time.Second || got.Ttl.AsDuration() < 20*time.Second {
		t.Errorf("Get = %v, %v; want a ttl from 20s to 30s", got, err)
	}
}
