package bench

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// foreign matches what a page that loads nothing must not contain, and what templates print for values they cannot show.
var foreign = regexp.MustCompile(`(?i)https?:|src=|href=|url\(|@import|<script|NaN|Inf\b|ZgotmplZ`)

// Scripts read these fields, so they must stay.
func TestJSONKeepsItsFields(t *testing.T) {
	t.Parallel()
	stdout := measured(t, nil, "--output=json", "--workload=batchget")
	var report any
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("the report is not JSON: %v\n%s", err, stdout)
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
			t.Errorf("the report has no field %s; it has %q", want, fields)
		}
	}
}

func TestCompareRounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		a, b []float64
		want ratio
	}{
		{"Nothing", nil, nil, ratio{}},
		{"OneRound", []float64{50}, []float64{100}, ratio{0.5, 0.5, 0.5}},
		{"MediansAreOfEachSeries", []float64{10, 90, 50}, []float64{100, 100, 50}, ratio{0.5, 0.1, 1}},
		{"EvenNumber", []float64{1, 2, 3, 4}, []float64{1, 1, 1, 1}, ratio{2.5, 1, 4}},
		{"FloorAtRest", []float64{1}, []float64{0}, ratio{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := slices.Clone(test.a)
			if diff := cmp.Diff(test.want, compare(a, test.b)); diff != "" {
				t.Errorf("compare(%v, %v) (-want +got):\n%s", test.a, test.b, diff)
			}
			if !slices.Equal(a, test.a) {
				t.Errorf("compare has reordered its argument to %v, want %v", a, test.a)
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
			counts[choose()]++ // panics if the number is out of range
		}
		slices.SortFunc(counts, func(a, b int) int { return b - a })
		return counts
	}
	if counts := count("uniform"); counts[0] > 2*draws/keys || counts[keys-1] < draws/keys/2 {
		t.Errorf("uniform: keys were drawn %d to %d times, want about %d times each", counts[keys-1], counts[0], draws/keys)
	}
	hot := 0
	counts := count("zipf")
	for _, n := range counts[:keys/100] {
		hot += n
	}
	if hot < draws/3 || counts[keys/2] > draws/keys {
		t.Errorf("zipf: the hottest %d keys were drawn %d times and the median key %d times, want at least %d and at most %d", keys/100, hot, counts[keys/2], draws/3, draws/keys)
	}
	for _, distribution := range []string{"uniform", "zipf"} {
		if got := chooser(rand.New(rand.NewPCG(1, 2)), distribution, 1)(); got != 0 {
			t.Errorf("%s drew %d from one key, want 0", distribution, got)
		}
	}
}
