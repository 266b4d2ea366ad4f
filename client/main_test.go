package client_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// TestMain fails the package when a goroutine outlives its tests. The one that starts redis-server lives on by design.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/berthcare/larder/store/redistest.init.func1.1"))
}

// A backend is a gRPC server on the loopback interface whose test decides what it answers, trailers included.
type backend struct {
	cachev1.UnimplementedCacheServiceServer
	sessionv1.UnimplementedSessionServiceServer
	ratelimitv1.UnimplementedRateLimitServiceServer
	tokenv1.UnimplementedTokenServiceServer
	lockv1.UnimplementedLockServiceServer

	addr   string
	health *health.Server
	answer func(ctx context.Context, req any) (any, error)
	walk   func(grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error // DeleteMatching; nil means that it fails as answer does
	watch  func(grpc.ServerStreamingServer[cachev1.WatchResponse]) error          // Watch; nil means the same
	events func(*sessionv1.WatchSessionEventsRequest, grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error

	hold func(*lockv1.HoldLockRequest, grpc.ServerStreamingServer[lockv1.HoldLockResponse]) error

	mu       sync.Mutex
	requests []proto.Message
}

func (b *backend) DeleteMatching(req *cachev1.DeleteMatchingRequest, stream grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
	b.record(req)
	if b.walk == nil {
		_, err := b.answer(stream.Context(), req)
		return err
	}
	return b.walk(stream)
}

func (b *backend) Watch(req *cachev1.WatchRequest, stream grpc.ServerStreamingServer[cachev1.WatchResponse]) error {
	b.record(req)
	if b.watch == nil {
		_, err := b.answer(stream.Context(), req)
		return err
	}
	return b.watch(stream)
}

func (b *backend) WatchSessionEvents(req *sessionv1.WatchSessionEventsRequest, stream grpc.ServerStreamingServer[sessionv1.WatchSessionEventsResponse]) error {
	b.record(req)
	if b.events == nil {
		_, err := b.answer(stream.Context(), req)
		return err
	}
	return b.events(req, stream)
}

func (b *backend) HoldLock(req *lockv1.HoldLockRequest, stream grpc.ServerStreamingServer[lockv1.HoldLockResponse]) error {
	b.record(req)
	if b.hold == nil {
		_, err := b.answer(stream.Context(), req)
		return err
	}
	return b.hold(req, stream)
}

func (b *backend) WatchLock(req *lockv1.WatchLockRequest, stream grpc.ServerStreamingServer[lockv1.WatchLockResponse]) error {
	b.record(req)
	_, err := b.answer(stream.Context(), req)
	return err
}

func (b *backend) record(req proto.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = append(b.requests, req)
}

// calls returns the number of requests so far.
func (b *backend) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.requests)
}

// last returns the latest request.
func (b *backend) last(t *testing.T) proto.Message {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) == 0 {
		t.Fatal("the backend has got no request, want one")
	}
	return b.requests[len(b.requests)-1]
}

// start serves the backend until the test ends.
func (b *backend) start(t *testing.T, creds credentials.TransportCredentials) *backend {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen = error %v, want none", err)
	}
	b.addr, b.health = lis.Addr().String(), health.NewServer()
	b.health.SetServingStatus("ready", healthpb.HealthCheckResponse_SERVING)
	b.health.SetServingStatus(ratelimitv1.RateLimitService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	enforcement := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true})
	server := grpc.NewServer(grpc.Creds(creds), enforcement, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		b.record(req.(proto.Message))
		return b.answer(ctx, req)
	}))
	cachev1.RegisterCacheServiceServer(server, b)
	sessionv1.RegisterSessionServiceServer(server, b)
	ratelimitv1.RegisterRateLimitServiceServer(server, b)
	tokenv1.RegisterTokenServiceServer(server, b)
	lockv1.RegisterLockServiceServer(server, b)
	healthpb.RegisterHealthServer(server, b.health)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return b
}

// serve starts a backend that answers all unary calls with answer.
func serve(t *testing.T, answer func(ctx context.Context, req any) (any, error)) *backend {
	t.Helper()
	return (&backend{answer: answer}).start(t, insecure.NewCredentials())
}

// connect returns a client that is closed when the test ends.
func connect(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(o)
	if err != nil {
		t.Fatalf("New = error %v, want none", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// always answers every call alike.
func always(resp proto.Message) func(context.Context, any) (any, error) {
	return func(context.Context, any) (any, error) { return resp, nil }
}

// fail answers every call with an error.
func fail(err error) func(context.Context, any) (any, error) {
	return func(context.Context, any) (any, error) { return nil, err }
}

// refuse answers every call with UNAVAILABLE and a pushback trailer.
func refuse(trailer ...string) func(context.Context, any) (any, error) {
	return func(ctx context.Context, _ any) (any, error) {
		for _, v := range trailer {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", v))
		}
		return nil, larderError(codes.Unavailable, "REDIS_UNAVAILABLE")
	}
}

// larderError returns an error like those of the server.
func larderError(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Domain: "larder", Reason: reason}
	st, err := status.New(code, "told to fail").WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}
