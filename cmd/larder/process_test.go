package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// patience bounds every wait; the machine runs other tests at the same time.
const patience = 30 * time.Second

// A journal is a JSON log that can be waited on.
type journal struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{} // closed and replaced by every write
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.written != nil {
		close(j.written)
	}
	j.written = make(chan struct{})
	return j.text.Write(p)
}

// read returns what was written so far, and what ends with the next write.
func (j *journal) read() (text string, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.written == nil {
		j.written = make(chan struct{})
	}
	return j.text.String(), j.written
}

func (j *journal) String() string {
	text, _ := j.read()
	return text
}

// awaitLine waits for a line that holds some text.
func (j *journal) awaitLine(t *testing.T, part string) string {
	t.Helper()
	return j.awaitLines(t, part, 1)
}

// awaitLines waits for the n-th line that holds some text.
func (j *journal) awaitLines(t *testing.T, part string, n int) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		text, more := j.read()
		found := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, part) {
				if found++; found == n {
					return line
				}
			}
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%s was not written:\n%s", part, text)
		}
	}
}

// await waits for a record with a message.
func (j *journal) await(t *testing.T, message string) (record map[string]any) {
	t.Helper()
	line := j.awaitLine(t, fmt.Sprintf(`"msg":%q`, message))
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return record
}

// A process is the whole program, run inside the test's own.
type process struct {
	log    journal
	stderr strings.Builder // to be read after the exit
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
		p.exited <- run(ctx, args, env.lookup, &p.log, &p.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the program does not end")
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
	case <-time.After(patience):
		t.Fatal("the program does not end")
		return 0, ""
	}
}

// addr returns where the program serves "grpc" or "admin".
func (p *process) addr(t *testing.T, name string) string {
	t.Helper()
	addr, _ := p.log.await(t, "listening")[name].(string)
	return addr
}

// dial connects to the program.
func (p *process) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.addr(t, "grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// awaitHealth waits until a name has a status.
func (p *process) awaitHealth(t *testing.T, name string, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := healthv1.NewHealthClient(p.dial(t)).Watch(ctx, &healthv1.HealthCheckRequest{Service: name})
	for err == nil {
		var got *healthv1.HealthCheckResponse
		if got, err = watch.Recv(); err == nil && got.Status == want {
			return
		}
	}
	t.Fatalf("%s does not become %v: %v", name, want, err)
}

// get asks the admin address for a page.
func (p *process) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	reply, err := http.Get("http://" + p.addr(t, "admin") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

// closedAddr returns a loopback address that refuses connections.
func closedAddr(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}
