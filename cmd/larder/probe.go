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

type probeCommand struct {
	Addr    string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. One that means every interface, such as :50051, is asked on loopback."`
	Service string        `default:"live" help:"What to ask for: live, ready or a service's full name."`
	Timeout time.Duration `default:"1s" help:"Longest wait for the whole probe."`
}

// Run asks for the health of one service and returns an error unless it is SERVING.
func (p *probeCommand) Run(ctx context.Context, _ io.Writer) error {
	addr, err := setting.DialAddr(p.Addr)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	// The address is dialled as it stands: a probe is for this server, not for what a resolver or a proxy has behind it.
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
