package main

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

// quick makes a run as short as it can be.
var quick = []string{"bench", "--duration=60ms", "--rounds=2", "--keys=200", "--in-flight=8", "--connections=2"}

// bench runs the compiled command to its end.
func bench(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return lardertest.Run(t, env, slices.Concat(quick, args)...)
}

func names() (all []string) {
	for _, w := range benchWorkloads {
		all = append(all, w.name)
	}
	return all
}

// checkReport fails unless a report holds sound figures of workloads.
func checkReport(t *testing.T, text string, workloads []string) benchReport {
	t.Helper()
	var r benchReport
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var got []string
	for _, w := range r.Workloads {
		got = append(got, w.Name)
		for who, f := range map[string]benchFigures{"larder": w.Larder, "floor": w.Floor} {
			l := f.Latency
			if f.Calls == 0 || f.Errors != 0 || len(f.CallRates) != r.Rounds || f.CallsPerSecond <= 0 || f.ItemsPerSecond <= 0 {
				t.Errorf("%s, %s: %+v", w.Name, who, f)
			}
			if l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
				t.Errorf("%s, %s: %+v", w.Name, who, l)
			}
		}
		if w.Ratio.Median <= 0 || w.Ratio.Min <= 0 || w.Ratio.Max < w.Ratio.Min {
			t.Errorf("%s: %+v", w.Name, w.Ratio)
		}
	}
	if diff := cmp.Diff(workloads, got); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	return r
}

func TestBenchOnTheEmbeddedStore(t *testing.T) {
	t.Parallel()
	// No PATH, so that no redis-server is found.
	code, stdout, stderr := bench(t, nil, "--output=json")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	r := checkReport(t, stdout, names())
	if r.Redis != "embedded" {
		t.Errorf("redis is %q", r.Redis)
	}
	for _, w := range r.Workloads {
		if w.Name == "stampede" && (w.Larder.LoadsPerKey == nil || *w.Larder.LoadsPerKey != 1 || *w.Floor.LoadsPerKey <= 1) {
			t.Errorf("stampede: %+v beside %+v", w.Larder, w.Floor)
		}
	}
}

func TestBenchOnRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	code, stdout, stderr := bench(t, []string{"REDIS_URL=" + server.URL(), "LARDER_NEAR_CACHE_TTL=1h"}, "--output=json", "--workload=redis-get,near-get,validate,batchget", "--distribution=zipf")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	r := checkReport(t, stdout, []string{"near-get", "redis-get", "batchget", "validate"})
	if r.Redis != "standalone "+server.Version() {
		t.Errorf("redis is %q", r.Redis)
	}
	near, primary, batch := r.Workloads[0], r.Workloads[1], r.Workloads[2]
	if near.Larder.RedisPerCall == nil || *near.Larder.RedisPerCall > 0.5 {
		t.Errorf("near-get: %+v", near.Larder)
	}
	if primary.Larder.RedisPerCall == nil || math.Abs(*primary.Larder.RedisPerCall-1) > 0.01 || primary.Larder.RedisCommands["get"] == 0 {
		t.Errorf("redis-get: %+v", primary.Larder)
	}
	// The entry and the mark of its namespace.
	if primary.Larder.ExecutedPerCall == nil || math.Abs(primary.Larder.Executed["get"]-2) > 0.05 || *near.Larder.ExecutedPerCall > 1 {
		t.Errorf("redis executed %v for redis-get, %v for near-get", primary.Larder.Executed, near.Larder.Executed)
	}
	if batch.KeysRatio == nil || batch.KeysRatio.Median <= 0 || batch.Larder.ItemsPerSecond < 10*batch.Larder.CallsPerSecond {
		t.Errorf("batchget: %+v", batch)
	}
	// Somebody else's Redis is left as it was, but for what Larder remembers of subjects.
	keys, _ := server.Do(t, "KEYS", "*bench-*").([]any)
	for _, key := range keys {
		if key, _ := key.(string); !strings.HasPrefix(key, "ld:i:") && !strings.HasPrefix(key, "ld:u:") {
			t.Errorf("%s is left", key)
		}
	}
}

