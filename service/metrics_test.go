package service

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/near"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// metric returns the value of a counter or gauge with these labels, given as name, value pairs.
func metric(t testing.TB, s *Server, name string, labels ...string) float64 {
	t.Helper()
	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatalf("Gather = %v, want nil", err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.Metric {
			if has(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func has(m *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, l := range m.Label {
			found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// scrape returns what Prometheus reads.
func scrape(t testing.TB, s *Server) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.AdminHandler(false).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	page, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("GET /metrics = %d, %v, want 200", w.Code, err)
	}
	return string(page)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := run(t, failing(nil), Options{Version: "v1.2.3"})
	s.metrics.watch(func() store.Stats {
		return store.Stats{
			Near: near.Stats{Entries: 1, Bytes: 2, Hits: 3, Misses: 4, Evictions: 5, Invalidations: 6, Flushes: 7}, InFlight: 8,
			Sessions: session.Stats{ExpiredIdle: 9, ExpiredAbsolute: 10, Removed: 11, SweepLate: 12 * time.Second},
		}
	}, s.options)
	s.metrics.Command("GET", time.Millisecond, nil)
	s.metrics.Command("GET", time.Millisecond, fmt.Errorf("10.1.2.3: %w", redis.ErrUnavailable))
	s.metrics.Connection(redis.DialFailed, 1, errors.New("10.1.2.3"))
	if _, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{}); err != nil {
		t.Fatalf("Increment = %v, want nil", err)
	}

	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"larder_build_info", []string{"version", "v1.2.3", "go_version", runtime.Version()}, 1},
		{"larder_near_cache_entries", nil, 1},
		{"larder_near_cache_bytes", nil, 2},
		{"larder_near_cache_hits_total", nil, 3},
		{"larder_near_cache_misses_total", nil, 4},
		{"larder_near_cache_evictions_total", nil, 5},
		{"larder_near_cache_invalidations_total", nil, 6},
		{"larder_near_cache_flushes_total", nil, 7},
		{"larder_redis_in_flight", nil, 8},
		{"larder_sessions_expired_total", []string{"timeout", "idle"}, 9},
		{"larder_sessions_expired_total", []string{"timeout", "absolute"}, 10},
		{"larder_sessions_removed_total", nil, 11},
		{"larder_session_sweep_lag_seconds", nil, 12},
		{"larder_redis_up", nil, 1},
		{"larder_redis_command_duration_seconds", []string{"command", "GET"}, 2},
		{"larder_redis_command_errors_total", []string{"command", "GET", "kind", "REDIS_UNAVAILABLE"}, 1},
		{"larder_redis_connection_events_total", []string{"event", "dial_failed"}, 1},
		{"grpc_server_handled_total", []string{"grpc_method", "Increment", "grpc_code", "OK"}, 1},
		{"grpc_server_handling_seconds", []string{"grpc_method", "Increment"}, 1},
	} {
		if got := metric(t, s.Server, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s%v = %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
	page := scrape(t, s.Server)
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if !strings.Contains(page, name) {
			t.Errorf("metrics have no %s, want it", name)
		}
	}
	if strings.Contains(page, "10.1.2.3") {
		t.Error("metrics contain an address, want none")
	}
}

func TestMetricsOfFailuresCarryTheCodeOfTheTable(t *testing.T) {
	t.Parallel()
	s := run(t, failing(session.ErrVersionMismatch), Options{})
	_, _ = s.cache.Increment(t.Context(), &cachev1.IncrementRequest{})
	if got := metric(t, s.Server, "grpc_server_handled_total", "grpc_method", "Increment", "grpc_code", "Aborted"); got != 1 {
		t.Errorf("grpc_server_handled_total of Aborted = %v, want 1", got)
	}
}

func TestCommandNamesAreBounded(t *testing.T) {
	t.Parallel()
	s := run(t, failing(nil), Options{})
	for i := range 1000 {
		s.metrics.Command(fmt.Sprint("c", i), time.Millisecond, redis.ErrUnavailable)
	}
	if got := metric(t, s.Server, "larder_redis_command_duration_seconds", "command", "other"); got != 1000-maxCommands {
		t.Errorf("commands counted as other = %v, want %d", got, 1000-maxCommands)
	}
	if n := strings.Count(scrape(t, s.Server), "larder_redis_command_errors_total{"); n != maxCommands+1 {
		t.Errorf("time series of errors = %d, want %d", n, maxCommands+1)
	}
}

func TestSlowCommandsAreLogged(t *testing.T) {
	t.Parallel()
	log := new(logBuffer)
	m := NewMetrics()
	m.Command("GET", time.Hour, nil) // before New: nowhere to log yet
	m.watch(func() store.Stats { return store.Stats{} }, Options{
		Logger: slog.New(slog.NewJSONHandler(log, nil)), SlowCall: 100 * time.Millisecond,
	})
	m.Command("GET", 100*time.Millisecond, nil)
	m.Command("EVALSHA", 101*time.Millisecond, errors.New("10.1.2.3"))

	lines := log.lines(t, "slow redis command")
	if len(lines) != 1 || lines[0]["command"] != "EVALSHA" || lines[0]["level"] != "WARN" || len(lines[0]) != 5 {
		t.Errorf("log = %s, want one line of EVALSHA at WARN with 5 fields", log)
	}
}
