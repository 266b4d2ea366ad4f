package bench

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

func TestMain(m *testing.M) { lardertest.Main(m) }

// quick makes a run as short as possible.
var quick = []string{"bench", "--duration=60ms", "--rounds=2", "--keys=200", "--in-flight=8", "--connections=2"}

// measured runs the compiled command, which must succeed, and returns its standard output.
func measured(t *testing.T, env []string, args ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := lardertest.Run(t, env, slices.Concat(quick, args)...)
	if code != 0 || stderr != "" {
		t.Fatalf("bench %q: exit code %d, standard error %q; want 0 and nothing", args, code, stderr)
	}
	return stdout
}

// names returns the names of all workloads.
func names() (all []string) {
	for _, w := range workloads {
		all = append(all, w.name)
	}
	return all
}

// parseReport parses a report in JSON. It fails the test unless the report has plausible figures of the workloads.
func parseReport(t *testing.T, text string, workloads []string) report {
	t.Helper()
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("the report is not JSON: %v\n%s", err, text)
	}
	var got []string
	for _, w := range r.Workloads {
		got = append(got, w.Name)
		for who, f := range map[string]figures{"larder": w.Larder, "floor": w.Floor} {
			if f.Calls == 0 || f.Errors != 0 || len(f.CallRates) != r.Rounds || f.CallsPerSecond <= 0 || f.ItemsPerSecond <= 0 {
				t.Errorf("%s, %s: %+v; want calls without errors in %d rounds", w.Name, who, f, r.Rounds)
			}
			if l := f.Latency; l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
				t.Errorf("%s, %s: latencies %+v, want rising percentiles above zero", w.Name, who, l)
			}
		}
		if w.Ratio.Median <= 0 || w.Ratio.Min <= 0 || w.Ratio.Max < w.Ratio.Min {
			t.Errorf("%s: ratio %+v, want a median above zero and a range", w.Name, w.Ratio)
		}
	}
	if diff := cmp.Diff(workloads, got); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	return r
}