func TestBenchStartsARedis(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := bench(t, []string{"PATH=" + filepath.Dir(path)}, "--output=json", "--workload=set")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if r := checkReport(t, stdout, []string{"set"}); !strings.HasPrefix(r.Redis, "standalone ") {
		t.Errorf("redis is %q", r.Redis)
	}
}

func TestBenchOfATarget(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://"})
	p.log.Await(t, "connected to redis")
	code, stdout, stderr := bench(t, nil, "--output=json", "--workload=set", "--target="+p.addr(t, "grpc"), "--target-admin="+p.addr(t, "admin"))
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	r := checkReport(t, stdout, []string{"set"})
	if f := r.Workloads[0].Larder; f.CPUPerCall == nil || f.RedisPerCall == nil {
		t.Errorf("%+v", f)
	}
}

// What scripts read must stay.
func TestBenchJSONKeepsItsFields(t *testing.T) {
	t.Parallel()
	_, stdout, _ := bench(t, nil, "--output=json", "--workload=batchget")
	var report any
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	var fields []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				walk(path+"."+name, inner)
			}
		case []any:
			walk(path+"[]", v[0])
		default:
			fields = append(fields, strings.TrimPrefix(path, "."))
		}
	}
	walk("", report)
	for _, want := range []string{
		"version", "go", "platform", "cpus", "redis", "time", "connections", "in_flight", "value_bytes", "keys", "distribution", "seconds_per_workload", "rounds", "interrupted",
		"workloads[].name", "workloads[].about", "workloads[].ratio.median", "workloads[].ratio.min", "workloads[].ratio.max",
		"workloads[].larder.calls", "workloads[].larder.errors", "workloads[].larder.calls_per_second", "workloads[].larder.items_per_second", "workloads[].larder.call_rates[]",
		"workloads[].larder.latency_us.p50", "workloads[].larder.latency_us.p90", "workloads[].larder.latency_us.p99", "workloads[].larder.latency_us.p99_9", "workloads[].larder.latency_us.max",
		"workloads[].larder.redis_per_call", "workloads[].floor.calls_per_second", "workloads[].unary.items_per_second", "workloads[].keys_ratio.median", "workloads[].keys_goal",
	} {
		if !slices.Contains(fields, want) {
			t.Errorf("there is no %s", want)
		}
	}
}

func TestBenchPageStandsAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report.html")
	code, stdout, stderr := bench(t, nil, "--workload=near-get,validate", "--html="+path)
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, part := range []string{"near-get", "validate", "floor", "p99.9", "CPU/call"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("no %s in:\n%s", part, stdout)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if found := regexp.MustCompile(`(?i)https?:|src=|href=|url\(|@import|<script|NaN|Inf\b|ZgotmplZ`).FindAll(page, -1); len(found) > 0 {
		t.Errorf("the page holds %q", found)
	}
	if drawn := strings.Count(string(page), "<svg"); drawn != 2 {
		t.Errorf("%d charts", drawn)
	}
}

func TestBenchThatIsInterruptedShowsWhatItHas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	p := lardertest.Start(t, []string{"REDIS_URL=" + server.URL()},
		"bench", "--duration=1h", "--rounds=3600000", "--keys=10", "--in-flight=2", "--workload=set,validate", "--output=json")
	// Rounds are over once Redis has had many writes.
	for server.CommandCalls(t)["set"] < 500 {
		select {
		case <-p.Exited:
			t.Fatalf("larder bench has ended: %s", &p.Stderr)
		default:
		}
	}
	p.Signal(t, syscall.SIGINT)
	if code := p.Exit(t); code != 1 || p.Stderr.String() != "larder: interrupted: not everything was measured\n" {
		t.Errorf("exit %d: %s", code, &p.Stderr)
	}
	var r benchReport
	if err := json.Unmarshal([]byte(p.Stdout.String()), &r); err != nil {
		t.Fatalf("%v: %s", err, &p.Stdout)
	}
	if !r.Interrupted || len(r.Workloads) != 1 || len(r.Workloads[0].Larder.CallRates) == 0 || r.Workloads[0].Larder.Errors != 0 {
		t.Errorf("%+v", r)
	}
}

