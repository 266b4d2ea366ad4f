package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// floorServices are the services of the floor, in the order of the server's registry.
var floorServices = []struct {
	desc *grpc.ServiceDesc
	make func() any
}{
	{&cachev1.CacheService_ServiceDesc, func() any { return new(floorCache) }},
	{&sessionv1.SessionService_ServiceDesc, func() any { return new(floorSession) }},
	{&ratelimitv1.RateLimitService_ServiceDesc, func() any { return new(floorRateLimit) }},
	{&tokenv1.TokenService_ServiceDesc, func() any { return new(floorToken) }},
	{&lockv1.LockService_ServiceDesc, func() any { return new(floorLock) }},
}

// FloorServices returns the descriptors of the services that the floor serves.
func FloorServices() (descriptors []*grpc.ServiceDesc) {
	for _, service := range floorServices {
		descriptors = append(descriptors, service.desc)
	}
	return descriptors
}

// FloorCommand serves the floor: a bare grpc-go server without interceptors, Redis and expiry. It makes the parts of its
// responses when an entry or a session is written; they are as long as those of Larder.
type FloorCommand struct{}

// Run serves on a free port of loopback, which it logs to stdout, until ctx ends.
func (FloorCommand) Run(ctx context.Context, stdout io.Writer) error {
	var ports net.ListenConfig
	listener, err := ports.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(1000), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	for _, service := range floorServices {
		server.RegisterService(service.desc, service.make())
	}
	envoy.RegisterRateLimitServiceServer(server, floorEnvoy{})
	defer context.AfterFunc(ctx, server.Stop)()
	slog.New(slog.NewJSONHandler(stdout, nil)).Info("listening", "grpc", listener.Addr().String())
	return server.Serve(listener)
}

// A floorCache implements the rpcs of larder.cache.v1.CacheService that the workloads call.
type floorCache struct {
	cachev1.UnimplementedCacheServiceServer

	entries sync.Map // key -> *floorEntry
}

// A floorEntry is an entry as Get and as BatchGet return it.
type floorEntry struct {
	single *cachev1.GetResponse
	item   *cachev1.BatchGetResult
}

var floorMiss = &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_MISS}

// Get returns an entry, or a miss.
func (c *floorCache) Get(_ context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
	if e, ok := c.entries.Load(r.GetKey()); ok {
		return e.(*floorEntry).single, nil
	}
	return floorMiss, nil
}

// BatchGet returns several entries.
func (c *floorCache) BatchGet(_ context.Context, r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
	resp := &cachev1.BatchGetResponse{Results: make([]*cachev1.BatchGetResult, len(r.GetKeys()))}
	for i, key := range r.GetKeys() {
		if e, ok := c.entries.Load(key); ok {
			resp.Results[i] = e.(*floorEntry).item
		} else {
			resp.Results[i] = &cachev1.BatchGetResult{Key: key, Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS}
		}
	}
	return resp, nil
}

// Set stores an entry under a random etag. Its ttl and age are constant and as long on the wire as those of Larder.
func (c *floorCache) Set(_ context.Context, r *cachev1.SetRequest) (*cachev1.SetResponse, error) {
	var random [8]byte
	_, _ = rand.Read(random[:])
	etag, ttl, age := hex.EncodeToString(random[:]), durationpb.New(time.Hour-1), durationpb.New(2*time.Second-1)
	c.entries.Store(r.GetKey(), &floorEntry{
		single: &cachev1.GetResponse{
			Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT, Value: r.GetValue(), Etag: etag, Ttl: ttl, Age: age, Source: cachev1.Source_SOURCE_NEAR_CACHE,
		},
		item: &cachev1.BatchGetResult{
			Key: r.GetKey(), Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, Value: r.GetValue(), Etag: etag, Ttl: ttl, Age: age,
			Source: cachev1.Source_SOURCE_NEAR_CACHE,
		},
	})
	return &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_STORED, Etag: etag}, nil
}

// A floorSession implements the rpcs of larder.session.v1.SessionService that the workloads call.
type floorSession struct {
	sessionv1.UnimplementedSessionServiceServer

	sessions sync.Map // token -> *sessionv1.ValidateSessionResponse
}

// CreateSession stores a session under a random token.
func (s *floorSession) CreateSession(_ context.Context, r *sessionv1.CreateSessionRequest) (*sessionv1.CreateSessionResponse, error) {
	var random [49]byte
	_, _ = rand.Read(random[:])
	token := "ls1_" + base64.RawURLEncoding.EncodeToString(random[:])
	now := time.Now().Truncate(time.Millisecond)
	idle := timestamppb.New(now.Add(30 * time.Minute))
	session := &sessionv1.Session{
		SessionId: token[4:27], Subject: r.GetSubject(), Attributes: r.GetAttributes(), Version: 1, Device: r.GetDevice(),
		CreatedAt: timestamppb.New(now), LastActiveAt: timestamppb.New(now), IdleExpiresAt: idle,
		AbsoluteExpiresAt: timestamppb.New(now.Add(12 * time.Hour)), ExpiresAt: idle,
	}
	s.sessions.Store(token, &sessionv1.ValidateSessionResponse{
		Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE, Session: session,
	})
	return &sessionv1.CreateSessionResponse{
		Outcome: sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_CREATED, SessionToken: token, Session: session,
	}, nil
}

var floorInactive = &sessionv1.ValidateSessionResponse{Outcome: sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_INACTIVE}

// ValidateSession returns the session of a token.
func (s *floorSession) ValidateSession(_ context.Context, r *sessionv1.ValidateSessionRequest) (*sessionv1.ValidateSessionResponse, error) {
	if resp, ok := s.sessions.Load(r.GetSessionToken()); ok {
		return resp.(*sessionv1.ValidateSessionResponse), nil
	}
	return floorInactive, nil
}
