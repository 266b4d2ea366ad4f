package service

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/redis"
)

func TestAccessLog(t *testing.T) {
	t.Parallel()
	call := func(t *testing.T, h *handlers, level slog.Level, o Options) *running {
		log := new(logBuffer)
		o.Logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level}))
		s := run(t, h, o)
		s.log = log
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "secret-canary")
		_, _ = s.cache.Get(ctx, &cachev1.GetRequest{Key: "secret-canary"})
		if _, err := s.live.Check(ctx, &healthv1.HealthCheckRequest{Service: "live"}); err != nil {
			t.Fatalf("Check = %v, want nil", err)
		}
		_, _ = s.live.Check(ctx, &healthv1.HealthCheckRequest{Service: "secret-canary"})
		if strings.Contains(log.String(), "canary") {
			t.Errorf("log contains data of a request or of an answer, want it without:\n%s", log)
		}
		if strings.Contains(log.String(), "grpc.health") {
			t.Errorf("log contains health checks, want none:\n%s", log)
		}
		return s
	}
	only := func(t *testing.T, s *running, message string) map[string]any {
		t.Helper()
		if n := strings.Count(s.log.String(), `"method":`); n != 1 {
			t.Fatalf("log has %d lines for one call, want 1:\n%s", n, s.log)
		}
		lines := s.log.lines(t, message)
		if len(lines) != 1 {
			t.Fatalf("log has %d lines %q, want 1:\n%s", len(lines), message, s.log)
		}
		for _, field := range []string{"duration", "redis_time", "redis_trips", "peer"} {
			if _, ok := lines[0][field]; !ok {
				t.Errorf("line = %v, want the field %s", lines[0], field)
			}
		}
		if got := lines[0]["method"]; got != "/larder.cache.v1.CacheService/Get" {
			t.Errorf("method = %v, want /larder.cache.v1.CacheService/Get", got)
		}
		return lines[0]
	}
	ok := func(after time.Duration) *handlers {
		return &handlers{get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			<-time.After(after)
			return &cachev1.GetResponse{Value: []byte("secret-canary")}, nil
		}}
	}

	t.Run("SuccessIsSilent", func(t *testing.T) {
		t.Parallel()
		if s := call(t, ok(0), slog.LevelInfo, Options{SlowCall: time.Minute}); strings.Contains(s.log.String(), "method") {
			t.Errorf("log = %q, want no line for the call", s.log)
		}
	})
	t.Run("SuccessAtDebugLevel", func(t *testing.T) {
		t.Parallel()
		line := only(t, call(t, ok(0), slog.LevelDebug, Options{SlowCall: time.Minute}), "call")
		if line["level"] != "DEBUG" || line["code"] != "OK" {
			t.Errorf("line = %v, want DEBUG and OK", line)
		}
	})
	t.Run("SlowSuccess", func(t *testing.T) {
		t.Parallel()
		line := only(t, call(t, ok(20*time.Millisecond), slog.LevelInfo, Options{SlowCall: 10 * time.Millisecond}), "slow call")
		if line["level"] != "WARN" || line["code"] != "OK" || line["duration"].(float64) < float64(20*time.Millisecond) {
			t.Errorf("line = %v, want WARN, OK and a duration of at least 20 ms", line)
		}
	})
	for _, tt := range []struct {
		name                string
		err                 error
		level, code, reason string
	}{
		{"CallersMistake", &FieldError{"key", "secret-canary"}, "INFO", "InvalidArgument", "INVALID_FIELD"},
		{"OperatorsProblem", errOverloaded, "WARN", "ResourceExhausted", "SERVER_OVERLOADED"},
		{"DevelopersProblem", quotingError{}, "ERROR", "Internal", "INTERNAL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			line := only(t, call(t, failing(tt.err), slog.LevelInfo, Options{}), "call failed")
			if line["level"] != tt.level || line["code"] != tt.code || line["reason"] != tt.reason {
				t.Errorf("line = %v, want %s, %s and %s", line, tt.level, tt.code, tt.reason)
			}
			if tt.code == "Internal" && line["cause"] != "service.quotingError" {
				t.Errorf("cause = %v, want service.quotingError", line["cause"])
			}
		})
	}
}

// quotingError quotes its input, as strconv's errors do.
type quotingError struct{}

func (quotingError) Error() string { return `parsing "secret-canary"` }

// What go-grpc-middleware knows of a call beyond these fields, such as the text of its error, is not logged.
func TestAccessLogHasTheseFieldsOnly(t *testing.T) {
	t.Parallel()
	log := new(logBuffer)
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := run(t, &handlers{
		get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			return nil, redis.ErrUnavailable
		},
		incr: func(context.Context) error { return quotingError{} },
		delete: func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			<-time.After(2 * time.Millisecond)
			return nil
		},
	}, Options{Logger: logger, SlowCall: time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, _ = s.cache.Get(ctx, &cachev1.GetRequest{Key: "k"})
	_, _ = s.cache.Increment(ctx, &cachev1.IncrementRequest{Key: "k"})
	walk := must[grpc.ServerStreamingClient[cachev1.DeleteMatchingResponse]](t)(s.cache.DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{}))
	_, _ = walk.Recv()

	always := []string{"time", "level", "msg", "method", "code", "duration", "redis_time", "redis_trips", "peer"}
	want := map[string]struct {
		message, level string
		more           []string
	}{
		"Get":            {"call failed", "WARN", []string{"reason"}},
		"Increment":      {"call failed", "ERROR", []string{"reason", "cause"}},
		"DeleteMatching": {"call", "DEBUG", nil}, // no stream is slow
	}
	eventually(t, "logged", func() bool { return strings.Count(log.String(), `"method":`) == len(want) })
	for method, w := range want {
		for _, line := range log.lines(t, w.message) {
			if line["method"] != "/larder.cache.v1.CacheService/"+method {
				continue
			}
			fields := append(slices.Clone(always), w.more...)
			slices.Sort(fields)
			if diff := cmp.Diff(fields, slices.Sorted(maps.Keys(line))); diff != "" || line["level"] != w.level {
				t.Errorf("%s: level = %v, want %s; fields (-want +got):\n%s", method, line["level"], w.level, diff)
			}
			delete(want, method)
		}
	}
	if len(want) > 0 {
		t.Errorf("log has no line for %v, want one:\n%s", slices.Collect(maps.Keys(want)), log)
	}
}
