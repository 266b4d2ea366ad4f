//go:build envoy

// Package envoy tests the files of this folder with a real Envoy, which .ci/install-envoy fetches.
package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

func TestMain(m *testing.M) { lardertest.Main(m) }

// A gateway is an Envoy before a service, with limits from Larder.
type gateway struct {
	addr, admin string // of Envoy
	larder      *lardertest.Process
	// served counts the requests that reached the service.
	mu     sync.Mutex
	served int
}

// start runs the files of this folder on free ports. Changes are pairs of what to replace in envoy.yaml, and by what.
func start(t *testing.T, env []string, changes ...string) *gateway {
	t.Helper()
	g := new(gateway)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.served++
		g.mu.Unlock()
		if left := r.Header.Get("x-left"); left != "" {
			w.Header().Set("x-tokens-left", left)
		}
		_, _ = io.WriteString(w, "hello\n")
	}))
	t.Cleanup(service.Close)
	g.larder = lardertest.Start(t, append([]string{"LARDER_ENVOY_RATELIMIT_CONFIG=ratelimit"}, env...), "serve")
	g.larder.Stdout.Await(t, "connected to redis")

	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	config := string(text)
	pairs := append([]string{
		"port_value: 10000", "port_value: 0", "port_value: 9901", "port_value: 0",
		"port_value: 8080", "port_value: " + port(t, service.Listener.Addr().String()),
		"port_value: 50051", "port_value: " + port(t, g.larder.Addr(t, "grpc")),
	}, changes...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(config, pairs[i]) {
			t.Fatalf("envoy.yaml has no %q, want one to replace", pairs[i])
		}
		config = strings.ReplaceAll(config, pairs[i], pairs[i+1])
	}
	dir := t.TempDir()
	path, adminPath := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	log := new(lardertest.Output)
	binary := filepath.Join("..", "..", ".tmp", "envoy", "bin", "envoy")
	command := exec.Command(binary, "-c", path, "--admin-address-path", adminPath, "--use-dynamic-base-id", "--concurrency", "2", "-l", "warn")
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatalf("start Envoy: %v; .ci/install-envoy installs it", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = command.Wait()
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("log of Envoy:\n%s\nlog of Larder:\n%s", log, &g.larder.Stdout)
		}
	})
	eventually(t, "Envoy says where it listens", func() bool {
		select {
		case <-exited:
			t.Fatalf("Envoy has ended, want it to listen:\n%s", log)
		default:
		}
		admin, err := os.ReadFile(adminPath)
		if g.admin = string(admin); err != nil || g.admin == "" {
			return false
		}
		var listeners struct {
			Statuses []struct {
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		page, err := g.page("/listeners?format=json")
		if err != nil || json.Unmarshal([]byte(page), &listeners) != nil || len(listeners.Statuses) == 0 {
			return false
		}
		g.addr = fmt.Sprint("127.0.0.1:", listeners.Statuses[0].Address.Socket.Port)
		return true
	})
	eventually(t, "Envoy finds Larder healthy", func() bool {
		page, err := g.page("/clusters")
		return err == nil && strings.Contains(page, "larder::127.0.0.1:"+port(t, g.larder.Addr(t, "grpc"))+"::health_flags::healthy")
	})
	return g
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatalf("SplitHostPort: %v", err)
	}
	return port
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lardertest.Patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("not: %s after %v, want it", what, lardertest.Patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// page reads a page of Envoy's admin port.
func (g *gateway) page(path string) (string, error) {
	reply, err := http.Get("http://" + g.admin + path)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	return string(text), err
}

// get makes a request; headers are pairs.
func (g *gateway) get(t *testing.T, path string, headers ...string) (int, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.addr+path, nil)
	if err != nil {
		t.Fatalf("NewRequest: %v", err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	defer reply.Body.Close()
	_, _ = io.Copy(io.Discard, reply.Body)
	return reply.StatusCode, reply.Header
}

// patient gives Larder as long as a busy machine may need.
var patient = []string{"timeout: 0.1s", "timeout: 20s"}

// untimed is the environment in which Redis may take as long as well: without failure policies, there is no bound.
var untimed = []string{"LARDER_ENVOY_RATELIMIT_CONFIG=ratelimit/gateway.yaml", "LARDER_ENVOY_RATELIMIT_FAILURE_POLICY=error"}

func TestEnvoyLimitsRequests(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	g := start(t, slices.Concat(untimed, []string{"REDIS_URL=" + server.URL()}), patient...)
	for i := range 8 {
		code, header := g.get(t, "/", "x-api-key", "ann")
		want := http.StatusOK
		if i >= 5 {
			want = http.StatusTooManyRequests
		}
		if code != want {
			t.Errorf("request %d = %d, want %d", i+1, code, want)
		}
		if got, want := header.Get("x-ratelimit-remaining"), fmt.Sprint(max(4-i, 0)); got != want {
			t.Errorf("x-ratelimit-remaining of request %d = %q, want %s", i+1, got, want)
		}
		if got, want := header.Get("x-ratelimit-limit"), `5, 5;w=3600;name="per-key", 1000;w=1;name="everyone"`; got != want {
			t.Errorf("x-ratelimit-limit of request %d = %q, want %s", i+1, got, want)
		}
		if got := header.Get("x-ratelimit-reset"); got == "" || len(got) > 4 || got == "0" {
			t.Errorf("x-ratelimit-reset of request %d = %q, want up to 3600 seconds", i+1, got)
		}
	}
	if g.served != 5 {
		t.Errorf("%d requests reached the service, want 5", g.served)
	}
	if code, header := g.get(t, "/", "x-api-key", "bob"); code != http.StatusOK || header.Get("x-ratelimit-remaining") != "4" {
		t.Errorf("request with another key = %d, %q remaining, want 200 and 4", code, header.Get("x-ratelimit-remaining"))
	}
	for range 8 {
		if code, _ := g.get(t, "/", "x-api-key", "unlimited"); code != http.StatusOK {
			t.Errorf("request with the key that is unlimited = %d, want 200", code)
		}
	}
}

// A refund at the end of a response: each request takes 10 of 100 and gives back what its response says.
func TestEnvoyGivesBackAtTheEndOfTheResponse(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	g := start(t, slices.Concat(untimed, []string{"REDIS_URL=" + server.URL()}), patient...)
	for i := range 30 {
		code, header := g.get(t, "/tokens", "x-api-key", "ann", "x-left", "8")
		if code != http.StatusOK {
			t.Fatalf("request %d = %d (%v), want 200: 2 of 100 are used by each, as soon as 8 are given back", i+1, code, header)
		}
		// The refund comes after the response.
		want := fmt.Sprintf(`larder_envoy_ratelimit_hits_total{domain="gateway",outcome="refunded",rule="gateway.tokens.api_key"} %d`, 8*(i+1))
		eventually(t, "8 tokens are given back", func() bool { return strings.Contains(g.metrics(t), want) })
		if got, want := header.Get("x-ratelimit-remaining"), fmt.Sprint(90-2*i); got != want {
			t.Errorf("x-ratelimit-remaining of request %d = %q, want %s", i+1, got, want)
		}
	}
}

// metrics reads the metrics of Larder.
func (g *gateway) metrics(t *testing.T) string {
	t.Helper()
	reply, err := http.Get("http://" + g.larder.Addr(t, "admin") + "/metrics")
	if err != nil {
		t.Fatalf("get /metrics: %v", err)
	}
	defer reply.Body.Close()
	page, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatalf("read /metrics: %v", err)
	}
	return string(page)
}

// While Redis fails over, callers get 200 or 429, never 500, although Envoy denies what Larder does not answer.
func TestEnvoySurvivesAFailoverOfRedis(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t)
	g := start(t, []string{
		"REDIS_SENTINEL_NODES=" + strings.Join(sentinel.Addrs(), ","), "REDIS_SENTINEL_MASTER=" + sentinel.MasterSet,
	}, patient...)
	var mu sync.Mutex
	codes := map[int]int{}
	slowest := time.Duration(0)
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				begin := time.Now()
				code, _ := g.get(t, "/", "x-api-key", fmt.Sprint("caller-", i, "-", n/10))
				took := time.Since(begin)
				mu.Lock()
				codes[code]++
				slowest = max(slowest, took)
				mu.Unlock()
			}
		})
	}
	limited := func() int {
		mu.Lock()
		defer mu.Unlock()
		return codes[http.StatusTooManyRequests]
	}
	eventually(t, "requests are limited", func() bool { return limited() > 10 })
	sentinel.Current(t).Kill()
	eventually(t, "Redis is lost", func() bool { return strings.Contains(g.metrics(t), `outcome="failed_open"`) })
	before := limited()
	eventually(t, "requests are limited again", func() bool { return limited() > before+10 })
	stop()
	callers.Wait()
	for code, n := range codes {
		if code != http.StatusOK && code != http.StatusTooManyRequests {
			t.Errorf("%d requests = %d, want 200 and 429 alone", n, code)
		}
	}
	t.Logf("answers by code: %v; slowest %v", codes, slowest)
}

// Without Redis a rule that fails closed denies, and one that counts locally still counts.
func TestEnvoyWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	g := start(t, []string{"REDIS_URL=" + server.URL()}, patient...)
	eventually(t, "Redis decides", func() bool {
		code, _ := g.get(t, "/tokens", "x-api-key", "ann")
		return code == http.StatusOK
	})
	server.Kill()
	if code, _ := g.get(t, "/", "x-api-key", "ann"); code != http.StatusOK {
		t.Errorf("request of a rule that fails open = %d, want 200", code)
	}
	if code, _ := g.get(t, "/tokens", "x-api-key", "ann"); code != http.StatusTooManyRequests {
		t.Errorf("request of a rule that fails closed = %d, want 429", code)
	}
}

// A header value that is not UTF-8 must not get around a limit.
func TestEnvoyLimitsValuesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	g := start(t, slices.Concat(untimed, []string{"REDIS_URL=" + server.URL()}), patient...)
	for i := range 7 {
		code, _ := g.get(t, "/", "x-api-key", "ann\xff\xfe")
		if want := map[bool]int{true: http.StatusOK, false: http.StatusTooManyRequests}[i < 5]; code != want {
			t.Errorf("request %d = %d, want %d", i+1, code, want)
		}
	}
}
