package bench

import (
	"encoding/json"
	"io"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A report is the result of a run. Scripts read it as JSON: fields may be added, but their names and meanings must not
// change.
type report struct {
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

	Interrupted bool     `json:"interrupted"`
	Workloads   []result `json:"workloads"`
}

// A result is the result of one workload.
type result struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Ratio compares Larder's calls per second with the floor's. Goal is the least ratio that is aimed at; 0 for none.
	Ratio ratio   `json:"ratio"`
	Goal  float64 `json:"goal,omitempty"`
	// CPURatio is Larder's CPU time per call divided by the floor's; 0 if either is unknown.
	CPURatio float64 `json:"cpu_ratio,omitempty"`

	Larder figures `json:"larder"`
	Floor  figures `json:"floor"`

	// Unary has the figures of single Gets in the same rounds as a BatchGet. KeysRatio compares the keys per second of
	// BatchGet with theirs, and KeysGoal is the least ratio that is aimed at.
	Unary     *figures `json:"unary,omitempty"`
	KeysRatio *ratio   `json:"keys_ratio,omitempty"`
	KeysGoal  float64  `json:"keys_goal,omitempty"`
}

// A ratio compares two series of rounds.
type ratio struct {
	// Median is the ratio of the medians of the two series.
	Median float64 `json:"median"`
	// Min and Max are the least and the greatest ratio within one round.
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// figures are what one server did in one workload.
type figures struct {
	Calls    int64            `json:"calls"`
	Errors   int64            `json:"errors"`
	Messages map[string]int64 `json:"error_messages,omitempty"`
	// CallsPerSecond and ItemsPerSecond are medians of the rounds. CallRates has the calls per second of each round.
	CallsPerSecond float64   `json:"calls_per_second"`
	ItemsPerSecond float64   `json:"items_per_second"`
	CallRates      []float64 `json:"call_rates"`
	Latency        latency   `json:"latency_us"`
	// CPUPerCall is the CPU time of the server per call, in microseconds; absent if it is unknown.
	CPUPerCall *float64 `json:"cpu_us_per_call,omitempty"`
	// RedisPerCall is the number of round trips to Redis per call, RedisCommands the same by command; absent if they are
	// unknown.
	RedisPerCall  *float64           `json:"redis_per_call,omitempty"`
	RedisCommands map[string]float64 `json:"redis_commands_per_call,omitempty"`
	// ExecutedPerCall is the number of commands per call that Redis has executed, commands inside scripts included, and
	// Executed the same by command; absent if they are unknown.
	ExecutedPerCall *float64           `json:"redis_executed_per_call,omitempty"`
	Executed        map[string]float64 `json:"redis_executed,omitempty"`
	// LoadsPerKey is how often each key of a stampede was loaded from the origin.
	LoadsPerKey *float64 `json:"loads_per_key,omitempty"`

	latencies *hdrhistogram.Histogram
}

// A latency holds percentiles in microseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// newReport returns a report without results.
func newReport(c *Command) *report {
	return &report{
		Version: c.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Time: time.Now().UTC(),
		Connections: c.Connections, InFlight: c.InFlight, ValueBytes: int64(c.ValueSize), Keys: c.Keys, Distribution: c.Distribution,
		Seconds: c.Duration.Seconds(), Rounds: c.Rounds, Target: c.Target, Workloads: []result{},
	}
}

// errors returns the number of failed calls.
func (r *report) errors() (n int64) {
	for _, w := range r.Workloads {
		n += w.Larder.Errors + w.Floor.Errors
		if w.Unary != nil {
			n += w.Unary.Errors
		}
	}
	return n
}

// json writes the report as JSON.
func (r *report) json(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
