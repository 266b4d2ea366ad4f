package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/dustin/go-humanize"
)

// A benchReport is what a run has found. Its JSON is for scripts: fields are added to it and never change.
type benchReport struct {
	Version  string    `json:"version"`
	Go       string    `json:"go"`
	Platform string    `json:"platform"`
	CPUs     int       `json:"cpus"`
	Redis    string    `json:"redis,omitempty"` // mode and version; absent for a target
	Time     time.Time `json:"time"`

	Connections  int     `json:"connections"`
	InFlight     int     `json:"in_flight"`
	ValueBytes   int64   `json:"value_bytes"`
	Keys         int     `json:"keys"`
	Distribution string  `json:"distribution"`
	Seconds      float64 `json:"seconds_per_workload"`
	Rounds       int     `json:"rounds"`
	Target       string  `json:"target,omitempty"`

	Interrupted bool          `json:"interrupted"`
	Workloads   []benchResult `json:"workloads"`
}

// A benchResult is what one workload has found.
type benchResult struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Ratio is that of Larder's calls per second to the floor's; Goal is what it should be at least, 0 for nothing.
	Ratio benchRatio `json:"ratio"`
	Goal  float64    `json:"goal,omitempty"`
	// CPURatio is that of the CPU time which a call costs the server.
	CPURatio float64 `json:"cpu_ratio,omitempty"`

	Larder benchFigures `json:"larder"`
	Floor  benchFigures `json:"floor"`

	// Unary are the figures of single Gets in the same rounds as a BatchGet, and KeysRatio compares the keys per second.
	Unary     *benchFigures `json:"unary,omitempty"`
	KeysRatio *benchRatio   `json:"keys_ratio,omitempty"`
	KeysGoal  float64       `json:"keys_goal,omitempty"`
}

