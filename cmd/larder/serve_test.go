package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/redistest"
)

// The calls that larder shows to a newcomer work as they are printed.
func TestEmbeddedStoreShowsCallsThatWork(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://"})
	commands, _ := p.log.Await(t, "try")["commands"].([]any)
	if len(commands) < 4 {
		t.Fatalf("larder shows the commands %q, want at least 4", commands)
	}
	conn := p.dial(t)
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	form := regexp.MustCompile(`^grpcurl -plaintext -d '(\{.*\})' (\S+) (\S+)/(\S+)$`)
	for i, command := range commands {
		parts := form.FindStringSubmatch(command.(string))
		if parts == nil {
			if want := "grpcurl -plaintext " + p.addr(t, "grpc") + " list"; i != 0 || command != want {
				t.Errorf("command %d = %q, want %q first and calls after it", i, command, want)
			}
			continue
		}
		if parts[2] != p.addr(t, "grpc") {
			t.Errorf("the address in %q is %s, want %s", command, parts[2], p.addr(t, "grpc"))
		}
		if reply := invoke(t, conn, parts[3], parts[4], parts[1]); parts[4] == "Get" && !strings.Contains(reply, "aGVsbG8=") {
			t.Errorf("%s = %s, want the value that was set", command, reply)
		}
	}
	p.stop()
	if code, stderr := p.exit(t); code != 0 || stderr != "" {
		t.Errorf("exit code %d, standard error %q; want 0 and nothing", code, stderr)
	}
	p.log.Await(t, "stopped")
}

// invoke makes one call by the names of its service and method, as grpcurl does.
func invoke(t *testing.T, conn *grpc.ClientConn, service, method, request string) (reply string) {
	t.Helper()
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		t.Fatalf("find %s.%s: %v", service, method, err)
	}
	types := found.(protoreflect.MethodDescriptor)
	in, out := dynamicpb.NewMessage(types.Input()), dynamicpb.NewMessage(types.Output())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		t.Fatalf("parse the request %s: %v", request, err)
	}
	if err := conn.Invoke(t.Context(), "/"+service+"/"+method, in, out); err != nil {
		t.Fatalf("%s %s = %v, want no error", method, request, err)
	}
	return protojson.Format(out)
}

func TestHintIsForPeopleAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	for name, p := range map[string]*process{
		"in production":      serve(t, environ{"REDIS_URL": server.URL()}),
		"without reflection": serve(t, environ{"REDIS_URL": "embedded://", "LARDER_REFLECTION": "false"}),
	} {
		p.log.Await(t, "connected to redis")
		p.stop()
		p.exit(t)
		if strings.Contains(p.log.String(), "grpcurl") {
			t.Errorf("larder shows calls %s, want none:\n%s", name, &p.log)
		}
	}
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_LOG_FORMAT": "text"})
	p.log.AwaitLine(t, "CreateSession")
	if line := regexp.MustCompile(`(?m)^  grpcurl -plaintext -d '\{"key": "greeting"\}' 127\.0\.0\.1:\d+ larder\.cache\.v1\.CacheService/Get$`); !line.MatchString(p.log.String()) {
		t.Errorf("no line of the log matches %s, want one:\n%s", line, &p.log)
	}
}

