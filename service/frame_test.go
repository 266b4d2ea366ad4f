package service

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/redis"
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
	s := newServer(whole, patient300ms, NewMetrics(), o)
	cachev1.RegisterCacheServiceServer(s.registrar(), h)
	s.metrics.calls.InitializeMetrics(s.grpc)
	r := serve(t, s)
	r.log = log
	eventually(t, "ready", s.health.Ready)
	return r
}

// whole is the check of a Redis that is well, and patient300ms the patience of one that is near.
func whole(context.Context) redis.Condition { return redis.Condition{} }
func patient300ms() time.Duration           { return 300 * time.Millisecond }

// serve runs a server on loopback until the test ends.
func serve(t testing.TB, s *Server) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen = %v, want nil", err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Errorf("Serve = %v after Shutdown, want nil", err)
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
		t.Fatalf("NewClient = %v, want nil", err)
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
			t.Fatalf("not %s after 10 s, want it sooner", what)
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
		t.Fatalf("no %s after 10 s, want it sooner", what)
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
			t.Fatalf("line %q of the log is not JSON: %v, want JSON", line, err)
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
				t.Errorf("domain = %q, want larder", d.Domain)
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
