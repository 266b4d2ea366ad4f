package main

import (
	"net"
	"strings"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/cmd/larder/lardertest"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://"})
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	addr := p.addr(t, "grpc")
	_, port, _ := net.SplitHostPort(addr)
	for _, test := range []struct {
		name string
		env  environ
		args []string
		want int
	}{
		{"Live", nil, []string{"--addr", addr}, 0},
		{"Ready", nil, []string{"--addr", addr, "--service=ready"}, 0},
		{"AddressOfServer", environ{"LARDER_GRPC_ADDR": addr}, nil, 0},
		{"EveryInterface", environ{"LARDER_GRPC_ADDR": ":" + port}, nil, 0},
		{"EveryIPv4Interface", environ{"LARDER_GRPC_ADDR": "0.0.0.0:" + port}, nil, 0},
		{"ProxyIsNotAsked", environ{"LARDER_GRPC_ADDR": addr, "HTTPS_PROXY": "http://127.0.0.1:1"}, nil, 0},
		{"UnknownService", nil, []string{"--addr", addr, "--service=none"}, 1},
		{"NobodyThere", nil, []string{"--addr", lardertest.ClosedAddr(t)}, 1},
		{"NoPort", nil, []string{"--addr=localhost"}, 1},
		{"BadSetting", environ{"LARDER_GRPC_ADDR": "localhost"}, nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := call(t, test.env, append([]string{"probe"}, test.args...)...)
			if code != test.want || stdout != "" {
				t.Errorf("exit code %d, standard output %q; want %d and nothing; standard error: %s", code, stdout, test.want, stderr)
			}
			if lines := strings.Count(stderr, "\n"); lines != test.want {
				t.Errorf("standard error has %d lines, want %d:\n%s", lines, test.want, stderr)
			}
		})
	}
}

// A process that hangs accepts connections, since the kernel does so for it, and never answers.
func TestProbeDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer silent.Close()
	start := time.Now()
	code, _, stderr := call(t, nil, "probe", "--addr", silent.Addr().String(), "--timeout=200ms")
	if took := time.Since(start); code != 1 || took > lardertest.Patience/2 {
		t.Errorf("exit code %d after %v, want 1 within %v; standard error: %s", code, took, lardertest.Patience/2, stderr)
	}
}
