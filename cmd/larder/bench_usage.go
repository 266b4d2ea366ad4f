package main

import (
	"context"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
)

// A benchUsage is what a server has used in a while.
type benchUsage struct {
	// cpu is the CPU time of its process; negative if that is not known.
	cpu time.Duration
	// redis counts its round trips to Redis by command; nil if that is not known.
	redis map[string]float64
	// executed counts what Redis has executed; nil if that is not known.
	executed map[string]float64
}

const (
	metricCPU   = "process_cpu_seconds_total"
	metricRedis = "larder_redis_command_duration_seconds"
)

// meter begins to count; what it returns ends that.
func (s *benchSide) meter(ctx context.Context) (stop func() benchUsage) {
	before, executedBefore := s.scrape(ctx), executed(ctx, s.redisAddr)
	used, known := processCPU(s.pid) // last, because to be asked for metrics costs time, too
	return func() benchUsage {
		u := benchUsage{cpu: -1}
		if now, ok := processCPU(s.pid); ok && known {
			u.cpu = now - used
		}
		if after := executed(ctx, s.redisAddr); executedBefore != nil && after != nil {
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
		u.redis = roundTrips(after[metricRedis])
		for command, n := range roundTrips(before[metricRedis]) {
			u.redis[command] -= n
		}
		return u
	}
}

// processCPU returns the CPU time that a process has used; it is known on Linux.
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

// scrape reads the metrics; nil if there are none.
func (s *benchSide) scrape(ctx context.Context) map[string]*dto.MetricFamily {
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

func roundTrips(family *dto.MetricFamily) map[string]float64 {
	trips := make(map[string]float64)
	for _, m := range family.GetMetric() {
		for _, label := range m.GetLabel() {
			if label.GetName() == "command" {
				trips[label.GetValue()] += float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return trips
}
