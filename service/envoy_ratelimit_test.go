package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/berthcare/larder/service/edge/rls"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

const envoyRules = `
domain: d
descriptors:
  - {key: ten, rate_limit: {unit: year, requests_per_unit: 10}}
  - {key: five, rate_limit: {name: five-a-year, unit: year, requests_per_unit: 5}}
  - {key: none, rate_limit: {unit: year, requests_per_unit: 0}}
  - {key: quota, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
  - {key: shadow, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
  - {key: gcra, rate_limit: {unit: year, requests_per_unit: 1}}
  - {key: sliding, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: closed, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: local, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: free, rate_limit: {unlimited: true}}
`

const envoyExtension = `
rules:
  d.gcra: {algorithm: gcra, burst: 3, period: 8760h}
  d.sliding: {algorithm: sliding_window, period: 48h}
  d.closed: {failure_policy: fail_closed}
  d.local: {failure_policy: local}
`

func envoyConfig(t testing.TB, rules string) *rls.Config {
	t.Helper()
	c, err := rls.Load([]rls.File{{Path: "rules.yaml", Text: []byte(rules)}, {Path: "larder.yaml", Text: []byte(envoyExtension)}}, rls.LoadOptions{})
	if err != nil {
		t.Fatalf("Load = %v, want nil", err)
	}
	return c
}

// A limited is a server of Envoy's protocol with a client.
type limited struct {
	*running
	client envoy.RateLimitServiceClient
	store  *store.Store
}

func serveEnvoy(t testing.TB, ro redis.Options, o EnvoyRateLimits) *limited {
	t.Helper()
	m := NewMetrics()
	ro.Observer = m
	st := must[*store.Store](t)(store.New(store.Options{Redis: ro}))
	t.Cleanup(st.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := st.Redis.Connect(ctx); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	s := New(st, m, Options{EnvoyRateLimits: &o, Logger: slog.New(slog.DiscardHandler)})
	s.SetEnvoyRateLimits(envoyConfig(t, envoyRules))
	r := serve(t, s)
	eventually(t, "ready", r.health.Ready)
	return &limited{r, envoy.NewRateLimitServiceClient(r.conn), st}
}

// limit makes a descriptor of one entry.
func limit(key, value string) *common.RateLimitDescriptor {
	return &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: value}}}
}

func withHits(d *common.RateLimitDescriptor, n uint64, negative bool) *common.RateLimitDescriptor {
	d.HitsAddend, d.IsNegativeHits = wrapperspb.UInt64(n), negative
	return d
}

// ask returns the answer in words: the overall verdict, then for each descriptor "OK" or "OVER" and what remains.
func (l *limited) ask(t testing.TB, descriptors ...*common.RateLimitDescriptor) string {
	t.Helper()
	answer, err := l.client.ShouldRateLimit(t.Context(), &envoy.RateLimitRequest{Domain: "d", Descriptors: descriptors})
	if err != nil {
		t.Fatalf("ShouldRateLimit = %v, want an answer", err)
	}
	return answerInWords(answer)
}

func answerInWords(answer *envoy.RateLimitResponse) string {
	words := strings.TrimSuffix(answer.GetOverallCode().String(), "_LIMIT") + ":"
	for _, s := range answer.GetStatuses() {
		words += fmt.Sprintf(" %s %d", strings.TrimSuffix(s.GetCode().String(), "_LIMIT"), s.GetLimitRemaining())
	}
	return words
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %q, want %q", what, got, want)
	}
}

