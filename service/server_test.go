package service

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

func TestServeReturnsWhatBrokeTheListener(t *testing.T) {
	t.Parallel()
	s := newServer(whole, patient300ms, NewMetrics(), Options{})
	t.Cleanup(s.grpc.Stop)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen = %v, want nil", err)
	}
	listener.Close()
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	if err := wait(t, "end of Serve", served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want %v", err, net.ErrClosed)
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
		t.Errorf("Get with a key of 6 MiB, as long as the largest value = %v, want nil", err)
	}
	if err := get(t.Context(), 6<<20+128<<10); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("Get above the message limit = %v, want RESOURCE_EXHAUSTED", err)
	}
	size = 7 << 20
	if err := get(t.Context(), 1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("answer above the message limit = %v, want RESOURCE_EXHAUSTED", err)
	}
	size = 0
	if err := get(metadata.AppendToOutgoingContext(t.Context(), "large", strings.Repeat("h", 20<<10)), 1); err == nil {
		t.Error("Get with 20 KiB of headers = nil, want an error")
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
		t.Errorf("second call on the connection = %v, want DEADLINE_EXCEEDED", err)
	}
	cancel()
	if err := wait(t, "end of the first call", first); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled call = %v, want CANCELLED", err)
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
				t.Errorf("messageBytes = %d, want %d", got, tt.want)
			}
		})
	}
}
