package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/edge/rls"
)

const perYear = "domain: d\ndescriptors:\n  - {key: a, rate_limit: {unit: year, requests_per_unit: 2}}\n"

// writeRules writes files by name into a folder, each in one step, and returns the folder.
func writeRules(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		temporary := filepath.Join(dir, "."+name)
		if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil {
			t.Fatalf("Rename: %v", err)
		}
	}
	return dir
}

// asking makes a request of one descriptor.
func asking(domain, key string) *envoy.RateLimitRequest {
	return &envoy.RateLimitRequest{Domain: domain, Descriptors: []*common.RateLimitDescriptor{
		{Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: "v"}}},
	}}
}

func TestEnvoyRateLimitSettings(t *testing.T) {
	t.Parallel()
	_, serving, err := settings(t, environ{
		"LARDER_ENVOY_RATELIMIT_CONFIG": "a,b", "LARDER_ENVOY_RATELIMIT_FAILURE_POLICY": "fail_closed", "LARDER_ENVOY_RATELIMIT_REDIS_TIMEOUT": "5ms",
		"LARDER_ENVOY_RATELIMIT_CHARGE_ALL": "true", "LARDER_ENVOY_RATELIMIT_SHADOW_MODE": "true", "LARDER_ENVOY_RATELIMIT_QUOTA_MODE": "true",
		"LARDER_ENVOY_RATELIMIT_NEAR_LIMIT_RATIO": "0.5", "LARDER_ENVOY_RATELIMIT_HEADERS": "true", "LARDER_ENVOY_RATELIMIT_LIMIT_HEADER": "x-a",
		"LARDER_ENVOY_RATELIMIT_REMAINING_HEADER": "x-b", "LARDER_ENVOY_RATELIMIT_RESET_HEADER": "x-c", "LARDER_ENVOY_RATELIMIT_DYNAMIC_METADATA": "true",
	}).Options()
	want := &service.EnvoyRateLimits{
		Options: rls.Options{
			Shadow: true, Quota: true, ChargeAll: true, NearRatio: 0.5, Headers: true, HeaderNames: rls.HeaderNames{Limit: "x-a", Remaining: "x-b", Reset: "x-c"},
			DynamicMetadata: true,
		},
		Failure: rls.FailClosed, RedisTimeout: 5 * time.Millisecond,
	}
	if diff := cmp.Diff(want, serving.EnvoyRateLimits); diff != "" || err != nil {
		t.Errorf("Options: %v, Envoy's rate limits (-want +got):\n%s", err, diff)
	}
	_, serving, err = settings(t, environ{"LARDER_ENVOY_RATELIMIT_CONFIG": "a", "LARDER_ENVOY_RATELIMIT_FAILURE_POLICY": "error"}).Options()
	want = &service.EnvoyRateLimits{
		Options:      rls.Options{NearRatio: 0.8, HeaderNames: rls.HeaderNames{Limit: "RateLimit-Limit", Remaining: "RateLimit-Remaining", Reset: "RateLimit-Reset"}},
		RedisTimeout: 50 * time.Millisecond,
	}
	if diff := cmp.Diff(want, serving.EnvoyRateLimits); diff != "" || err != nil {
		t.Errorf("Options: %v, defaults of Envoy's rate limits (-want +got):\n%s", err, diff)
	}
	for name, value := range map[string]string{
		"LARDER_ENVOY_RATELIMIT_FAILURE_POLICY": "maybe", "LARDER_ENVOY_RATELIMIT_REDIS_TIMEOUT": "51ms", "LARDER_ENVOY_RATELIMIT_NEAR_LIMIT_RATIO": "0",
		"LARDER_ENVOY_RATELIMIT_LIMIT_HEADER": "a b", "LARDER_ENVOY_RATELIMIT_REMAINING_HEADER": "a:", "LARDER_ENVOY_RATELIMIT_RESET_HEADER": "é",
	} {
		if _, _, err := settings(t, environ{name: value}).Options(); err == nil || !strings.HasPrefix(err.Error(), name+": must be ") {
			t.Errorf("Options with %s=%s = %v, want one fault that names the setting", name, value, err)
		}
	}
}

// serve --check names each mistake with its file, line and path.
func TestEnvoyRateLimitFaults(t *testing.T) {
	t.Parallel()
	dir := writeRules(t, t.TempDir(), map[string]string{
		"a.yaml": "domain: d\ndescriptors:\n  - key: a\n    rate_limit:\n      unit: fortnight\n", "b.yaml": "domain: d\n", "c.yaml": "domain: e\nlimit: 1\n",
	})
	code, stdout, stderr := call(t, environ{"LARDER_ENVOY_RATELIMIT_CONFIG": dir}, "serve", "--check")
	for _, want := range []string{
		filepath.Join(dir, "a.yaml") + ":5: descriptors[0].rate_limit.unit: must be second, minute, hour, day, week, month or year",
		filepath.Join(dir, "b.yaml") + `:1: domain: "d" is in another file too`,
		filepath.Join(dir, "c.yaml") + ":2: limit: is not known",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error = %q, want the line %q in it", stderr, want)
		}
	}
	if !strings.HasPrefix(stderr, "larder: LARDER_ENVOY_RATELIMIT_CONFIG: ") || code != 1 || stdout != "" {
		t.Errorf("exit code %d, standard output %q, standard error %q; want 1, nothing, and the name of the setting first", code, stdout, stderr)
	}
	none := filepath.Join(dir, "none.yaml")
	if code, _, stderr := call(t, nil, "serve", "--check", "--envoy-ratelimit-config", none); code != 1 || !strings.Contains(stderr, none+": no such file") {
		t.Errorf("a missing file: exit code %d, standard error %q; want 1 and the name of the file", code, stderr)
	}
	good := writeRules(t, t.TempDir(), map[string]string{"a.yaml": perYear, "larder.yaml": "rules: {d.a: {algorithm: gcra}}\n"})
	if code, _, stderr := call(t, nil, "serve", "--check", "--envoy-ratelimit-config", good); code != 0 {
		t.Errorf("good files: exit code %d, want 0; standard error: %s", code, stderr)
	}
}

