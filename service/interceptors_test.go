package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

func TestPanicsAreInternalErrors(t *testing.T) {
	t.Parallel()
	s := run(t, &handlers{
		get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			var none []int
			return nil, []error{nil}[none[0]]
		},
		delete: func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error { panic("key secret-canary") },
	}, Options{})

	_, unary := s.cache.Get(t.Context(), &cachev1.GetRequest{})
	walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{})
	if err != nil {
		t.Fatalf("DeleteMatching = %v, want a stream", err)
	}
	_, stream := walk.Recv()
	for _, err := range []error{unary, stream} {
		wantAnswer(t, err, answer{Code: codes.Internal, Reason: "PANIC"})
		if text := status.Convert(err).Message(); strings.Contains(text, "goroutine") || strings.Contains(text, "index") {
			t.Errorf("message = %q, want it without the stack and the panic's value", text)
		}
	}
	if got := metric(t, s.Server, "larder_panics_total"); got != 2 {
		t.Errorf("larder_panics_total = %v, want 2", got)
	}
	lines := s.log.lines(t, "panic in a handler")
	if len(lines) != 2 || !strings.Contains(lines[0]["stack"].(string), "interceptors_test.go") {
		t.Errorf("log has %d lines of panics, want 2 whose stack names interceptors_test.go:\n%s", len(lines), s.log)
	}
	if text := lines[0]["panic"].(string); !strings.Contains(text, "index out of range") {
		t.Errorf("panic in the log = %q, want index out of range", text)
	}
	if strings.Contains(s.log.String(), "canary") {
		t.Errorf("log contains the value of a panic, want it without:\n%s", s.log)
	}
}

func TestUnknownMethods(t *testing.T) {
	t.Parallel()
	s := run(t, failing(nil), Options{})
	for _, method := range []string{"/larder.cache.v1.CacheService/Explode", "/nobody.Knows/This"} {
		err := s.conn.Invoke(t.Context(), method, &cachev1.GetRequest{}, &cachev1.GetResponse{})
		wantAnswer(t, err, answer{Code: codes.Unimplemented, Reason: "METHOD_UNKNOWN"})
	}
	if got := metric(t, s.Server, "larder_unknown_methods_total"); got != 2 {
		t.Errorf("larder_unknown_methods_total = %v, want 2", got)
	}
	if page := scrape(t, s.Server); strings.Contains(page, "Explode") || strings.Contains(page, "Knows") {
		t.Error("metrics have a time series of an unknown method, want none")
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	seen := make(chan time.Duration, 1)
	look := func(ctx context.Context) {
		left := time.Duration(-1)
		if deadline, ok := ctx.Deadline(); ok {
			left = time.Until(deadline)
		}
		seen <- left
	}
	s := run(t, &handlers{
		incr: func(ctx context.Context) error { look(ctx); return nil },
		delete: func(ss grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			look(ss.Context())
			return nil
		},
	}, Options{MaxDeadline: time.Minute})
	unary := func(ctx context.Context) error {
		_, err := s.cache.Increment(ctx, &cachev1.IncrementRequest{})
		return err
	}
	stream := func(ctx context.Context) error {
		_, err := s.cache.DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{})
		return err
	}
	for _, tt := range []struct {
		name     string
		call     func(context.Context) error
		own      time.Duration
		min, max time.Duration
	}{
		{"NoneBecomesTheCap", unary, 0, 50 * time.Second, time.Minute},
		{"ALaterOneBecomesTheCap", unary, time.Hour, 50 * time.Second, time.Minute},
		{"AnEarlierOneIsKept", unary, 30 * time.Second, 20 * time.Second, 30 * time.Second},
		{"AStreamNeedsNone", stream, 0, -1, -1},
		{"AStreamKeepsItsOwn", stream, time.Hour, 59 * time.Minute, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			if tt.own > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.own)
				defer cancel()
			}
			if err := tt.call(ctx); err != nil {
				t.Fatalf("call = %v, want nil", err)
			}
			if left := wait(t, "call", seen); left < tt.min || left > tt.max {
				t.Errorf("time left to the handler = %v, want %v to %v", left, tt.min, tt.max)
			}
		})
	}
}