// A benchRatio compares two series of rounds.
type benchRatio struct {
	// Median is the ratio of the medians of the series.
	Median float64 `json:"median"`
	// Min and Max are the least and the greatest ratio within one round.
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// benchFigures are what one server did in one workload.
type benchFigures struct {
	Calls    int64            `json:"calls"`
	Errors   int64            `json:"errors"`
	Messages map[string]int64 `json:"error_messages,omitempty"`
	// CallsPerSecond and ItemsPerSecond are medians of the rounds; CallRates has the calls per second of each.
	CallsPerSecond float64      `json:"calls_per_second"`
	ItemsPerSecond float64      `json:"items_per_second"`
	CallRates      []float64    `json:"call_rates"`
	Latency        benchLatency `json:"latency_us"`
	// CPUPerCall is the CPU time of the server, in microseconds; absent if that is not known.
	CPUPerCall *float64 `json:"cpu_us_per_call,omitempty"`
	// RedisPerCall counts round trips to Redis, RedisCommands by command; absent if they are not known.
	RedisPerCall  *float64           `json:"redis_per_call,omitempty"`
	RedisCommands map[string]float64 `json:"redis_commands_per_call,omitempty"`
	// ExecutedPerCall counts the commands that Redis executed, those inside scripts included, Executed by command; absent
	// if they are not known.
	ExecutedPerCall *float64           `json:"redis_executed_per_call,omitempty"`
	Executed        map[string]float64 `json:"redis_executed,omitempty"`
	// LoadsPerKey is how often a key was loaded in a stampede.
	LoadsPerKey *float64 `json:"loads_per_key,omitempty"`

	latencies *hdrhistogram.Histogram
}

// A benchLatency holds percentiles in microseconds.
type benchLatency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

func newBenchReport(b *benchCommand) *benchReport {
	return &benchReport{
		Version: release(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Time: time.Now().UTC(),
		Connections: b.Connections, InFlight: b.InFlight, ValueBytes: int64(b.ValueSize), Keys: b.Keys, Distribution: b.Distribution,
		Seconds: b.Duration.Seconds(), Rounds: b.Rounds, Target: b.Target, Workloads: []benchResult{},
	}
}

// compare returns the ratio of two series of rounds, a to b.
func compare(a, b []float64) (r benchRatio) {
	for i := range min(len(a), len(b)) {
		ratio := quotient(a[i], b[i])
		if i == 0 {
			r.Min, r.Max = ratio, ratio
		}
		r.Min, r.Max = min(r.Min, ratio), max(r.Max, ratio)
	}
	r.Median = quotient(median(a), median(b))
	return r
}

// quotient is 0 where there is none, which JSON could not show.
func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// median returns 0 for nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// result puts together what the legs of a workload have found: Larder's, the floor's, and the one beside.
func (w *benchWorkload) result(legs []*benchLeg) benchResult {
	r := benchResult{Name: w.name, About: w.about, Goal: w.goal, Larder: legs[0].figures(), Floor: legs[1].figures()}
	r.Ratio = compare(r.Larder.CallRates, r.Floor.CallRates)
	if r.Larder.CPUPerCall != nil && r.Floor.CPUPerCall != nil {
		r.CPURatio = quotient(*r.Larder.CPUPerCall, *r.Floor.CPUPerCall)
	}
	if len(legs) > 2 {
		unary := legs[2].figures()
		keys := compare(legs[0].itemRates(), legs[2].itemRates())
		r.Unary, r.KeysRatio, r.KeysGoal = &unary, &keys, w.besideGoal
	}
	return r
}

func (g *benchLeg) itemRates() (rates []float64) {
	for _, t := range g.turns {
		rates = append(rates, float64(t.items)/t.took.Seconds())
	}
	return rates
}

func (g *benchLeg) figures() benchFigures {
	f := benchFigures{CallRates: []float64{}, Messages: make(map[string]int64), latencies: hdrhistogram.New(int64(time.Microsecond), int64(time.Minute), 3)}
	for _, w := range g.workers {
		f.latencies.Merge(w.latencies)
		for message, n := range w.failures {
			f.Messages[message] += n
			f.Errors += n
		}
	}
	var cpu time.Duration
	waves := 0
	redis, executed := make(map[string]float64), make(map[string]float64)
	cpuKnown, redisKnown, executedKnown := true, true, true
	for _, t := range g.turns {
		f.Calls += t.calls
		f.CallRates = append(f.CallRates, float64(t.calls)/t.took.Seconds())
		waves += t.waves
		cpu += t.spent.cpu
		cpuKnown = cpuKnown && t.spent.cpu >= 0
		redisKnown = redisKnown && t.spent.redis != nil
		executedKnown = executedKnown && t.spent.executed != nil
		add(redis, t.spent.redis)
		add(executed, t.spent.executed)
	}
	f.CallsPerSecond, f.ItemsPerSecond = median(f.CallRates), median(g.itemRates())
	quantile := func(q float64) float64 { return float64(f.latencies.ValueAtQuantile(q)) / 1000 }
	f.Latency = benchLatency{quantile(50), quantile(90), quantile(99), quantile(99.9), float64(f.latencies.Max()) / 1000}
	if f.Calls == 0 {
		return f
	}
	calls := float64(f.Calls)
	if cpuKnown {
		f.CPUPerCall = new(float64(cpu.Nanoseconds()) / 1000 / calls)
	}
	if redisKnown {
		f.RedisPerCall, f.RedisCommands = perCall(redis, calls)
	}
	if executedKnown {
		f.ExecutedPerCall, f.Executed = perCall(executed, calls)
	}
	if g.waves && waves > 0 {
		f.LoadsPerKey = new(float64(g.loads.Load()) / float64(waves))
	}
	return f
}

func add(sum, counts map[string]float64) {
	for command, n := range counts {
		sum[command] += n
	}
}

// perCall returns what was counted for each call, together and by command.
func perCall(counts map[string]float64, calls float64) (*float64, map[string]float64) {
	each, sum := make(map[string]float64), 0.0
	for command, n := range counts {
		if n > 0 {
			each[command] = n / calls
			sum += n
		}
	}
	return new(sum / calls), each
}

// errors counts the calls that failed.
func (r *benchReport) errors() (n int64) {
	for _, w := range r.Workloads {
		n += w.Larder.Errors + w.Floor.Errors
		if w.Unary != nil {
			n += w.Unary.Errors
		}
	}
	return n
}

// json writes the report for scripts.
func (r *benchReport) json(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Setting is the line that says under which circumstances the figures were taken.
func (r *benchReport) Setting() string {
	where := fmt.Sprintf("%d CPUs, %s, %s", r.CPUs, r.Platform, r.Go)
	if r.Redis != "" {
		where += ", redis " + r.Redis
	}
	if r.Target != "" {
		where += ", target " + r.Target
	}
	return fmt.Sprintf("%s; %d in flight over %d connections, %s values, %s keys (%s), %d rounds in %gs",
		where, r.InFlight, r.Connections, humanize.IBytes(uint64(max(r.ValueBytes, 0))), humanize.Comma(int64(r.Keys)), r.Distribution, r.Rounds, r.Seconds)
}

// text writes the report for people.
func (r *benchReport) text(out io.Writer) error {
	fmt.Fprintf(out, "Larder %s beside the floor, a bare grpc-go handler that answers from memory\n%s\n\n", r.Version, r.Setting())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(cells ...string) { fmt.Fprintf(table, "%s\t\n", strings.Join(cells, "\t")) }
	line("", "calls/s", "ratio", "min-max", "p50", "p90", "p99", "p99.9", "max", "CPU/call", "ratio", "trips/call", "Redis/call")
	for _, w := range r.Workloads {
		ratio, cpuRatio := fmt.Sprintf("%.2f", w.Ratio.Median), ""
		if w.CPURatio > 0 {
			cpuRatio = fmt.Sprintf("%.2f", w.CPURatio)
		}
		w.Larder.line(line, w.Name, ratio, fmt.Sprintf("%.2f-%.2f", w.Ratio.Min, w.Ratio.Max), cpuRatio)
		w.Floor.line(line, "floor", "", "", "")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n")
	for _, note := range r.Notes() {
		fmt.Fprintf(out, "%s\n", note)
	}
	return nil
}

func (f *benchFigures) line(line func(...string), name, ratio, span, cpuRatio string) {
	cells := append(make([]string, 0, 13), name, humanize.Comma(int64(f.CallsPerSecond)), ratio, span)
	for _, us := range f.Latency.all() {
		cells = append(cells, micros(us))
	}
	cpu, trips, redis := f.perCall()
	line(append(cells, cpu, cpuRatio, trips, redis)...)
}

// perCall shows what a call costs, empty where that is not known: CPU time, round trips to Redis, and commands there.
func (f *benchFigures) perCall() (cpu, trips, redis string) {
	if f.CPUPerCall != nil {
		cpu = micros(*f.CPUPerCall)
	}
	if f.RedisPerCall != nil {
		trips = fmt.Sprintf("%.2f", *f.RedisPerCall)
	}
	if f.ExecutedPerCall != nil {
		redis = fmt.Sprintf("%.2f", *f.ExecutedPerCall)
	}
	return cpu, trips, redis
}

func (l *benchLatency) all() []float64 { return []float64{l.P50, l.P90, l.P99, l.P999, l.Max} }

// micros shows microseconds with three digits.
func micros(us float64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%.3gµs", us)
	case us < 1e6:
		return fmt.Sprintf("%.3gms", us/1000)
	default:
		return fmt.Sprintf("%.3gs", us/1e6)
	}
}

// Notes are what the table has no column for.
func (r *benchReport) Notes() (notes []string) {
	var goals []string
	for _, w := range r.Workloads {
		if w.Goal > 0 {
			goals = append(goals, fmt.Sprintf("%s %.2f", w.Name, w.Goal))
		}
	}
	if len(goals) > 0 {
		notes = append(notes, "Goals, with the default settings on two CPUs: "+strings.Join(goals, ", ")+".")
	}
	for _, w := range r.Workloads {
		if w.KeysRatio != nil {
			notes = append(notes, fmt.Sprintf("%s: %s keys/s, %.1f times those of single Gets in the same rounds; the goal is %g times.",
				w.Name, humanize.Comma(int64(w.Larder.ItemsPerSecond)), w.KeysRatio.Median, w.KeysGoal))
		}
		if w.Larder.LoadsPerKey != nil && w.Floor.LoadsPerKey != nil {
			notes = append(notes, fmt.Sprintf("%s: each key was loaded %.2f times, and %.2f times without leases.", w.Name, *w.Larder.LoadsPerKey, *w.Floor.LoadsPerKey))
		}
		failures := []struct {
			who     string
			figures *benchFigures
		}{{w.Name, &w.Larder}, {w.Name + ", floor", &w.Floor}, {w.Name + ", single Gets", w.Unary}}
		for _, f := range failures {
			if f.figures == nil {
				continue
			}
			for _, message := range slices.Sorted(maps.Keys(f.figures.Messages)) {
				notes = append(notes, fmt.Sprintf("%s: %s calls failed: %s", f.who, humanize.Comma(f.figures.Messages[message]), message))
			}
		}
	}
	if r.Interrupted {
		notes = append(notes, "Interrupted: not everything was measured.")
	}
	return notes
}