// A changed file acts at once, and a bad one leaves the old rules in force.
func TestEnvoyRateLimitFilesAreReloaded(t *testing.T) {
	t.Parallel()
	dir := writeRules(t, t.TempDir(), map[string]string{"a.yaml": perYear})
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_ENVOY_RATELIMIT_CONFIG": dir})
	p.log.Await(t, "connected to redis")
	client := envoy.NewRateLimitServiceClient(p.dial(t))
	limitOf := func(domain, key string) uint32 {
		t.Helper()
		answer, err := client.ShouldRateLimit(t.Context(), asking(domain, key))
		if err != nil {
			t.Fatalf("ShouldRateLimit = %v, want an answer", err)
		}
		return answer.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit()
	}
	if got := limitOf("d", "a"); got != 2 {
		t.Errorf("limit = %d, want 2", got)
	}
	writeRules(t, dir, map[string]string{"a.yaml": strings.ReplaceAll(perYear, ": 2", ": 3"), "b.yaml": strings.ReplaceAll(perYear, "domain: d", "domain: e")})
	p.log.Await(t, "the rate limits have changed")
	for limitOf("d", "a") != 3 || limitOf("e", "a") != 2 { // the two files may be seen one after the other
		runtime.Gosched()
	}

	writeRules(t, dir, map[string]string{"a.yaml": "domain: d\ndescriptors: [{key: a, rate_limit: {unit: eon}}]\n"})
	rejected := p.log.Await(t, "the rate limit files are rejected and the old rules stay in force")
	if want := "a.yaml:2: descriptors[0].rate_limit.unit: must be second"; !strings.Contains(rejected["error"].(string), want) {
		t.Errorf("log line = %v, want %s in it", rejected, want)
	}
	if got := limitOf("d", "a"); got != 3 {
		t.Errorf("limit under a bad file = %d, want 3 as before", got)
	}
	_, metrics := p.get(t, "/metrics")
	if got, want := metricLine(metrics, `larder_envoy_ratelimit_config_reloads_total{result="rejected"}`), `larder_envoy_ratelimit_config_reloads_total{result="rejected"} 1`; got != want {
		t.Errorf("/metrics has %q, want %q", got, want)
	}
	if code, page := p.get(t, "/rlconfig"); code != 200 || page != "d.a: unit=YEAR requests_per_unit=3, shadow_mode: false\ne.a: unit=YEAR requests_per_unit=2, shadow_mode: false\n" {
		t.Errorf("/rlconfig = %d, %q, want the rules in force", code, page)
	}
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	for limitOf("d", "a") != 0 {
		runtime.Gosched()
	}
}

// envoyproxy/ratelimit is told of new files by a link that is replaced, and so is Larder.
func TestEnvoyRateLimitsFollowALink(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for i, folder := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(root, folder, "config"), 0o700); err != nil {
			t.Fatalf("MkdirAll: %v", err)
		}
		writeRules(t, filepath.Join(root, folder, "config"), map[string]string{"a.yaml": strings.ReplaceAll(perYear, ": 2", fmt.Sprint(": ", 2+i))})
	}
	current := filepath.Join(root, "current")
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, current+".new"); err != nil {
			t.Fatalf("Symlink: %v", err)
		}
		if err := os.Rename(current+".new", current); err != nil {
			t.Fatalf("Rename: %v", err)
		}
	}
	point("one")
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_ENVOY_RATELIMIT_CONFIG": filepath.Join(current, "config")})
	p.log.Await(t, "connected to redis")
	point("two")
	p.log.AwaitLines(t, "the rate limits have changed", 1)
	if _, page := p.get(t, "/rlconfig"); !strings.Contains(page, "requests_per_unit=3,") {
		t.Errorf("/rlconfig = %q, want the rules of the other folder", page)
	}
	writeRules(t, filepath.Join(root, "two", "config"), map[string]string{"a.yaml": strings.ReplaceAll(perYear, ": 2", ": 4")})
	p.log.AwaitLines(t, "the rate limits have changed", 2)
	point("one")
	p.log.AwaitLines(t, "the rate limits have changed", 3)
}

// Without a configuration the service is not there.
func TestEnvoyRateLimitsAreOffByDefault(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://"})
	p.log.Await(t, "connected to redis")
	_, err := envoy.NewRateLimitServiceClient(p.dial(t)).ShouldRateLimit(t.Context(), asking("d", "a"))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("ShouldRateLimit = %v, want UNIMPLEMENTED", err)
	}
	if code, _ := p.get(t, "/rlconfig"); code != 404 {
		t.Errorf("/rlconfig = %d, want 404", code)
	}
}