func TestServesBeforeRedisIsThere(t *testing.T) {
	t.Parallel()
	addr := lardertest.ClosedAddr(t)
	p := serve(t, environ{"REDIS_URL": "redis://" + addr, "LARDER_LOG_LEVEL": "debug"})
	p.awaitHealth(t, "live", healthv1.HealthCheckResponse_SERVING)
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_NOT_SERVING)
	if code, _, stderr := call(t, nil, "probe", "--service=ready", "--addr", p.addr(t, "grpc")); code != 1 {
		t.Errorf("probe of ready without Redis: exit code %d, want 1; standard error: %s", code, stderr)
	}
	p.log.AwaitLine(t, "connection refused")
	_, port, _ := net.SplitHostPort(addr)
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatalf("parse the port of %s: %v", addr, err)
	}
	server := redistest.Start(t, redistest.Options{Port: number})
	record := p.log.Await(t, "connected to redis")
	if record["version"] != server.Version() || record["mode"] != "standalone" {
		t.Errorf("logged %v, want version %s and mode standalone", record, server.Version())
	}
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	_, metrics := p.get(t, "/metrics")
	for _, want := range []string{`version="` + release() + `"`, "larder_redis_up 1", `events_total{event="dial_failed"}`, `events_total{event="dialed"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics does not contain %s:\n%s", want, metrics)
		}
	}
}

// Larder serves every topology that the settings can name.
func TestTopologies(t *testing.T) {
	t.Parallel()
	cert := redistest.GenerateTLS(t)
	cert.RequireClientCert = true
	acl := redistest.Start(t, redistest.Options{ACL: []string{"user larder on >hunter2 ~* &* +@all"}, Password: "other"})
	secure := redistest.Start(t, redistest.Options{TLS: cert})
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	sentinel := redistest.StartSentinel(t)
	for _, test := range []struct {
		name, mode string
		env        environ
	}{
		{"ACL", "standalone", environ{"REDIS_URL": acl.URL() + "/2", "REDIS_USERNAME": "larder", "REDIS_PASSWORD": "hunter2"}},
		{"TLS", "standalone", environ{"REDIS_URL": secure.URL(), "REDIS_TLS_CA_FILE": cert.CA, "REDIS_TLS_CERT_FILE": cert.ClientCert, "REDIS_TLS_KEY_FILE": cert.ClientKey}},
		{"Cluster", "cluster", environ{"REDIS_CLUSTER_NODES": strings.Join(cluster.Addrs(), ",")}},
		{"Sentinel", "sentinel", environ{"REDIS_SENTINEL_NODES": strings.Join(sentinel.Addrs(), ","), "REDIS_SENTINEL_MASTER": sentinel.MasterSet}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.env["LARDER_LOG_LEVEL"] = "debug"
			p := serve(t, test.env)
			if mode := p.log.Await(t, "connected to redis")["mode"]; mode != test.mode {
				t.Errorf("connected with mode %v, want %s", mode, test.mode)
			}
			p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
			cache := cachev1.NewCacheServiceClient(p.dial(t))
			if _, err := cache.Set(t.Context(), &cachev1.SetRequest{Key: "k", Value: []byte("v")}); err != nil {
				t.Errorf("Set = %v, want no error", err)
			}
			p.stop()
			if code, stderr := p.exit(t); code != 0 || stderr != "" {
				t.Errorf("exit code %d, standard error %q; want 0 and nothing", code, stderr)
			}
			if strings.Contains(p.log.String(), "hunter2") {
				t.Errorf("the log contains the password, want it nowhere:\n%s", &p.log)
			}
		})
	}
}

// A mistake that will not pass by waiting ends the process at once, with one line that says what to check.
func TestOperatorsMistakesEndTheProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Password: "right"})
	open := redistest.Start(t, redistest.Options{ACL: []string{"user larder on >hunter2 ~* +@all -time -info"}})
	plain := redistest.Start(t, redistest.Options{})
	cert := redistest.GenerateTLS(t)
	secure := redistest.Start(t, redistest.Options{TLS: cert})
	demanding := *cert
	demanding.RequireClientCert = true
	secret := redistest.Start(t, redistest.Options{TLS: &demanding})
	namelessCert := redistest.GenerateTLSWithoutSAN(t)
	nameless := redistest.Start(t, redistest.Options{TLS: namelessCert})
	untracked := redistest.Start(t, redistest.Options{ACL: []string{"user larder on >hunter2 ~* +@all -client|tracking"}})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	nobody := lardertest.ClosedAddr(t)
	for _, test := range []struct {
		name string
		env  environ
		args []string
		want string
	}{
		{
			"WrongPassword",
			environ{"REDIS_URL": "redis://:hunter2@" + server.Addr},
			[]string{"--drain-delay=1h"}, // is skipped: a replica that was never ready has no callers
			"larder: redis refused the credentials: check REDIS_USERNAME and REDIS_PASSWORD",
		},
		{
			"NoPassword",
			environ{"REDIS_URL": server.URL()},
			nil,
			"larder: redis refused the credentials: check REDIS_USERNAME and REDIS_PASSWORD",
		},
		{
			"NotAllowed",
			environ{"REDIS_URL": open.URL(), "REDIS_USERNAME": "larder", "REDIS_PASSWORD": "hunter2"},
			nil,
			"larder: redis refused a command to this user: check its ACL (NOPERM)",
		},
		{
			"NoSuchDatabase",
			environ{"REDIS_URL": plain.URL(), "REDIS_DB": "99"},
			nil,
			"larder: REDIS_DB: redis at " + plain.Addr + " (standalone) has no database 99",
		},
		{
			"TLSToAPortWithoutIt",
			environ{"REDIS_URL": plain.URL(), "REDIS_TLS": "true", "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + plain.Addr + " (standalone) could not be reached over TLS within 1s: redis cannot be reached: the TLS handshake was not answered, as by a port without TLS; check that this is the TLS port",
		},
		{
			"NoTLSToAPortWithIt",
			environ{"REDIS_URL": "redis://" + secure.Addr, "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + secure.Addr + " (standalone) could not be reached within 1s: redis cannot be reached: ",
		},
		{
			"UnknownAuthority",
			environ{"REDIS_URL": "rediss://" + secure.Addr, "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + secure.Addr + " (standalone) could not be reached over TLS within 1s: redis cannot be reached: tls: failed to verify certificate: x509: certificate signed by unknown authority; check REDIS_TLS_CA_FILE",
		},
		{
			"AnotherName",
			environ{"REDIS_URL": "rediss://" + secure.Addr, "REDIS_TLS_CA_FILE": cert.CA, "REDIS_TLS_SERVER_NAME": "other", "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + secure.Addr + " (standalone) could not be reached over TLS within 1s: redis cannot be reached: tls: failed to verify certificate: x509: certificate is valid for localhost, not other; check REDIS_TLS_SERVER_NAME",
		},
		{
			"NoClientCertificate",
			environ{"REDIS_URL": "rediss://" + secret.Addr, "REDIS_TLS_CA_FILE": cert.CA, "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + secret.Addr + " (standalone) could not be reached over TLS within 1s: redis cannot be reached: it asks for a client certificate and none is set: ",
		},
		{
			"CertificateWithoutSAN",
			environ{"REDIS_URL": "rediss://" + strings.Replace(nameless.Addr, "127.0.0.1", "localhost", 1), "REDIS_TLS_CA_FILE": namelessCert.CA, "LARDER_STARTUP_TIMEOUT": "1s"},
			nil,
			"larder: redis at " + strings.Replace(nameless.Addr, "127.0.0.1", "localhost", 1) + " (standalone) could not be reached over TLS within 1s: redis cannot be reached: tls: failed to verify certificate: x509: certificate relies on legacy Common Name field, use SANs instead; check the certificate, which has no subject alternative name; REDIS_TLS_ALLOW_CN=true",
		},
		{
			"NoTracking",
			environ{"REDIS_URL": untracked.URL(), "REDIS_USERNAME": "larder", "REDIS_PASSWORD": "hunter2"},
			nil,
			"larder: redis refused a command to this user: allow client|tracking in its ACL, or set LARDER_NEAR_CACHE_BYTES=0",
		},
		{
			"NotACluster",
			environ{"REDIS_CLUSTER_NODES": open.Addr},
			nil,
			"larder: redis at " + open.Addr + " (cluster) cannot be used: redis runs as standalone",
		},
		{
			"NotASentinel",
			environ{"REDIS_SENTINEL_NODES": open.Addr, "REDIS_SENTINEL_MASTER": "m"},
			nil,
			"larder: redis at " + open.Addr + " (sentinel) cannot be used: the sentinel address is not a sentinel's",
		},
		{
			"NobodyThere",
			environ{"REDIS_URL": "redis://:hunter2@" + nobody, "LARDER_STARTUP_TIMEOUT": "300ms"},
			nil,
			"larder: redis at " + nobody + " (standalone) could not be reached within 300ms: ",
		},
		{
			"PortTaken",
			environ{"REDIS_URL": "embedded://"},
			[]string{"--grpc-addr", taken.Addr().String()},
			"larder: LARDER_GRPC_ADDR: listen tcp " + taken.Addr().String(),
		},
		{
			"AdminPortTaken",
			environ{"REDIS_URL": "embedded://"},
			[]string{"--admin-addr", taken.Addr().String()},
			"larder: LARDER_ADMIN_ADDR: listen tcp " + taken.Addr().String(),
		},
		{
			"UnreadableFile",
			environ{"REDIS_URL": "rediss://h", "REDIS_TLS_CA_FILE": cert.CA + ".gone"},
			nil,
			"larder: REDIS_TLS_CA_FILE: open " + cert.CA + ".gone: no such file or directory\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			test.env["LARDER_LOG_LEVEL"] = "debug"
			p := serve(t, test.env, test.args...)
			code, stderr := p.exit(t)
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, test.want) {
				t.Errorf("exit code %d, standard error %q; want 1 and one line that begins with %q", code, stderr, test.want)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("the process ended after %v, want at most 15s: it must not wait for Redis", took)
			}
			if all := stderr + p.log.String(); strings.Contains(all, "hunter2") {
				t.Errorf("the output contains the password, want it nowhere:\n%s", all)
			}
		})
	}
}

// While the server waits for a Redis that is not there, it logs the reason once and not for every attempt.
func TestTheLogTellsThatRedisIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	nobody := lardertest.ClosedAddr(t)
	p := serve(t, environ{"REDIS_URL": "redis://:hunter2@" + nobody, "LARDER_STARTUP_TIMEOUT": "2s"})
	record := p.log.Await(t, "connecting to redis failed")
	if record["level"] != "WARN" || !strings.Contains(fmt.Sprint(record["error"]), "connection refused") {
		t.Errorf("logged %v, want the level WARN and the error connection refused", record)
	}
	p.exit(t)
	if all := p.log.String(); strings.Count(all, "connecting to redis failed") != 1 || strings.Contains(all, "hunter2") {
		t.Errorf("want one record of the failure and no password in the log:\n%s", all)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	plain := serve(t, environ{"REDIS_URL": "embedded://"})
	debug := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_PPROF": "true"})
	plain.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	if code, body := plain.get(t, "/health"); code != http.StatusOK || !strings.Contains(body, `"ok"`) {
		t.Errorf("/health = %d %s, want 200 and the status ok", code, body)
	}
	if code, _ := plain.get(t, "/metrics"); code != http.StatusOK {
		t.Errorf("/metrics = %d, want 200", code)
	}
	if code, _ := plain.get(t, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/ by default = %d, want 404", code)
	}
	if code, _ := debug.get(t, "/debug/pprof/"); code != http.StatusOK {
		t.Errorf("/debug/pprof/ with LARDER_PPROF = %d, want 200", code)
	}
}

func TestATerminalIsKnown(t *testing.T) {
	t.Parallel()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatalf("CreateTemp: %v", err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(io.Discard) {
		t.Errorf("isTerminal = %v for a file and %v for another writer, want false for both", isTerminal(file), isTerminal(io.Discard))
	}
}

// Every duration in the JSON log is a number of milliseconds, under a name that says so.
func TestDurationsInTheLogHaveOneUnit(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_SLOW_CALL": "1ns"})
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	conn := p.dial(t)
	for range 3 {
		if _, err := cachev1.NewCacheServiceClient(conn).Get(t.Context(), &cachev1.GetRequest{Key: "k"}); err != nil {
			t.Fatalf("Get: %v", err)
		}
	}
	p.stop()
	if code, stderr := p.exit(t); code != 0 {
		t.Fatalf("exit code %d, %q; want 0", code, stderr)
	}
	for message, names := range map[string][]string{
		"connecting to redis": {"timeout_ms"}, "connected to redis": {"took_ms"}, "stopping": {"drain_delay_ms", "stop_timeout_ms"},
		"slow call": {"duration_ms", "redis_time_ms"}, "slow redis command": {"duration_ms"}, "slow calls": {"longest_ms", "within_ms"},
	} {
		record := p.log.Await(t, message)
		for _, name := range names {
			if ms, ok := record[name].(float64); !ok || ms < 0 || ms > 1e6 {
				t.Errorf("%s = %v, want %s to be a number of milliseconds", message, record, name)
			}
		}
	}
	if other := regexp.MustCompile(`"[a-z_]+":"[0-9.]+(ns|µs|ms|s|m|h)"`).FindString(p.log.String()); other != "" {
		t.Errorf("the log has %s, want its durations to be numbers", other)
	}
}
