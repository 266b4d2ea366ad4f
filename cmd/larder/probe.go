package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/berthcare/larder/cmd/larder/setting"
)

// probeCommand is `larder probe`.
type probeCommand struct {
	Addr    string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. An address that means every interface, such as :50051, is dialled on loopback."`
	Service string        `default:"live" help:"Name to check: live, ready or the full name of a service."`
	Timeout time.Duration `default:"1s" help:"Maximum time for the probe, connecting included."`
}

// Run checks one name through grpc.health.v1 and returns an error unless its status is SERVING.
func (p *probeCommand) Run(ctx context.Context, _ io.Writer) error {
	addr, err := setting.DialAddr(p.Addr)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	// No resolver and no proxy: the probe must check this server, and not one that they choose.
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: p.Service})
	if err != nil {
		return fmt.Errorf("probe: %s at %s: %s", p.Service, addr, status.Convert(err).Message())
	}
	if answer.Status != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("probe: %s at %s is %v", p.Service, addr, answer.Status)
	}
	return nil
}