func TestBenchCountsCallsThatFail(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := bench(t, []string{"LARDER_MAX_IN_FLIGHT=1"}, "--workload=near-get", "--keys=1")
	if code != 1 || !strings.Contains(stderr, "failed") && !strings.Contains(stderr, "ResourceExhausted") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	if !strings.Contains(stdout, "calls failed: rpc error: code = ResourceExhausted") {
		t.Errorf("nothing about it in:\n%s", stdout)
	}
}

func TestBenchRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--workload=nothing"}, "--workload"},
		{[]string{"--rounds=0", "--keys=0"}, "--keys must be at least 1\nlarder: --rounds must be at least 1"},
		{[]string{"--duration=0s"}, "--duration"},
		{[]string{"--target=localhost"}, "--target must be host:port"},
		{[]string{"--target-admin=localhost:1"}, "--target alone"},
		{[]string{"--redis-url=redis://:hunter2@h"}, "REDIS_URL"},
		{[]string{"--html=/nowhere/at/all"}, "/nowhere/at/all"},
	} {
		code, stdout, stderr := call(t, nil, append([]string{"bench"}, test.args...)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "hunter2") {
			t.Errorf("%q: exit %d: %s%s", test.args, code, stdout, stderr)
		}
	}
}

func TestBenchSaysWhyLarderDoesNotStart(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := bench(t, []string{"REDIS_URL=redis://" + lardertest.ClosedAddr(t), "LARDER_STARTUP_TIMEOUT=10ms"})
	if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "larder: larder serve has ended: redis at ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestCompareRounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		a, b []float64
		want benchRatio
	}{
		{"Nothing", nil, nil, benchRatio{}},
		{"OneRound", []float64{50}, []float64{100}, benchRatio{0.5, 0.5, 0.5}},
		{"MediansAreOfEachSeries", []float64{10, 90, 50}, []float64{100, 100, 50}, benchRatio{0.5, 0.1, 1}},
		{"EvenNumber", []float64{1, 2, 3, 4}, []float64{1, 1, 1, 1}, benchRatio{2.5, 1, 4}},
		{"FloorAtRest", []float64{1}, []float64{0}, benchRatio{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := slices.Clone(test.a)
			if diff := cmp.Diff(test.want, compare(a, test.b)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !slices.Equal(a, test.a) {
				t.Error("the rounds were put into another order")
			}
		})
	}
}

func TestChoiceOfKeys(t *testing.T) {
	t.Parallel()
	const keys, draws = 1000, 100_000
	count := func(distribution string) []int {
		choose := chooser(rand.New(rand.NewPCG(1, 2)), distribution, keys)
		counts := make([]int, keys)
		for range draws {
			counts[choose()]++ // a number out of range ends the test
		}
		slices.SortFunc(counts, func(a, b int) int { return b - a })
		return counts
	}
	if counts := count("uniform"); counts[0] > 2*draws/keys || counts[keys-1] < draws/keys/2 {
		t.Errorf("uniform: from %d to %d of one key", counts[keys-1], counts[0])
	}
	hot := 0
	counts := count("zipf")
	for _, n := range counts[:keys/100] {
		hot += n
	}
	if hot < draws/3 || counts[keys/2] > draws/keys {
		t.Errorf("zipf: the hottest hundredth got %d of %d", hot, draws)
	}
	for _, distribution := range []string{"uniform", "zipf"} {
		if got := chooser(rand.New(rand.NewPCG(1, 2)), distribution, 1)(); got != 0 {
			t.Errorf("%s chose %d of one key", distribution, got)
		}
	}
}
