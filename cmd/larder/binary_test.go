package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/berthcare/larder/cmd/larder/lardertest"
)

func TestMain(m *testing.M) { lardertest.Main(m) }

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		signal, again os.Signal // again is nil for one signal
		drain         string
		want          int
	}{
		{"TERM", syscall.SIGTERM, nil, "0s", 0},
		{"INT", syscall.SIGINT, nil, "0s", 0},
		{"SecondTERMDoesNotWait", syscall.SIGTERM, syscall.SIGTERM, "1h", 143},
		{"SecondINTDoesNotWait", syscall.SIGTERM, syscall.SIGINT, "1h", 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := lardertest.Start(t, []string{"REDIS_URL=embedded://", "LARDER_DRAIN_DELAY=" + test.drain}, "serve")
			p.Stdout.Await(t, "connected to redis")
			p.Signal(t, test.signal)
			p.Stdout.Await(t, "stopping")
			if test.again != nil {
				if code, _, stderr := call(t, nil, "probe", "--addr", p.Addr(t, "grpc")); code != 0 {
					t.Errorf("probe of the draining server: exit code %d, want 0; standard error: %s", code, stderr)
				}
				p.Signal(t, test.again)
			}
			if code := p.Exit(t); code != test.want {
				t.Errorf("exit code %d, want %d", code, test.want)
			}
			if got := p.Stderr.String(); got != "" {
				t.Errorf("standard error = %q, want nothing", got)
			}
		})
	}
}

// The shell gets one line on standard error and nothing on standard output.
func TestRefusalsAreForTheShell(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := lardertest.Run(t, []string{"REDIS_DB=two"})
	if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "larder: REDIS_DB: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d, standard output %q, standard error %q; want 1, nothing, and one line that begins with %q", code, stdout, stderr, "larder: REDIS_DB: ")
	}
}

func TestVersionIsSetByTheLinker(t *testing.T) {
	t.Parallel()
	code, stdout, _ := lardertest.Run(t, nil, "version")
	if want := "larder " + lardertest.Version + " ("; code != 0 || !strings.HasPrefix(stdout, want) {
		t.Errorf("exit code %d, standard output %q; want 0, and a line that begins with %q", code, stdout, want)
	}
}
