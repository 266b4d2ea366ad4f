package lardertest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// A Process is a running larder command.
type Process struct {
	Stdout, Stderr Output
	// Exited is closed when the process has ended.
	Exited <-chan struct{}

	command *exec.Cmd
}

// Start runs the compiled command until it ends, and kills it when the test ends. Its environment is env and nothing
// else, but for LARDER_GRPC_ADDR and LARDER_ADMIN_ADDR: free ports of loopback.
func Start(tb testing.TB, env []string, args ...string) *Process {
	tb.Helper()
	exited := make(chan struct{})
	p := &Process{Exited: exited, command: exec.Command(Binary(tb), args...)}
	p.command.Env = slices.Concat(env, []string{"LARDER_GRPC_ADDR=127.0.0.1:0", "LARDER_ADMIN_ADDR=127.0.0.1:0"})
	p.command.Stdout, p.command.Stderr = &p.Stdout, &p.Stderr
	p.command.SysProcAttr = processAttributes()
	if err := p.command.Start(); err != nil {
		tb.Fatalf("start larder %q: %v", args, err)
	}
	go func() {
		defer close(exited)
		_ = p.command.Wait() // ProcessState has the exit code
	}()
	tb.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-exited
	})
	return p
}

// Run runs the compiled command as [Start] does, and waits for its end.
func Run(tb testing.TB, env []string, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	p := Start(tb, env, args...)
	code = p.Exit(tb)
	return code, p.Stdout.String(), p.Stderr.String()
}

// PID returns the id of the process.
func (p *Process) PID() int { return p.command.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(tb testing.TB, s os.Signal) {
	tb.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		tb.Fatalf("send %v to larder: %v", s, err)
	}
}

// Exit waits for the end of the process, at most [Patience], and returns its exit code, which is -1 if a signal ended it.
func (p *Process) Exit(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.Exited:
		return p.command.ProcessState.ExitCode()
	case <-time.After(Patience):
		tb.Fatalf("larder %q has not ended after %v; output:\n%s%s", p.command.Args[1:], Patience, &p.Stdout, &p.Stderr)
		return 0
	}
}

// Addr waits until the process, which must be `larder serve`, listens, and returns its address. Name is "grpc" or "admin".
func (p *Process) Addr(tb testing.TB, name string) string {
	tb.Helper()
	return Addr(tb, &p.Stdout, name)
}

// Addr waits for the record that `larder serve` logs when it listens, and returns the address in it. Name is "grpc" or
// "admin".
func Addr(tb testing.TB, log *Output, name string) string {
	tb.Helper()
	record := log.Await(tb, "listening")
	addr, _ := record[name].(string)
	if addr == "" {
		tb.Fatalf("the log record has no address %q: %v", name, record)
	}
	return addr
}

// AwaitHealth waits, at most [Patience], until the server at addr reports a health status for a service.
func AwaitHealth(tb testing.TB, addr, service string, want healthv1.HealthCheckResponse_ServingStatus) {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatalf("connect to %s: %v", addr, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), Patience)
	defer cancel()
	var last healthv1.HealthCheckResponse_ServingStatus
	watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	for err == nil {
		var got *healthv1.HealthCheckResponse
		if got, err = watch.Recv(); err == nil {
			if last = got.Status; last == want {
				return
			}
		}
	}
	tb.Fatalf("health of %q at %s is %v, want %v: %v", service, addr, last, want, err)
}

// ClosedAddr returns a loopback address that refuses connections.
func ClosedAddr(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
