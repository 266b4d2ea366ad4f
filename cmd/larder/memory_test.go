package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/redistest"
)

func TestMemoryLimitOfTheContainer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		membership string
		files      map[string]string
		want       int64
	}{
		"container":        {"0::/\n", map[string]string{"memory.max": "536870912\n"}, 512 << 20},
		"unlimited":        {"0::/\n", map[string]string{"memory.max": "max\n"}, 0},
		"limit of a slice": {"0::/a/b\n", map[string]string{"a/memory.max": "1000\n", "a/b/memory.max": "max\n"}, 1000},
		"the least":        {"0::/a/b\n", map[string]string{"a/memory.max": "1000\n", "a/b/memory.max": "900\n"}, 900},
		"version 1":        {"4:memory:/x\n", map[string]string{"memory/memory.limit_in_bytes": "2000\n"}, 2000},
		"version 1, none":  {"4:memory:/x\n", map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"nothing":          {"", nil, 0},
	} {
		root := t.TempDir()
		files := map[string]string{"membership": test.membership}
		for file, text := range test.files {
			files["root/"+file] = text
		}
		for file, text := range files {
			file = filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatalf("MkdirAll = %v, want nil", err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatalf("WriteFile = %v, want nil", err)
			}
		}
		if got := memoryLimit(filepath.Join(root, "membership"), filepath.Join(root, "root")); got != test.want {
			t.Errorf("%s: memoryLimit = %d, want %d", name, got, test.want)
		}
	}
}

// 800 callers that each set 1 MiB at the same time are served or refused, and the process stays below 512 MiB.
func TestLargeRequestsAreBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	p := lardertest.Start(t, []string{"REDIS_URL=" + server.URL(), "GOMEMLIMIT=435MiB"}, "serve")
	addr := p.Addr(t, "grpc")
	lardertest.AwaitHealth(t, addr, "ready", healthv1.HealthCheckResponse_SERVING)
	value := make([]byte, 1<<20)
	var mu sync.Mutex
	outcomes := map[codes.Code]int{}
	var callers sync.WaitGroup
	begin := make(chan struct{})
	for i := range 800 {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatalf("NewClient = %v, want nil", err)
		}
		callers.Go(func() {
			defer conn.Close()
			<-begin
			_, err := cachev1.NewCacheServiceClient(conn).Set(t.Context(), &cachev1.SetRequest{Key: fmt.Sprint(i % 8), Value: value})
			mu.Lock()
			defer mu.Unlock()
			outcomes[status.Code(err)]++
		})
	}
	close(begin)
	callers.Wait()
	if others := 800 - outcomes[codes.OK] - outcomes[codes.ResourceExhausted]; outcomes[codes.OK] == 0 || others > 0 {
		t.Errorf("outcomes = %v, want OK and RESOURCE_EXHAUSTED only", outcomes)
	}
	peak := peakMemory(t, p.PID())
	t.Logf("outcomes %v, at most %d MiB", outcomes, peak>>20)
	if peak > 512<<20 {
		t.Errorf("larder has used %d MiB of memory, want 512 MiB at most", peak>>20)
	}
	lardertest.AwaitHealth(t, addr, "ready", healthv1.HealthCheckResponse_SERVING)
}

// peakMemory returns the most memory that a process has had resident, in bytes.
func peakMemory(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("ReadFile = %v, want nil: the memory of a process is known on Linux only", err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Fatal("the status of the process has no VmHWM, want one")
	return 0
}
