package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/cmd/larder/lardertest"
)

// A process is the whole program, run inside the test process.
type process struct {
	log    lardertest.Output
	stderr strings.Builder // is complete after the exit
	stop   context.CancelFunc
	exited chan int
}

// serve starts the program on free ports. It is stopped when the test ends.
func serve(t *testing.T, env environ, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{stop: cancel, exited: make(chan int, 1)}
	args = append([]string{"serve", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--drain-delay=0s"}, args...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.exited <- run(ctx, args, environment(env), &p.log, &p.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(lardertest.Patience):
			t.Errorf("the program has not ended %v after it was told to stop, want an exit", lardertest.Patience)
			return
		}
		if t.Failed() {
			t.Logf("log:\n%s\nstandard error:\n%s", &p.log, p.stderr.String())
		}
	})
	return p
}

// exit waits for the end of the program.
func (p *process) exit(t *testing.T) (code int, stderr string) {
	t.Helper()
	select {
	case code = <-p.exited:
		return code, p.stderr.String()
	case <-time.After(lardertest.Patience):
		t.Fatalf("the program has not ended after %v, want an exit; log:\n%s", lardertest.Patience, &p.log)
		return 0, ""
	}
}

// addr waits until the program listens and returns its address. Name is "grpc" or "admin".
func (p *process) addr(t *testing.T, name string) string {
	t.Helper()
	return lardertest.Addr(t, &p.log, name)
}

// dial connects to the program.
func (p *process) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.addr(t, "grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// awaitHealth waits until the program reports a health status for a name.
func (p *process) awaitHealth(t *testing.T, name string, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	lardertest.AwaitHealth(t, p.addr(t, "grpc"), name, want)
}

// get reads a page of the admin port.
func (p *process) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	reply, err := http.Get("http://" + p.addr(t, "admin") + path)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return reply.StatusCode, string(text)
}
