package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// larder compiles the command once for all tests.
var larder = sync.OnceValues(func() (path string, err error) {
	dir, err := os.MkdirTemp("", "larder-binary-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3-test", "-o", filepath.Join(dir, "larder"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, &exec.Error{Name: string(out), Err: err}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := larder(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// start runs the compiled command with an environment and nothing else from this one.
func start(t *testing.T, env []string, args ...string) (command *exec.Cmd, stdout, stderr *journal, exited <-chan struct{}) {
	t.Helper()
	dir, err := larder()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr = new(journal), new(journal)
	command = exec.Command(filepath.Join(dir, "larder"), args...)
	command.Env = slices.Concat(env, []string{"LARDER_GRPC_ADDR=127.0.0.1:0", "LARDER_ADMIN_ADDR=127.0.0.1:0"})
	command.Stdout, command.Stderr = stdout, stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = command.Wait() // ProcessState has what matters
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-done
	})
	return command, stdout, stderr, done
}

// exitCode waits for the end of a command.
func exitCode(t *testing.T, command *exec.Cmd, exited <-chan struct{}) int {
	t.Helper()
	select {
	case <-exited:
		return command.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the command does not end")
		return 0
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		signal, again syscall.Signal
		drain         string
		want          int
	}{
		{"TERM", syscall.SIGTERM, 0, "0s", 0},
		{"INT", syscall.SIGINT, 0, "0s", 0},
		{"SecondTERMDoesNotWait", syscall.SIGTERM, syscall.SIGTERM, "1h", 143},
		{"SecondINTDoesNotWait", syscall.SIGTERM, syscall.SIGINT, "1h", 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			command, stdout, stderr, exited := start(t, []string{"REDIS_URL=embedded://", "LARDER_DRAIN_DELAY=" + test.drain}, "serve")
			stdout.await(t, "connected to redis")
			if err := command.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			stdout.await(t, "stopping")
			if test.again != 0 {
				addr, _ := stdout.await(t, "listening")["grpc"].(string)
				if code, _, stderr := call(t, nil, "probe", "--addr", addr); code != 0 {
					t.Errorf("not alive while draining: %s", stderr)
				}
				if err := command.Process.Signal(test.again); err != nil {
					t.Fatal(err)
				}
			}
			if code := exitCode(t, command, exited); code != test.want || stderr.String() != "" {
				t.Errorf("exit %d, want %d: %s", code, test.want, stderr)
			}
		})
	}
}

func TestRefusalsAreForTheShell(t *testing.T) {
	t.Parallel()
	command, stdout, stderr, exited := start(t, []string{"REDIS_DB=two"})
	if code := exitCode(t, command, exited); code != 1 || stdout.String() != "" || !strings.HasPrefix(stderr.String(), "larder: REDIS_DB: ") || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestVersionIsSetByTheLinker(t *testing.T) {
	t.Parallel()
	command, stdout, _, exited := start(t, nil, "version")
	if code := exitCode(t, command, exited); code != 0 || !strings.HasPrefix(stdout.String(), "larder v1.2.3-test (") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}
