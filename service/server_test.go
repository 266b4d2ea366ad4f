package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

// handlers is a CacheService whose methods do what a test says, so that the frame around it can be seen at work.
type handlers struct {
	cachev1.UnimplementedCacheServiceServer
	get    func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error)
	incr   func(context.Context) error
	delete func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error
}

func (h *handlers) Get(ctx context.Context, req *cachev1.GetRequest) (*cachev1.GetResponse, error) {
	return h.get(ctx, req)
}

func (h *handlers) Increment(ctx context.Context, _ *cachev1.IncrementRequest) (*cachev1.IncrementResponse, error) {
	return &cachev1.IncrementResponse{}, h.incr(ctx)
}

func (h *handlers) DeleteMatching(_ *cachev1.DeleteMatchingRequest, ss grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
	return h.delete(ss)
}

// failing answers every Get with err.
func failing(err error) *handlers {
	return &handlers{
		get:  func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) { return nil, err },
		incr: func(context.Context) error { return err },
		delete: func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			return err
		},
	}
}

// A running is a server on loopback with its clients.
type running struct {
	*Server
	conn  *grpc.ClientConn
	cache cachev1.CacheServiceClient
	live  healthv1.HealthClient
	log   *logBuffer
	addr  string
}

// run serves handlers until the test ends. Redis is said to be well.
func run(t testing.TB, h cachev1.CacheServiceServer, o Options) *running {
	t.Helper()
	log := new(logBuffer)
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewJSONHandler(log, nil))
	}
	s := newServer(func(context.Context) error { return nil }, NewMetrics(), o)
	cachev1.RegisterCacheServiceServer(s.grpc, h)
	s.metrics.calls.InitializeMetrics(s.grpc)
	r := serve(t, s)
	r.log = log
	eventually(t, "ready", s.health.Ready)
	return r
}

// serve runs a server on loopback until the test ends.
func serve(t testing.TB, s *Server) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v after Shutdown", err)
		}
	})
	r := &running{Server: s, addr: listener.Addr().String()}
	r.conn = dial(t, r.addr)
	r.cache, r.live = cachev1.NewCacheServiceClient(r.conn), healthv1.NewHealthClient(r.conn)
	return r
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// eventually polls for what no event announces.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("not %s in 10 s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// wait fails the test when an event does not come.
func wait[T any](t testing.TB, what string, event <-chan T) T {
	t.Helper()
	select {
	case v := <-event:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s in 10 s", what)
		panic("unreachable")
	}
}

// A logBuffer collects the lines of a JSON log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// lines returns the lines with a message.
func (b *logBuffer) lines(t testing.TB, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// An answer is what a client sees of an error.
type answer struct {
	Code   codes.Code
	Reason string
	Retry  bool // whether it was told when to come back
}

func answerOf(t testing.TB, err error) answer {
	t.Helper()
	st := status.Convert(err)
	a := answer{Code: st.Code()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.Domain != "larder" {
				t.Errorf("domain is %q", d.Domain)
			}
			a.Reason = d.Reason
		case *errdetails.RetryInfo:
			a.Retry = d.RetryDelay.AsDuration() > 0
		}
	}
	return a
}

