package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
)

// text writes the report as a table.
func (r *report) text(out io.Writer) error {
	fmt.Fprintf(out, "Larder %s compared with the floor, a bare grpc-go server that answers from memory\n%s\n\n", r.Version, r.Setting())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(cells ...string) { fmt.Fprintf(table, "%s\t\n", strings.Join(cells, "\t")) }
	line("", "calls/s", "ratio", "min-max", "p50", "p90", "p99", "p99.9", "max", "CPU/call", "ratio", "round trips", "commands")
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

// Setting describes in one line the machine and the flags of the run.
func (r *report) Setting() string {
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

// Notes explains columns of the table and lists the results that have none.
func (r *report) Notes() []string {
	notes := []string{"Round trips and commands are those of Redis, for each call."}
	var goals []string
	for _, w := range r.Workloads {
		if w.Goal > 0 {
			goals = append(goals, fmt.Sprintf("%s %.2f", w.Name, w.Goal))
		}
	}
	if len(goals) > 0 {
		notes = append(notes, "Goals for the ratio, with the default flags on two CPUs: "+strings.Join(goals, ", ")+".")
	}
	for _, w := range r.Workloads {
		if w.KeysRatio != nil {
			notes = append(notes, fmt.Sprintf("%s: %s keys/s, %.1f times the keys/s of single Gets in the same rounds; the goal is %g times.",
				w.Name, humanize.Comma(int64(w.Larder.ItemsPerSecond)), w.KeysRatio.Median, w.KeysGoal))
		}
		if w.Larder.LoadsPerKey != nil && w.Floor.LoadsPerKey != nil {
			notes = append(notes, fmt.Sprintf("%s: each key was loaded %.2f times with leases and %.2f times without.", w.Name, *w.Larder.LoadsPerKey, *w.Floor.LoadsPerKey))
		}
		failures := []struct {
			who     string
			figures *figures
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

// line writes one line of the table.
func (f *figures) line(line func(...string), name, ratio, span, cpuRatio string) {
	cells := append(make([]string, 0, 13), name, humanize.Comma(int64(f.CallsPerSecond)), ratio, span)
	for _, us := range f.Latency.all() {
		cells = append(cells, micros(us))
	}
	cpu, roundTrips, commands := f.perCall()
	line(append(cells, cpu, cpuRatio, roundTrips, commands)...)
}

// perCall returns what a call costs: CPU time, round trips to Redis, and commands that Redis executes. Each is empty if it
// is unknown.
func (f *figures) perCall() (cpu, roundTrips, commands string) {
	if f.CPUPerCall != nil {
		cpu = micros(*f.CPUPerCall)
	}
	if f.RedisPerCall != nil {
		roundTrips = fmt.Sprintf("%.2f", *f.RedisPerCall)
	}
	if f.ExecutedPerCall != nil {
		commands = fmt.Sprintf("%.2f", *f.ExecutedPerCall)
	}
	return cpu, roundTrips, commands
}

// all returns the latencies in the order of the columns.
func (l *latency) all() []float64 { return []float64{l.P50, l.P90, l.P99, l.P999, l.Max} }

// micros formats microseconds with three significant digits.
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