// perCallOf returns a figure per call for a message, or -1 if it is unknown.
func perCallOf(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

func TestEmbeddedStore(t *testing.T) {
	t.Parallel()
	// Without PATH in the environment no redis-server is found.
	r := parseReport(t, measured(t, nil, "--output=json"), names())
	if r.Redis != "embedded" {
		t.Errorf("redis = %q, want embedded", r.Redis)
	}
	if r.Version != lardertest.Version {
		t.Errorf("version = %q, want %q", r.Version, lardertest.Version)
	}
	for _, w := range r.Workloads {
		if w.Name != "stampede" {
			continue
		}
		if larder, floor := perCallOf(w.Larder.LoadsPerKey), perCallOf(w.Floor.LoadsPerKey); larder != 1 || floor <= 1 {
			t.Errorf("stampede: each key was loaded %v times with leases and %v times without, want 1 and more than 1", larder, floor)
		}
	}
}

func TestRedisOfTheEnvironment(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	stdout := measured(t, []string{"REDIS_URL=" + redis.URL(), "LARDER_NEAR_CACHE_TTL=1h"}, "--output=json", "--workload=redis-get,near-get,validate,batchget", "--distribution=zipf")
	r := parseReport(t, stdout, []string{"near-get", "redis-get", "batchget", "validate"})
	if want := "standalone " + redis.Version(); r.Redis != want {
		t.Errorf("redis = %q, want %q", r.Redis, want)
	}
	near, primary, batch := r.Workloads[0], r.Workloads[1], r.Workloads[2]
	if got := perCallOf(near.Larder.RedisPerCall); got < 0 || got > 0.5 {
		t.Errorf("near-get: %v round trips per call, want at most 0.5", got)
	}
	if got := perCallOf(primary.Larder.RedisPerCall); math.Abs(got-1) > 0.01 || primary.Larder.RedisCommands["get"] == 0 {
		t.Errorf("redis-get: %v round trips per call, by command %v; want 1, of get", got, primary.Larder.RedisCommands)
	}
	// A Get reads the entry, and when its namespace was cleared.
	if got := primary.Larder.Executed["get"]; primary.Larder.ExecutedPerCall == nil || math.Abs(got-2) > 0.05 {
		t.Errorf("redis-get: redis executed %v gets per call, want 2", got)
	}
	if got := perCallOf(near.Larder.ExecutedPerCall); got < 0 || got > 1 {
		t.Errorf("near-get: redis executed %v commands per call, want at most 1", got)
	}
	if batch.KeysRatio == nil || batch.KeysRatio.Median <= 0 || batch.Larder.ItemsPerSecond < 10*batch.Larder.CallsPerSecond {
		t.Errorf("batchget: keys ratio %+v, %v calls/s, %v keys/s; want a ratio, and at least 10 keys for each call", batch.KeysRatio, batch.Larder.CallsPerSecond, batch.Larder.ItemsPerSecond)
	}
	// Bench removes what it has written, except for what Larder remembers of subjects, and of revocations for two minutes.
	keys, _ := redis.Do(t, "KEYS", "*bench-*").([]any)
	for _, key := range keys {
		key, _ := key.(string)
		switch left, _ := redis.Do(t, "PTTL", key).(int64); {
		case strings.HasPrefix(key, "ld:i:"), strings.HasPrefix(key, "ld:u:"):
		case strings.HasPrefix(key, "ld:r:") && left != -1 && left <= 120_000:
		default:
			t.Errorf("the key %s is left in redis", key)
		}
	}
}

func TestRedisIsStarted(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	stdout := measured(t, []string{"PATH=" + filepath.Dir(path)}, "--output=json", "--workload=set")
	if r := parseReport(t, stdout, []string{"set"}); !strings.HasPrefix(r.Redis, "standalone ") {
		t.Errorf("redis = %q, want standalone and a version", r.Redis)
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	larder := lardertest.Start(t, []string{"REDIS_URL=embedded://"}, "serve")
	larder.Stdout.Await(t, "connected to redis")
	stdout := measured(t, nil, "--output=json", "--workload=set", "--target="+larder.Addr(t, "grpc"), "--target-admin="+larder.Addr(t, "admin"))
	f := parseReport(t, stdout, []string{"set"}).Workloads[0].Larder
	if f.CPUPerCall == nil || f.RedisPerCall == nil {
		t.Errorf("CPU time per call is %v and round trips per call are %v (-1 means unknown), want both from the metrics of the target", perCallOf(f.CPUPerCall), perCallOf(f.RedisPerCall))
	}
}

func TestInterruptedRunReportsCompleteRounds(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	p := lardertest.Start(t, []string{"REDIS_URL=" + redis.URL()},
		"bench", "--duration=1h", "--rounds=360000", "--keys=10", "--in-flight=2", "--workload=set,validate", "--output=json")
	// Some rounds, of 5 ms for each server, are complete once Redis has executed many writes.
	for redis.CommandCalls(t)["set"] < 500 {
		select {
		case <-p.Exited:
			t.Fatalf("bench has ended before the interruption: %s", &p.Stderr)
		default:
		}
	}
	p.Signal(t, syscall.SIGINT)
	if code, want := p.Exit(t), "larder: interrupted: not everything was measured\n"; code != 1 || p.Stderr.String() != want {
		t.Errorf("exit code %d, standard error %q; want 1 and %q", code, &p.Stderr, want)
	}
	var r report
	if err := json.Unmarshal([]byte(p.Stdout.String()), &r); err != nil {
		t.Fatalf("the report is not JSON: %v\n%s", err, &p.Stdout)
	}
	if !r.Interrupted || len(r.Workloads) != 1 || len(r.Workloads[0].Larder.CallRates) == 0 || r.Workloads[0].Larder.Errors != 0 {
		t.Errorf("the report is %+v, want it interrupted, with one workload that has complete rounds and no errors", r)
	}
}

func TestFailedCallsAreCounted(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := lardertest.Run(t, []string{"LARDER_MAX_IN_FLIGHT=1"}, slices.Concat(quick, []string{"--workload=near-get", "--keys=1"})...)
	if code != 1 || !strings.Contains(stderr, "failed") && !strings.Contains(stderr, "ResourceExhausted") {
		t.Errorf("exit code %d, standard error %q; want 1 and the failure", code, stderr)
	}
	if want := "calls failed: rpc error: code = ResourceExhausted"; !strings.Contains(stdout, want) {
		t.Errorf("standard output does not contain %q:\n%s", want, stdout)
	}
}

func TestBadFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--workload=nothing"}, "--workload"},
		{[]string{"--rounds=0", "--keys=0"}, "--keys must be at least 1\nlarder: --rounds must be at least 1"},
		{[]string{"--duration=0s"}, "--duration"},
		{[]string{"--target=localhost"}, "--target must be host:port"},
		{[]string{"--target-admin=localhost:1"}, "--target-admin requires --target"},
		{[]string{"--redis-url=redis://:hunter2@h"}, "REDIS_URL"},
		{[]string{"--html=/nowhere/at/all"}, "/nowhere/at/all"},
	} {
		code, stdout, stderr := lardertest.Run(t, nil, append([]string{"bench"}, test.args...)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("bench %q: exit code %d, standard output %q, standard error %q; want 1, nothing and %q", test.args, code, stdout, stderr, test.want)
		}
		if strings.Contains(stderr, "hunter2") {
			t.Errorf("bench %q: the password is shown: %s", test.args, stderr)
		}
	}
}

func TestLarderThatDoesNotStart(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := lardertest.Run(t, []string{"REDIS_URL=redis://" + lardertest.ClosedAddr(t), "LARDER_STARTUP_TIMEOUT=10ms"}, quick...)
	if want := "larder: larder serve exited at the start: redis at "; code != 1 || stdout != "" || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d, standard output %q, standard error %q; want 1, nothing, and one line that begins with %q", code, stdout, stderr, want)
	}
}

func TestPageStandsAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report.html")
	stdout := measured(t, nil, "--workload=near-get,validate", "--html="+path)
	for _, want := range []string{"near-get", "validate", "floor", "p99.9", "CPU/call"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the report does not contain %q:\n%s", want, stdout)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if found := foreign.FindAll(page, -1); len(found) > 0 {
		t.Errorf("the page contains %q, want no link, script or number that is not finite", found)
	}
	if drawn := strings.Count(string(page), "<svg"); drawn != 2 {
		t.Errorf("the page has %d charts, want 2", drawn)
	}
}