func TestEnvoyRateLimits(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Primaries: 3})
	single := redistest.Start(t, redistest.Options{})
	for name, o := range map[string]redis.Options{
		"embedded":   {Mode: redis.Embedded},
		"standalone": {Addrs: []string{single.Addr}},
		"cluster":    {Mode: redis.Cluster, Addrs: cluster.Addrs()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.CommandTimeout = 10 * time.Second
			l := serveEnvoy(t, o, EnvoyRateLimits{})
			for i := range 5 {
				expect(t, "answer", l.ask(t, limit("five", "a")), fmt.Sprintf("OK: OK %d", 4-i))
			}
			expect(t, "answer beyond the limit", l.ask(t, limit("five", "a")), "OVER: OVER 0")
			expect(t, "answer for another value", l.ask(t, limit("five", "b")), "OK: OK 4")
			expect(t, "answer without a rule", l.ask(t, limit("six", "b")), "OK: OK 0")
			expect(t, "answer of an unlimited rule", l.ask(t, limit("free", "b")), "OK: OK 4294967295")
			expect(t, "answer in shadow mode", l.ask(t, withHits(limit("shadow", "a"), 2, false)), "OK: OK 0")

			// A denied request is counted nowhere.
			expect(t, "answer of two rules", l.ask(t, limit("ten", "a"), limit("none", "a")), "OVER: OK 10 OVER 0")
			expect(t, "answer of two rules", l.ask(t, limit("ten", "b"), limit("five", "c")), "OK: OK 9 OK 4")
			expect(t, "answer of two rules", l.ask(t, limit("ten", "b"), limit("five", "a")), "OVER: OK 9 OVER 0")

			// Nor is one that is denied because it is over all its quotas.
			expect(t, "answer of a quota", l.ask(t, limit("ten", "q"), limit("quota", "a")), "OK: OK 9 OK 0")
			expect(t, "answer of a quota that is used up", l.ask(t, limit("ten", "q"), limit("quota", "a")), "OVER: OK 8 OVER 0")
			expect(t, "answer of one of two quotas", l.ask(t, limit("ten", "q"), limit("quota", "a"), limit("quota", "b")), "OK: OK 8 OVER 0 OK 0")

			// Negative hits give back, down to nothing used.
			expect(t, "answer to negative hits", l.ask(t, withHits(limit("five", "a"), 2, true)), "OK: OK 2")
			expect(t, "answer after them", l.ask(t, withHits(limit("five", "a"), 2, false)), "OK: OK 0")
			expect(t, "answer to no hits", l.ask(t, withHits(limit("five", "a"), 0, false)), "OK: OK 0")
			expect(t, "answer to more negative hits than were used", l.ask(t, withHits(limit("five", "a"), 99, true)), "OK: OK 5")
			expect(t, "answer to hits and negative hits", l.ask(t, limit("ten", "r"), withHits(limit("five", "a"), 1, true)), "OK: OK 9 OK 5")

			// What only Larder has.
			expect(t, "answer of GCRA with a burst of 3", l.ask(t, withHits(limit("gcra", "a"), 3, false)), "OK: OK 0")
			expect(t, "answer of GCRA beyond its burst", l.ask(t, limit("gcra", "a")), "OVER: OVER 0")
			expect(t, "answer of a sliding window", l.ask(t, limit("sliding", "a")), "OK: OK 1")

			d := limit("five", "z")
			d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_YEAR}
			expect(t, "answer of a limit in the request", l.ask(t, d), "OK: OK 0")
			expect(t, "answer of a limit in the request", l.ask(t, d), "OVER: OVER 0")

			// The same counter under a changed rule.
			l.SetEnvoyRateLimits(envoyConfig(t, strings.ReplaceAll(envoyRules, "requests_per_unit: 10", "requests_per_unit: 100")))
			expect(t, "answer of a changed rule", l.ask(t, limit("ten", "q")), "OK: OK 97")
		})
	}
}

func TestEnvoyRateLimitsChargeAll(t *testing.T) {
	t.Parallel()
	l := serveEnvoy(t, redis.Options{Mode: redis.Embedded}, EnvoyRateLimits{Options: rls.Options{ChargeAll: true}})
	expect(t, "answer", l.ask(t, limit("ten", "a"), limit("none", "a")), "OVER: OK 9 OVER 0")
	expect(t, "answer", l.ask(t, withHits(limit("five", "a"), 8, false)), "OVER: OVER 0")
	expect(t, "answer to no hits", l.ask(t, withHits(limit("five", "a"), 0, false)), "OVER: OVER 0")
	expect(t, "answer", l.ask(t, withHits(limit("five", "a"), 4, true)), "OK: OK 1")
}

func TestEnvoyRateLimitsRefuseInvalidRequests(t *testing.T) {
	t.Parallel()
	l := serveEnvoy(t, redis.Options{Mode: redis.Embedded}, EnvoyRateLimits{})
	for field, r := range map[string]*envoy.RateLimitRequest{
		"domain": {Descriptors: []*common.RateLimitDescriptor{limit("a", "b")}}, "descriptors": {Domain: "d"},
	} {
		_, err := l.client.ShouldRateLimit(t.Context(), r)
		wantAnswer(t, err, answer{Code: codes.InvalidArgument, Reason: "INVALID_FIELD"})
		if fields := violations(t, err); len(fields) != 1 || fields[0] != field {
			t.Errorf("fields = %q, want %s", fields, field)
		}
	}
}