func wantAnswer(t testing.TB, err error, want answer) {
	t.Helper()
	if diff := cmp.Diff(want, answerOf(t, err)); diff != "" {
		t.Errorf("answer %v (-want +got):\n%s", err, diff)
	}
}

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
								t.Errorf("an accepted call failed: %v", err)
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
			t.Error("no call was served during the drain delay")
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
			t.Fatal(err)
		}
		watch, err := s.live.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: "ready"})
		if err != nil {
			t.Fatal(err)
		}
		talk, err := reflectionv1.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := talk.Send(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
		}); err != nil {
			t.Fatal(err)
		}
		for name, recv := range map[string]func() error{
			"walk":  func() error { _, err := walk.Recv(); return err },
			"watch": func() error { _, err := watch.Recv(); return err },
			"talk":  func() error { _, err := talk.Recv(); return err },
		} {
			if err := recv(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}

		start := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("streams held up the shutdown for %v", took)
		}
		if state, err := watch.Recv(); err != nil || state.Status != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("watch saw %v, %v before its end", state, err)
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
			t.Fatal(err)
		}
		wait(t, "call", entered)
		cancel()
		if err := wait(t, "end", ended); !errors.Is(err, context.Canceled) {
			t.Errorf("the stream ended with %v", err)
		}
		eventually(t, "logged", func() bool { return len(s.log.lines(t, "call failed")) == 1 })
		if got := s.log.lines(t, "call failed")[0]["reason"]; got != "CANCELLED" {
			t.Errorf("reason is %v", got)
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
			t.Errorf("a call during the delay failed: %v", err)
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
			t.Errorf("took %v", took)
		}
		if err := wait(t, "answer", answered); err == nil {
			t.Error("the call succeeded")
		}
	})

	t.Run("GivesUpHandlersThatDoNotEnd", func(t *testing.T) {
		t.Parallel()
		s, _ := stuck(t, true, Options{StopTimeout: 50 * time.Millisecond})
		start := time.Now()
		s.Shutdown(t.Context())
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if len(s.log.lines(t, "a cancelled handler does not return")) != 1 {
			t.Errorf("the log does not say so:\n%s", s.log)
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
		s := newServer(func(context.Context) error { return nil }, NewMetrics(), Options{})
		t.Cleanup(s.grpc.Stop)
		s.Shutdown(t.Context())
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(listener); err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
}

func TestServeReturnsWhatBrokeTheListener(t *testing.T) {
	t.Parallel()
	s := newServer(func(context.Context) error { return nil }, NewMetrics(), Options{})
	t.Cleanup(s.grpc.Stop)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	if err := wait(t, "end of Serve", served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
}

func TestLimitsOfTheServer(t *testing.T) {
	t.Parallel()
	size := 0
	s := run(t, &handlers{get: func(_ context.Context, req *cachev1.GetRequest) (*cachev1.GetResponse, error) {
		if req.Key == "wait" {
			<-t.Context().Done()
		}
		return &cachev1.GetResponse{Value: make([]byte, size)}, nil
	}}, Options{Limits: policy.Limits{MaxValueBytes: 6 << 20}, MaxConcurrentStreams: 1})
	get := func(ctx context.Context, bytes int) error {
		_, err := s.cache.Get(ctx, &cachev1.GetRequest{Key: strings.Repeat("k", bytes)}, grpc.MaxCallRecvMsgSize(64<<20))
		return err
	}

	if err := get(t.Context(), 6<<20); err != nil {
		t.Errorf("a message of the largest value failed: %v", err)
	}
	if err := get(t.Context(), 6<<20+128<<10); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message above the limit got %v", err)
	}
	size = 7 << 20
	if err := get(t.Context(), 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an answer above the limit got %v", err)
	}
	size = 0
	if err := get(metadata.AppendToOutgoingContext(t.Context(), "large", strings.Repeat("h", 20<<10)), 1); err == nil {
		t.Error("20 KiB of headers passed")
	}

	// One connection may have one call in flight; the next waits in its client and reaches no handler.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan error, 1)
	go func() {
		_, err := s.cache.Get(ctx, &cachev1.GetRequest{Key: "wait"})
		first <- err
	}()
	eventually(t, "in flight", func() bool { return s.metrics.unary.inFlight.Load() == 1 })
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	if err := get(short, 1); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a second call on the connection got %v", err)
	}
	cancel()
	if err := wait(t, "end of the first call", first); status.Code(err) != codes.Canceled {
		t.Errorf("a cancelled call got %v", err)
	}
}

func TestSizeOfMessages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		limits policy.Limits
		want   int
	}{
		{"NeverBelowGRPCsDefault", policy.Limits{MaxValueBytes: 1 << 10}, 4 << 20},
		{"FitsTheLargestValue", policy.Limits{MaxValueBytes: 8 << 20}, 8<<20 + 64<<10},
		{"FitsTheLargestBatch", policy.Limits{MaxValueBytes: 1 << 20, MaxBatchBytes: 5 << 20}, 5<<20 + 64<<10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := messageBytes(tt.limits); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
