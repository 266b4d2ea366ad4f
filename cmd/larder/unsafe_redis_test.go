package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

// An operator learns of a Redis that may lose or evict acknowledged writes from the log, /health and a metric, and can have
// Larder refuse it.
func TestUnsafeRedisIsToldOrRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Args: []string{"maxmemory-policy", "allkeys-lru", "appendonly", "yes"}})
	env := []string{"REDIS_URL=redis://" + server.Addr}

	p := lardertest.Start(t, env, "serve")
	lardertest.AwaitHealth(t, p.Addr(t, "grpc"), "ready", healthv1.HealthCheckResponse_SERVING)
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + p.Addr(t, "admin") + path)
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s = %s, %v, want 200", path, resp.Status, err)
		}
		return string(body)
	}
	var page struct {
		Status   string
		Warnings map[string]string
	}
	if err := json.Unmarshal([]byte(get("/health")), &page); err != nil {
		t.Fatalf("/health: %v", err)
	}
	if page.Status != "ok" || len(page.Warnings) != 1 || !strings.Contains(page.Warnings["maxmemory-policy"], "allkeys-lru") {
		t.Errorf("/health = %+v, want ok and one warning, about the maxmemory-policy allkeys-lru", page)
	}
	metrics := get("/metrics")
	for _, want := range []string{
		`larder_redis_unsafe_setting{setting="maxmemory-policy"} 1`, `larder_redis_unsafe_setting{setting="appendonly"} 0`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("/metrics lacks %q, want it", want)
		}
	}

	code, _, stderr := lardertest.Run(t, append(env, "LARDER_REDIS_STRICT=true"), "serve", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "LARDER_REDIS_STRICT") || !strings.Contains(stderr, "maxmemory-policy is allkeys-lru") ||
		strings.Count(strings.TrimSpace(stderr), "\n") != 0 {
		t.Errorf("serve with LARDER_REDIS_STRICT = %d, %q, want 1 and one line that names the setting", code, stderr)
	}
}