// Text that is not UTF-8 is limited like any other, and what is no request at all is the caller's mistake.
func TestEnvoyRateLimitsReadWhatEnvoySends(t *testing.T) {
	t.Parallel()
	l := serveEnvoy(t, redis.Options{Mode: redis.Embedded}, EnvoyRateLimits{})
	send := func(wire []byte) (*envoy.RateLimitResponse, error) {
		raw, answer := new(emptypb.Empty), new(envoy.RateLimitResponse)
		raw.ProtoReflect().SetUnknown(wire)
		return answer, l.conn.Invoke(t.Context(), envoy.RateLimitService_ShouldRateLimit_FullMethodName, raw, answer)
	}
	wire := must[[]byte](t)(proto.Marshal(&envoy.RateLimitRequest{Domain: "d", Descriptors: []*common.RateLimitDescriptor{limit("five", "key-XY")}}))
	for i, want := range []string{"OK: OK 4", "OK: OK 3"} {
		answer, err := send(bytes.ReplaceAll(wire, []byte("XY"), []byte{0xff, byte(0xf0 + i)}))
		if err != nil {
			t.Fatalf("ShouldRateLimit with a value that is not UTF-8 = %v, want an answer", err)
		}
		expect(t, "answer", answerInWords(answer), want)
	}
	for _, wire := range [][]byte{[]byte("\x0a\x03\xff"), []byte("\x12\x02\x0a\x05"), []byte("\x12\x04\x0a\x02\x0a\x7f")} {
		_, err := send(wire)
		if codeOf(err) != codes.InvalidArgument {
			t.Errorf("ShouldRateLimit with %q = %v, want INVALID_ARGUMENT", wire, err)
		}
	}
}

// While Redis is away, every call is answered within its deadline, by the failure policy of the rule or of the server.
func TestEnvoyRateLimitsWithoutRedis(t *testing.T) {
	t.Parallel()
	for policy, want := range map[rls.FailurePolicy]string{
		rls.FailOpen: "OK: OK 4", rls.FailClosed: "OVER: OVER 0", rls.Local: "OK: OK 4", "": "",
	} {
		t.Run("policy "+string(policy), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			proxy := redistest.StartProxy(t, server.Addr)
			l := serveEnvoy(t, redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: time.Second}, EnvoyRateLimits{Failure: policy})
			proxy.Blackhole(true)

			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			start := time.Now()
			got, err := l.client.ShouldRateLimit(ctx, &envoy.RateLimitRequest{Domain: "d", Descriptors: []*common.RateLimitDescriptor{limit("five", "a")}})
			took := time.Since(start)
			if want == "" {
				if err == nil {
					t.Errorf("answer = %v, want an error", got)
				}
				return
			}
			if err != nil {
				t.Fatalf("ShouldRateLimit = %v, want an answer", err)
			}
			expect(t, "answer without Redis", answerInWords(got), want)
			if took > 2*time.Second { // 50 ms on a machine with nothing else to do
				t.Errorf("answer after %v, want it soon after 50ms", took)
			}
			expect(t, "answer of a rule that fails closed", l.ask(t, limit("closed", "a")), "OVER: OVER 0")
			expect(t, "answer of a rule that counts locally", l.ask(t, withHits(limit("local", "a"), 2, false)), "OK: OK 0")
			expect(t, "answer of a rule that counts locally", l.ask(t, limit("local", "a")), "OVER: OVER 0")

			// Envoy must not take the service out of use because Redis is away.
			eventually(t, "not ready", func() bool { return !l.health.Ready() })
			state, err := l.live.Check(t.Context(), &healthv1.HealthCheckRequest{Service: envoy.RateLimitService_ServiceDesc.ServiceName})
			if err != nil || state.GetStatus() != serving {
				t.Errorf("health of the service = %v, %v, want %v", state, err, serving)
			}
			metrics := l.scrape(t, "/metrics")
			for _, line := range []string{
				`larder_envoy_ratelimit_hits_total{domain="d",outcome="failed_closed",rule="d.closed"} 1`,
				`larder_envoy_ratelimit_hits_total{domain="d",outcome="failed_open",rule="d.local"} 2`,
			} {
				if !strings.Contains(metrics, line) {
					t.Errorf("/metrics has no line %s, want it:\n%s", line, metrics)
				}
			}
		})
	}
}

// scrape reads a page of the admin port.
func (r *running) scrape(t testing.TB, path string) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	r.AdminHandler(false).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil || recorder.Code != http.StatusOK {
		t.Fatalf("GET %s = %d, %v, want 200", path, recorder.Code, err)
	}
	return string(body)
}