func TestTheCapEndsACall(t *testing.T) {
	t.Parallel()
	s := run(t, &handlers{incr: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}, Options{MaxDeadline: 20 * time.Millisecond})
	_, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{})
	wantAnswer(t, err, answer{Code: codes.DeadlineExceeded, Reason: "DEADLINE_EXCEEDED"})
}

func TestOverloadIsShedAtOnce(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := run(t, &handlers{
		incr: func(context.Context) error { <-release; return nil },
		delete: func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			<-release
			return nil
		},
	}, Options{MaxInFlight: 2})
	overloaded := answer{Code: codes.ResourceExhausted, Reason: "SERVER_OVERLOADED", Retry: true}

	done := make(chan error, 4)
	for range 2 {
		go func() {
			_, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{})
			done <- err
		}()
		go func() {
			walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{})
			if err == nil {
				_, err = walk.Recv()
			}
			done <- err
		}()
	}
	eventually(t, "full", func() bool {
		return metric(t, s.Server, "larder_rpc_in_flight", "type", "unary") == 2 &&
			metric(t, s.Server, "larder_rpc_in_flight", "type", "stream") == 2
	})

	start := time.Now()
	_, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{})
	wantAnswer(t, err, overloaded)
	walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{})
	if err != nil {
		t.Fatalf("DeleteMatching = %v, want a stream", err)
	}
	_, err = walk.Recv()
	wantAnswer(t, err, overloaded)
	if took := time.Since(start); took > time.Second {
		t.Errorf("refused after %v, want at most 1 s", took)
	}
	if _, err := s.live.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "live"}); err != nil {
		t.Errorf("health check of a busy server = %v, want nil", err)
	}
	for _, kind := range []string{"unary", "stream"} {
		if got := metric(t, s.Server, "larder_rpc_shed_total", "type", kind); got != 1 {
			t.Errorf("larder_rpc_shed_total of %s = %v, want 1", kind, got)
		}
	}

	close(release)
	for range 4 {
		if err := wait(t, "answer", done); err != nil && !errors.Is(err, io.EOF) { // how a stream ends well
			t.Errorf("accepted call = %v, want nil", err)
		}
	}
	eventually(t, "empty", func() bool {
		return metric(t, s.Server, "larder_rpc_in_flight", "type", "unary") == 0 &&
			metric(t, s.Server, "larder_rpc_in_flight", "type", "stream") == 0
	})
	if _, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{}); err != nil {
		t.Errorf("Increment with room again = %v, want nil", err)
	}
}

// BenchmarkFrame shows what the frame costs a call that does nothing.
func BenchmarkFrame(b *testing.B) {
	s := newServer(whole, patient300ms, NewMetrics(), Options{Logger: slog.New(slog.DiscardHandler)})
	b.Cleanup(s.grpc.Stop)
	cachev1.RegisterCacheServiceServer(s.grpc, failing(nil))
	s.metrics.calls.InitializeMetrics(s.grpc)
	chain, _ := s.interceptors()
	info := &grpc.UnaryServerInfo{FullMethod: cachev1.CacheService_Get_FullMethodName}
	var from func(i int) grpc.UnaryHandler
	from = func(i int) grpc.UnaryHandler {
		if i == len(chain) {
			return func(context.Context, any) (any, error) { return nil, nil }
		}
		return func(ctx context.Context, req any) (any, error) { return chain[i](ctx, req, info, from(i+1)) }
	}
	with, cancel := context.WithTimeout(b.Context(), time.Second)
	defer cancel()
	for name, ctx := range map[string]context.Context{"WithDeadline": with, "WithoutDeadline": b.Context()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := from(0)(ctx, nil); err != nil {
					b.Fatalf("call = %v, want nil", err)
				}
			}
		})
	}
}
