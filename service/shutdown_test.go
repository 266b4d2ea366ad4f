package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

func TestShutdown(t *testing.T) {
	t.Parallel()
	shuttingDown := answer{Code: codes.Unavailable, Reason: "SERVER_SHUTTING_DOWN", Retry: true}

	t.Run("LosesNoAcceptedCall", func(t *testing.T) {
		t.Parallel()
		var accepted sync.Map
		s := run(t, &handlers{get: func(_ context.Context, req *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			accepted.Store(req.Key, true)
			<-time.After(5 * time.Millisecond)
			return &cachev1.GetResponse{}, nil
		}}, Options{DrainDelay: 50 * time.Millisecond})

		var done, duringDrain atomic.Int64
		var callers sync.WaitGroup
		for caller := range 4 {
			conn := dial(t, s.addr)
			for lane := range 16 {
				callers.Go(func() {
					for n := 0; ; n++ {
						key := fmt.Sprint(caller, lane, n)
						_, err := cachev1.NewCacheServiceClient(conn).Get(t.Context(), &cachev1.GetRequest{Key: key})
						if _, was := accepted.Load(key); err != nil {
							if was {
								t.Errorf("accepted call = %v, want nil", err)
							}
							return
						}
						done.Add(1)
						if !s.health.Ready() {
							duringDrain.Add(1)
						}
					}
				})
			}
		}
		eventually(t, "under load", func() bool { return done.Load() > 500 })
		s.Shutdown(t.Context())
		callers.Wait()
		if duringDrain.Load() == 0 {
			t.Error("calls served during the drain delay = 0, want some")
		}
	})

	t.Run("EndsStreamsAsUnavailable", func(t *testing.T) {
		t.Parallel()
		s := run(t, &handlers{delete: func(ss grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			if err := ss.Send(&cachev1.DeleteMatchingResponse{}); err != nil {
				return err
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		}}, Options{Reflection: true})

		walk, err := s.cache.DeleteMatching(t.Context(), &cachev1.DeleteMatchingRequest{})
		if err != nil {
			t.Fatalf("DeleteMatching = %v, want a stream", err)
		}
		watch, err := s.live.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: "ready"})
		if err != nil {
			t.Fatalf("Watch = %v, want a stream", err)
		}
		talk, err := reflectionv1.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatalf("ServerReflectionInfo = %v, want a stream", err)
		}
		if err := talk.Send(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
		}); err != nil {
			t.Fatalf("Send = %v, want nil", err)
		}
		for name, recv := range map[string]func() error{
			"walk":  func() error { _, err := walk.Recv(); return err },
			"watch": func() error { _, err := watch.Recv(); return err },
			"talk":  func() error { _, err := talk.Recv(); return err },
		} {
			if err := recv(); err != nil {
				t.Fatalf("Recv of %s = %v, want a message", name, err)
			}
		}

		start := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Shutdown with open streams took %v, want at most 5 s", took)
		}
		if state, err := watch.Recv(); err != nil || state.Status != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("last message of the watch = %v, %v, want NOT_SERVING", state, err)
		}
		_, err = walk.Recv()
		wantAnswer(t, err, shuttingDown)
		_, err = watch.Recv()
		wantAnswer(t, err, shuttingDown)
		_, err = talk.Recv()
		wantAnswer(t, err, shuttingDown)
	})

	t.Run("LetsTheClientEndItsStream", func(t *testing.T) {
		t.Parallel()
		entered, ended := make(chan struct{}), make(chan error, 1)
		s := run(t, &handlers{delete: func(ss grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			close(entered)
			<-ss.Context().Done()
			ended <- context.Cause(ss.Context())
			return ss.Context().Err()
		}}, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := s.cache.DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{}); err != nil {
			t.Fatalf("DeleteMatching = %v, want a stream", err)
		}
		wait(t, "call", entered)
		cancel()
		if err := wait(t, "end", ended); !errors.Is(err, context.Canceled) {
			t.Errorf("cause of the stream's end = %v, want %v", err, context.Canceled)
		}
		eventually(t, "logged", func() bool { return len(s.log.lines(t, "call failed")) == 1 })
		if got := s.log.lines(t, "call failed")[0]["reason"]; got != "CANCELLED" {
			t.Errorf("reason = %v, want CANCELLED", got)
		}
	})

	t.Run("KeepsServingDuringTheDelayUnlessItsContextEnds", func(t *testing.T) {
		t.Parallel()
		s := run(t, failing(nil), Options{DrainDelay: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		down := make(chan struct{})
		go func() {
			s.Shutdown(ctx)
			close(down)
		}()
		eventually(t, "draining", func() bool { return !s.health.Ready() })
		if _, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{}); err != nil {
			t.Errorf("Increment during the drain delay = %v, want nil", err)
		}
		cancel()
		wait(t, "end of Shutdown", down)
	})

	// stuck returns a server with one call in flight, which ends when it is cancelled, or not even then.
	stuck := func(t *testing.T, deaf bool, o Options) (s *running, answered chan error) {
		entered, release := make(chan struct{}), make(chan struct{})
		s = run(t, &handlers{incr: func(ctx context.Context) error {
			close(entered)
			if deaf {
				<-release
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}, o)
		t.Cleanup(func() { close(release) })
		answered = make(chan error, 1)
		go func() {
			_, err := s.cache.Increment(t.Context(), &cachev1.IncrementRequest{})
			answered <- err
		}()
		wait(t, "call", entered)
		return s, answered
	}

	t.Run("CancelsCallsAfterStopTimeout", func(t *testing.T) {
		t.Parallel()
		s, answered := stuck(t, false, Options{StopTimeout: 50 * time.Millisecond})
		start := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(start); took < 50*time.Millisecond || took > time.Second {
			t.Errorf("Shutdown took %v, want 50 ms to 1 s", took)
		}
		if err := wait(t, "answer", answered); err == nil {
			t.Error("cancelled call = nil, want an error")
		}
	})

	t.Run("GivesUpHandlersThatDoNotEnd", func(t *testing.T) {
		t.Parallel()
		s, _ := stuck(t, true, Options{StopTimeout: 50 * time.Millisecond})
		start := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Shutdown took %v, want at most 5 s", took)
		}
		if len(s.log.lines(t, "a cancelled handler does not return")) != 1 {
			t.Errorf("log has no line about the handler, want one:\n%s", s.log)
		}
	})

	t.Run("IsForcedByASecondCall", func(t *testing.T) {
		t.Parallel()
		s, _ := stuck(t, false, Options{DrainDelay: time.Hour, StopTimeout: time.Hour})
		down := make(chan struct{})
		go func() {
			s.Shutdown(t.Context())
			close(down)
		}()
		eventually(t, "draining", func() bool { return !s.health.Ready() })
		s.Shutdown(t.Context())
		wait(t, "end of the first call", down)
		s.Shutdown(t.Context()) // and a third one returns
	})

	t.Run("WorksBeforeServe", func(t *testing.T) {
		t.Parallel()
		s := newServer(whole, patient300ms, NewMetrics(), Options{})
		t.Cleanup(s.grpc.Stop)
		s.Shutdown(t.Context())
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("Listen = %v, want nil", err)
		}
		if err := s.Serve(listener); err != nil {
			t.Errorf("Serve after Shutdown = %v, want nil", err)
		}
	})
}