// Metrics and keys have the names of rules, and nothing of what requests carry.
func TestEnvoyRateLimitsKeepValuesOutOfMetricsAndKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	l := serveEnvoy(t, redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second}, EnvoyRateLimits{})
	for i := range 20 {
		d := limit("five", fmt.Sprint("hunter2-", i))
		l.ask(t, d)
		d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_DAY}
		d.Entries[0].Key = "hunter2"
		l.ask(t, d)
	}
	if _, err := l.client.ShouldRateLimit(t.Context(), &envoy.RateLimitRequest{Domain: "hunter2", Descriptors: []*common.RateLimitDescriptor{limit("a", "b")}}); err != nil {
		t.Fatalf("ShouldRateLimit = %v, want nil", err)
	}
	metrics := l.scrape(t, "/metrics")
	if strings.Contains(metrics, "hunter2") {
		t.Errorf("/metrics has a value of a request, want none:\n%s", metrics)
	}
	for _, line := range []string{
		`larder_envoy_ratelimit_hits_total{domain="d",outcome="total",rule="d.five"} 20`,
		`larder_envoy_ratelimit_hits_total{domain="d",outcome="within_limit",rule="d.<override>"} 20`,
		`larder_envoy_ratelimit_unknown_domain_total 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("/metrics has no line %s, want it:\n%s", line, metrics)
		}
	}
	keys := fmt.Sprint(server.Do(t, "KEYS", "*"))
	if strings.Contains(keys, "hunter2") || strings.Count(keys, "ld:w:{_envoy:d:") != 40 {
		t.Errorf("keys = %s, want 40 counters without values of requests", keys)
	}
	if got, want := l.scrape(t, "/rlconfig"), "d.five: unit=YEAR requests_per_unit=5, shadow_mode: false\n"; !strings.Contains(got, want) {
		t.Errorf("/rlconfig = %s, want the line %s", got, want)
	}
}

// A request costs Redis one script, whatever the number of its descriptors; a repeated denial costs nothing.
// `go test ./service -run Docs -update` writes the table.
func TestDocsTellWhatEnvoyRateLimitsCost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	l := serveEnvoy(t, redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second, NearCacheTTL: time.Hour}, EnvoyRateLimits{})
	many := make([]*common.RateLimitDescriptor, 3)
	for i := range many {
		many[i] = limit("ten", fmt.Sprint(i))
	}
	l.ask(t, limit("ten", "warm")) // teaches Redis the script
	var table strings.Builder
	table.WriteString("\n| Request | Commands | Called by scripts |\n|---|---|---|\n")
	for _, tt := range []struct {
		what        string
		descriptors []*common.RateLimitDescriptor
	}{
		{"one descriptor", []*common.RateLimitDescriptor{limit("ten", "a")}},
		{"one descriptor, again", []*common.RateLimitDescriptor{limit("ten", "a")}},
		{"three descriptors", many},
		{"a denial", []*common.RateLimitDescriptor{limit("none", "a")}},
		{"the same within a second", []*common.RateLimitDescriptor{limit("none", "a")}},
		{"no rule", []*common.RateLimitDescriptor{limit("six", "a")}},
		{"an unlimited rule", []*common.RateLimitDescriptor{limit("free", "a")}},
	} {
		monitor := server.StartMonitor(t)
		l.ask(t, tt.descriptors...)
		sent, scripted := monitor.Stop(t)
		maps.DeleteFunc(sent, func(name string, _ int64) bool { return byItself(name) })
		fmt.Fprintf(&table, "| %s | %s | %s |\n", tt.what, counts(sent), counts(scripted))
	}
	table.WriteString("\n")
	checkBlock(t, "envoy-costs", table.String())
}

// Callers at two replicas together get what the limit allows, and no more.
func TestEnvoyRateLimitsAcrossReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second}
	replicas := []*limited{serveEnvoy(t, o, EnvoyRateLimits{RedisTimeout: 0, Failure: ""}), serveEnvoy(t, o, EnvoyRateLimits{})}
	var allowed atomic.Int64
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for range 4 {
				r := &envoy.RateLimitRequest{Domain: "d", Descriptors: []*common.RateLimitDescriptor{limit("ten", "a"), limit("five", fmt.Sprint(i))}}
				answer, err := replicas[i%2].client.ShouldRateLimit(t.Context(), r)
				if err != nil {
					t.Errorf("ShouldRateLimit = %v, want nil", err)
				} else if answer.GetOverallCode() == envoy.RateLimitResponse_OK {
					allowed.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if got := allowed.Load(); got != 10 {
		t.Errorf("%d of 64 calls were allowed, want 10", got)
	}
}
