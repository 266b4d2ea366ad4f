package warm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/lardertest"
)

func TestMain(m *testing.M) { lardertest.Main(m) }

// embedded is the environment of a server with the embedded store.
var embedded = []string{"REDIS_URL=embedded://"}

// A server is a running `larder serve`, with a client and a folder for files of lines.
type server struct {
	*client.Client

	addr string
	dir  string
}

// serve starts a server with an environment and waits until it is ready.
func serve(t *testing.T, env []string) *server {
	t.Helper()
	s := &server{addr: lardertest.Start(t, env, "serve").Addr(t, "grpc"), dir: t.TempDir()}
	s.awaitReady(t)
	c, err := client.New(client.Options{Target: s.addr, Timeout: lardertest.Patience, MaxAttempts: 50})
	if err != nil {
		t.Fatalf("make a client of %s: %v", s.addr, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s.Client = c
	return s
}

func (s *server) awaitReady(t *testing.T) {
	t.Helper()
	lardertest.AwaitHealth(t, s.addr, "ready", healthv1.HealthCheckResponse_SERVING)
}

// file writes a file of lines.
func (s *server) file(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parse sets the fields of a command from flags.
func parse(t testing.TB, command any, args ...string) {
	t.Helper()
	parser, err := kong.New(command)
	if err != nil {
		t.Fatalf("make a parser for %T: %v", command, err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
}

// A result is what a command has returned and printed.
type result struct {
	code           int // 1 if the command has returned an error, which is then the last line of stderr
	stdout, stderr string
}

// warm runs Command with standard input from a reader, which is empty if nil. It makes up to 50 attempts, since the
// machine can be busy.
func (s *server) warm(ctx context.Context, t testing.TB, stdin io.Reader, args ...string) result {
	t.Helper()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var command Command
	parse(t, &command, append([]string{"--attempts=50", "--addr=" + s.addr}, args...)...)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(writer, stdin)
		_ = writer.Close()
	}()
	var out, errs strings.Builder
	command.stdin, command.stderr = reader, &errs
	code := 0
	if err := command.Run(ctx, &out); err != nil {
		code = 1
		fmt.Fprintln(&errs, err)
	}
	_ = reader.Close()
	<-copied
	return result{code, out.String(), errs.String()}
}

// check compares the exit code with a wanted one and looks for text on standard output and standard error. Without wantErr
// standard error must be empty.
func (r result) check(t *testing.T, wantCode int, wantOut string, wantErr ...string) {
	t.Helper()
	if r.code != wantCode {
		t.Errorf("exit code %d, want %d; standard error:\n%s", r.code, wantCode, r.stderr)
	}
	if !strings.Contains(r.stdout, wantOut) {
		t.Errorf("standard output %q does not contain %q; standard error:\n%s", r.stdout, wantOut, r.stderr)
	}
	for _, want := range wantErr {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("standard error does not contain %q:\n%s", want, r.stderr)
		}
	}
	if len(wantErr) == 0 && r.stderr != "" {
		t.Errorf("standard error = %q, want nothing", r.stderr)
	}
}

// export runs ExportCommand, which must succeed, and returns its standard output.
func (s *server) export(t testing.TB, args ...string) string {
	t.Helper()
	var command ExportCommand
	parse(t, &command, append([]string{"--attempts=50", "--addr=" + s.addr}, args...)...)
	var out, errs strings.Builder
	command.stderr = &errs
	if err := command.Run(context.Background(), &out); err != nil {
		t.Fatalf("export %q: %v; standard error:\n%s", args, err, &errs)
	}
	return out.String()
}

// entries reads every entry of a namespace, by key.
func (s *server) entries(t testing.TB, namespace string) map[string]client.Entry {
	t.Helper()
	all := map[string]client.Entry{}
	for key, err := range s.Cache.In(namespace).ListKeys(context.Background(), "", client.ListKeysOptions{}) {
		if err != nil {
			t.Fatalf("list the keys of namespace %s: %v", namespace, err)
		}
		e, err := s.Cache.In(namespace).GetWith(context.Background(), key, client.GetOptions{Primary: true})
		if err != nil {
			t.Fatalf("get %q of namespace %s: %v", key, namespace, err)
		}
		all[key] = e
	}
	return all
}

// numbered returns n lines, of the entries k0, k1 and so on.
func numbered(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "%[1]d"}`, i))
	}
	return lines
}
