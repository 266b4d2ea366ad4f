package check

import (
	"context"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const version = "0.0.0-check"

// The nearest thing to `docker build` and `docker run` without an engine: the Dockerfile's own RUN line,
// in a folder that holds only what .dockerignore lets through, and then the image's own commands.
func TestImageBuildsAndServes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the image's binary is for Linux")
	}
	larder := buildImage(t)
	t.Run("static", func(t *testing.T) { checkStatic(t, larder) })
	t.Run("version", func(t *testing.T) {
		if out, err := exec.Command(larder, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), version) {
			t.Errorf("larder version: %v: %s; want %s, which -X sets", err, out, version)
		}
	})
	t.Run("serves", func(t *testing.T) { checkServes(t, larder) })
}

// buildImage returns the binary that the image would hold.
func buildImage(t *testing.T) string {
	t.Helper()
	runs := commands[*instructions.RunCommand](stages(t)[0])
	line := strings.Join(runs[len(runs)-1].CmdLine, " ")
	const out = "-o /out/larder "
	if !strings.Contains(line, out) || !strings.Contains(line, " go build ") {
		t.Fatalf("the builder's last step is %q, want a go build that writes /out/larder", line)
	}
	binary := filepath.Join(t.TempDir(), "larder")
	cmd := exec.Command("sh", "-ec", strings.Replace(line, out, "-o "+binary+" ", 1))
	cmd.Dir = buildContext(t)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "VERSION="+version)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v, want no error\n%s", line, err, text)
	}
	return binary
}

// buildContext copies what .dockerignore lets through.
func buildContext(t *testing.T) string {
	t.Helper()
	file, err := os.Open(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		t.Fatalf("ignorefile.ReadAll: %v", err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatalf("patternmatcher.New: %v", err)
	}
	dir, source := t.TempDir(), os.DirFS(root)
	err = fs.WalkDir(source, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".git":
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		if skip, err := ignored.MatchesOrParentMatches(name); skip || err != nil {
			return err
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		t.Fatalf("copy the build context: %v", err)
	}
	return dir
}

// The final image has neither a dynamic loader nor a library.
func checkStatic(t *testing.T, binary string) {
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatalf("elf.Open: %v", err)
	}
	defer file.Close()
	for _, header := range file.Progs {
		if header.Type == elf.PT_INTERP {
			t.Error("the binary names a dynamic loader (PT_INTERP), want none")
		}
	}
	if libraries, err := file.ImportedLibraries(); err == nil && len(libraries) != 0 {
		t.Errorf("the binary imports the libraries %v, want none", libraries)
	}
	if file.Section(".debug_info") != nil || file.Section(".symtab") != nil {
		t.Errorf("the binary has .debug_info: %v, .symtab: %v; want neither", file.Section(".debug_info") != nil, file.Section(".symtab") != nil)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatalf("buildinfo.ReadFile: %v", err)
	}
	for _, want := range []debug.BuildSetting{{Key: "CGO_ENABLED", Value: "0"}, {Key: "-trimpath", Value: "true"}} {
		if !slices.Contains(info.Settings, want) {
			t.Errorf("the binary was built with %v, want %s=%s among them", info.Settings, want.Key, want.Value)
		}
	}
}

// checkServes starts the image's command on an embedded store and asks what every probe asks.
func checkServes(t *testing.T, larder string) {
	image, c := final(t), render(t)
	grpc, admin := freeAddress(t), freeAddress(t)
	serve := exec.Command(larder, only[*instructions.CmdCommand](t, image).CmdLine...)
	serve.Env = append(os.Environ(), "REDIS_URL=embedded://", "LARDER_GRPC_ADDR="+grpc, "LARDER_ADMIN_ADDR="+admin, "LARDER_DRAIN_DELAY=0s")
	var output strings.Builder
	serve.Stdout, serve.Stderr = &output, &output
	if err := serve.Start(); err != nil {
		t.Fatalf("start larder serve: %v", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- serve.Wait() }()
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = serve.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("larder printed:\n%s", output.String())
		}
	})

	healthcheck := only[*instructions.HealthCheckCommand](t, image).Health.Test[2:]
	eventually(t, "HEALTHCHECK", func() error { return probe(larder, append(healthcheck, "--addr", grpc)...) })
	for _, p := range []string{
		*c.container().StartupProbe.GRPC.Service, *c.container().LivenessProbe.GRPC.Service, *c.container().ReadinessProbe.GRPC.Service,
	} {
		eventually(t, "probe "+p, func() error { return probe(larder, "probe", "--addr", grpc, "--service", p) })
	}
	if probe(larder, "probe", "--addr", grpc, "--service", "no-such-name") == nil {
		t.Error("the probe of a name that is not registered passes, want it to fail: otherwise the probes above prove nothing")
	}
	eventually(t, "metrics", func() error {
		reply, err := http.Get("http://" + admin + c.deployment.Spec.Template.Annotations["prometheus.io/path"])
		if err != nil {
			return err
		}
		defer reply.Body.Close()
		if reply.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", reply.Status)
		}
		return nil
	})

	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("send SIGTERM: %v", err)
	}
	select {
	case err := <-exited:
		stopped = true
		if err != nil {
			t.Errorf("larder serve ended after SIGTERM with %v, want exit code 0", err)
		}
	case <-time.After(duration(t, c.config.Data["LARDER_STOP_TIMEOUT"])):
		t.Errorf("larder serve is still running %s after SIGTERM, want it to end sooner", c.config.Data["LARDER_STOP_TIMEOUT"])
	}
}

func probe(larder string, arguments ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, larder, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("larder %q: %w: %s", arguments, err, out)
	}
	return nil
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v after 10 s, want success", what, err)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen: %v", err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
