package bench

import (
	"context"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
)

// A usage is what a server has used during a turn.
type usage struct {
	// cpu is the CPU time of the server's process; negative if it is unknown.
	cpu time.Duration
	// roundTrips counts the server's round trips to Redis by command; nil if they are unknown.
	roundTrips map[string]float64
	// executed counts the commands that Redis has executed by command; nil if they are unknown.
	executed map[string]float64
}

// Metrics that Larder exports.
const (
	metricCPU        = "process_cpu_seconds_total"
	metricRoundTrips = "larder_redis_command_duration_seconds"
)

// meter begins to measure the usage of a server. The function that it returns ends the measurement.
func (s *server) meter(ctx context.Context) (stop func() usage) {
	before, executedBefore := s.scrape(ctx), commandStats(ctx, s.redisAddr)
	used, known := processCPU(s.pid) // last, since answering the scrape costs CPU time, too
	return func() usage {
		u := usage{cpu: -1}
		if now, ok := processCPU(s.pid); ok && known {
			u.cpu = now - used
		}
		if after := commandStats(ctx, s.redisAddr); executedBefore != nil && after != nil {
			for command, n := range executedBefore {
				after[command] -= n
			}
			u.executed = after
		}
		after := s.scrape(ctx)
		if before == nil || after == nil {
			return u
		}
		if u.cpu < 0 && after[metricCPU] != nil {
			seconds := after[metricCPU].GetMetric()[0].GetCounter().GetValue() - before[metricCPU].GetMetric()[0].GetCounter().GetValue()
			u.cpu = time.Duration(seconds * float64(time.Second))
		}
		u.roundTrips = roundTrips(after[metricRoundTrips])
		for command, n := range roundTrips(before[metricRoundTrips]) {
			u.roundTrips[command] -= n
		}
		return u
	}
}

// processCPU returns the CPU time that a process has used. It is known on Linux only, and not for the process id 0.
func processCPU(pid int) (used time.Duration, ok bool) {
	if pid == 0 {
		return 0, false
	}
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, false
	}
	stat, err := process.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second)), err == nil
}

// scrape reads the metrics of a server. It returns nil if there are none.
func (s *server) scrape(ctx context.Context) map[string]*dto.MetricFamily {
	if s.metrics == "" {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metrics, http.NoBody)
	if err != nil {
		return nil
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil
	}
	defer reply.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		return nil
	}
	return families
}

// roundTrips returns the number of observations of a histogram by its label "command".
func roundTrips(family *dto.MetricFamily) map[string]float64 {
	counts := make(map[string]float64)
	for _, m := range family.GetMetric() {
		for _, label := range m.GetLabel() {
			if label.GetName() == "command" {
				counts[label.GetValue()] += float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return counts
}
