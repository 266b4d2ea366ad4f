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

// What a newcomer is told to type has to work as it is printed.
func TestEmbeddedStoreShowsCallsThatWork(t *testing.T) {
	t.Parallel()
	p := serve(t, environ{"REDIS_URL": "embedded://"})
	commands, _ := p.log.Await(t, "try")["commands"].([]any)
	if len(commands) < 4 {
		t.Fatalf("got %q", commands)
	}
	conn := p.dial(t)
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	form := regexp.MustCompile(`^grpcurl -plaintext -d '(\{.*\})' (\S+) (\S+)/(\S+)$`)
	for i, command := range commands {
		parts := form.FindStringSubmatch(command.(string))
		if parts == nil {
			if want := "grpcurl -plaintext " + p.addr(t, "grpc") + " list"; i != 0 || command != want {
				t.Errorf("got %q, want %q", command, want)
			}
			continue
		}
		if parts[2] != p.addr(t, "grpc") {
			t.Errorf("%s: not where it listens", command)
		}
		if reply := invoke(t, conn, parts[3], parts[4], parts[1]); parts[4] == "Get" && !strings.Contains(reply, "aGVsbG8=") {
			t.Errorf("%s: got %s, not what was set", command, reply)
		}
	}
	p.stop()
	if code, stderr := p.exit(t); code != 0 || stderr != "" {
		t.Errorf("exit %d: %s", code, stderr)
	}
	p.log.Await(t, "stopped")
}

// invoke makes one call of which only names are known, as grpcurl does.
func invoke(t *testing.T, conn *grpc.ClientConn, service, method, request string) (reply string) {
	t.Helper()
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		t.Fatal(err)
	}
	types := found.(protoreflect.MethodDescriptor)
	in, out := dynamicpb.NewMessage(types.Input()), dynamicpb.NewMessage(types.Output())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	if err := conn.Invoke(t.Context(), "/"+service+"/"+method, in, out); err != nil {
		t.Fatalf("%s %s: %v", method, request, err)
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
			t.Errorf("%s: %s", name, &p.log)
		}
	}
	p := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_LOG_FORMAT": "text"})
	p.log.AwaitLine(t, "CreateSession")
	if line := regexp.MustCompile(`(?m)^  grpcurl -plaintext -d '\{"key": "greeting"\}' 127\.0\.0\.1:\d+ larder\.cache\.v1\.CacheService/Get$`); !line.MatchString(p.log.String()) {
		t.Errorf("no line to copy:\n%s", &p.log)
	}
}

func TestServesBeforeRedisIsThere(t *testing.T) {
	t.Parallel()
	addr := lardertest.ClosedAddr(t)
	p := serve(t, environ{"REDIS_URL": "redis://" + addr, "LARDER_LOG_LEVEL": "debug"})
	p.awaitHealth(t, "live", healthv1.HealthCheckResponse_SERVING)
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_NOT_SERVING)
	if code, _, stderr := call(t, nil, "probe", "--service=ready", "--addr", p.addr(t, "grpc")); code != 1 {
		t.Errorf("ready: exit %d: %s", code, stderr)
	}
	p.log.AwaitLine(t, "connection refused")
	_, port, _ := net.SplitHostPort(addr)
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t, redistest.Options{Port: number})
	record := p.log.Await(t, "connected to redis")
	if record["version"] != server.Version() || record["mode"] != "standalone" {
		t.Errorf("got %v", record)
	}
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	_, metrics := p.get(t, "/metrics")
	for _, want := range []string{`version="` + release() + `"`, "larder_redis_up 1", `events_total{event="dial_failed"}`, `events_total{event="dialed"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in:\n%s", want, metrics)
		}
	}
}

// Each topology is named by a setting, and every one is served alike.
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
				t.Errorf("connected as %v", mode)
			}
			p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
			cache := cachev1.NewCacheServiceClient(p.dial(t))
			if _, err := cache.Set(t.Context(), &cachev1.SetRequest{Key: "k", Value: []byte("v")}); err != nil {
				t.Error(err)
			}
			p.stop()
			if code, stderr := p.exit(t); code != 0 || stderr != "" {
				t.Errorf("exit %d: %s", code, stderr)
			}
			if strings.Contains(p.log.String(), "hunter2") {
				t.Error("the password is in the log")
			}
		})
	}
}

// What no waiting will mend ends the process at once, with one line that says what to check.
func TestOperatorsMistakesEndTheProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Password: "right"})
	open := redistest.Start(t, redistest.Options{ACL: []string{"user larder on >hunter2 ~* +@all -time -info"}})
	cert := redistest.GenerateTLS(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
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
			[]string{"--drain-delay=1h"}, // nobody was told to come here, so nobody is waited for
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
				t.Errorf("exit %d: %swant one line: %s", code, stderr, test.want)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("took %v, about as long as waiting for Redis does", took)
			}
			if all := stderr + p.log.String(); strings.Contains(all, "hunter2") {
				t.Errorf("the password is shown:\n%s", all)
			}
		})
	}
}

// While the server waits for a Redis that is not there, its log says why, and not with every attempt.
func TestTheLogTellsThatRedisIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	nobody := lardertest.ClosedAddr(t)
	p := serve(t, environ{"REDIS_URL": "redis://:hunter2@" + nobody, "LARDER_STARTUP_TIMEOUT": "2s"})
	record := p.log.Await(t, "connecting to redis failed")
	if record["level"] != "WARN" || !strings.Contains(fmt.Sprint(record["error"]), "connection refused") {
		t.Errorf("logged %v", record)
	}
	p.exit(t)
	if all := p.log.String(); strings.Count(all, "connecting to redis failed") != 1 || strings.Contains(all, "hunter2") {
		t.Errorf("logged:\n%s", all)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	plain := serve(t, environ{"REDIS_URL": "embedded://"})
	debug := serve(t, environ{"REDIS_URL": "embedded://", "LARDER_PPROF": "true"})
	plain.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	if code, body := plain.get(t, "/health"); code != http.StatusOK || !strings.Contains(body, `"ok"`) {
		t.Errorf("/health: %d %s", code, body)
	}
	if code, _ := plain.get(t, "/metrics"); code != http.StatusOK {
		t.Errorf("/metrics: %d", code)
	}
	if code, _ := plain.get(t, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/ without being asked for: %d", code)
	}
	if code, _ := debug.get(t, "/debug/pprof/"); code != http.StatusOK {
		t.Errorf("/debug/pprof/: %d", code)
	}
}

func TestATerminalIsKnown(t *testing.T) {
	t.Parallel()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(io.Discard) {
		t.Error("a file passes for a terminal")
	}
}
