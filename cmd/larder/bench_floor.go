package main

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

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// benchFloorCommand serves what Larder is compared with: no interceptors, no Redis, no expiry, and answers that were made
// beforehand and are as long as Larder's.
type benchFloorCommand struct{}

// Run serves on a free port, which it logs, until ctx ends.
func (benchFloorCommand) Run(ctx context.Context, stdout io.Writer) error {
	var ports net.ListenConfig
	listener, err := ports.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(1000), grpc.MaxRecvMsgSize(benchMaxMessage), grpc.MaxSendMsgSize(benchMaxMessage))
	cachev1.RegisterCacheServiceServer(server, new(floorCache))
	sessionv1.RegisterSessionServiceServer(server, new(floorSession))
	defer context.AfterFunc(ctx, server.Stop)()
	slog.New(slog.NewJSONHandler(stdout, nil)).Info("listening", "grpc", listener.Addr().String())
	return server.Serve(listener)
}

// A floorCache answers larder.cache.v1.CacheService, as far as the workloads call it.
type floorCache struct {
	cachev1.UnimplementedCacheServiceServer

	entries sync.Map // key -> *floorEntry
}

// A floorEntry is an entry in each form that answers have.
type floorEntry struct {
	single *cachev1.GetResponse
	item   *cachev1.BatchGetResult
}

var floorMiss = &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_MISS}

// Get reads one entry.
func (c *floorCache) Get(_ context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
	if e, ok := c.entries.Load(r.GetKey()); ok {
		return e.(*floorEntry).single, nil
	}
	return floorMiss, nil
}

// BatchGet reads several entries.
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

// Set writes one entry.
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

// A floorSession answers larder.session.v1.SessionService, as far as the workloads call it.
type floorSession struct {
	sessionv1.UnimplementedSessionServiceServer

	sessions sync.Map // token -> *sessionv1.ValidateSessionResponse
}

// CreateSession starts a session.
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

// ValidateSession checks a token.
func (s *floorSession) ValidateSession(_ context.Context, r *sessionv1.ValidateSessionRequest) (*sessionv1.ValidateSessionResponse, error) {
	if resp, ok := s.sessions.Load(r.GetSessionToken()); ok {
		return resp.(*sessionv1.ValidateSessionResponse), nil
	}
	return floorInactive, nil
}
