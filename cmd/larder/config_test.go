package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/ratelimit"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
)

// environ is an environment for one test.
type environ map[string]string

// settings parses a command line of serve.
func settings(t *testing.T, env environ, args ...string) *Config {
	t.Helper()
	chosen, err := parse(append([]string{"serve"}, args...), environment(env), io.Discard)
	if err != nil {
		t.Fatalf("parse serve %q: %v", args, err)
	}
	return &chosen.(*serveCommand).Config
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	stored, serving, err := settings(t, nil).Options()
	if err != nil {
		t.Fatalf("Options: %v", err)
	}
	wantRedis := store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"localhost:6379"}, CommandTimeout: 2 * time.Second, NearCacheBytes: 64 << 20, NearCacheTTL: 5 * time.Second}, Cache: cache.Options{CompressAbove: 16 << 10, MaxTTL: 720 * time.Hour}, Sessions: session.Options{SweepInterval: 10 * time.Second}, RateLimits: ratelimit.Options{Replicas: 1}}
	if diff := cmp.Diff(wantRedis, stored); diff != "" {
		t.Errorf("store options (-want +got):\n%s", diff)
	}
	wantServing := service.Options{
		Version: release(),
		Limits: policy.Limits{
			MaxValueBytes:          1 << 20,
			DefaultTTL:             time.Hour,
			MaxTTL:                 720 * time.Hour,
			SessionIdleTimeout:     30 * time.Minute,
			SessionAbsoluteTimeout: 12 * time.Hour,
			SessionRotationGrace:   30 * time.Second,
			SessionCacheFor:        5 * time.Second,
			SessionLimitPolicy:     session.EvictLeastRecentlyUsed,
		},
		SlowCall:             100 * time.Millisecond,
		MaxDeadline:          30 * time.Second,
		MaxInFlight:          4096,
		MaxInFlightBytes:     64 << 20,
		MaxConcurrentStreams: 1000,
		DrainDelay:           5 * time.Second,
		StopTimeout:          20 * time.Second,
		Reflection:           true,
	}
	if diff := cmp.Diff(wantServing, serving); diff != "" {
		t.Errorf("service options (-want +got):\n%s", diff)
	}
}

func TestEverySettingReachesItsOption(t *testing.T) {
	t.Parallel()
	stored, serving, err := settings(t, environ{
		"REDIS_URL": "redis://cache:1", "LARDER_REDIS_TIMEOUT": "1s", "LARDER_NEAR_CACHE_BYTES": "2", "LARDER_NEAR_CACHE_TTL": "3s",
		"LARDER_MAX_VALUE_BYTES": "4", "LARDER_DEFAULT_TTL": "5s", "LARDER_MAX_TTL": "6s", "LARDER_PLAIN_NAMESPACE": "seven",
		"LARDER_SESSION_IDLE_TIMEOUT": "8s", "LARDER_SESSION_ABSOLUTE_TIMEOUT": "9s", "LARDER_MAX_DEADLINE": "10s",
		"LARDER_MAX_IN_FLIGHT": "11", "LARDER_MAX_IN_FLIGHT_BYTES": "11", "LARDER_MAX_CONCURRENT_STREAMS": "12", "LARDER_DRAIN_DELAY": "13s", "LARDER_STOP_TIMEOUT": "14s",
		"LARDER_SLOW_CALL": "15s", "LARDER_COMPRESS_ABOVE": "16", "LARDER_REFLECTION": "false", "LARDER_SESSION_ROTATION_GRACE": "17s",
		"LARDER_SESSION_CACHE_FOR":    "0",
		"LARDER_SESSIONS_PER_SUBJECT": "17", "LARDER_SESSIONS_PER_CLASS": "18", "LARDER_SESSION_LIMIT_POLICY": "reject",
		"LARDER_SESSION_SWEEP_INTERVAL": "17s", "LARDER_REPLICAS": "19",
	}).Options()
	if err != nil {
		t.Fatalf("Options: %v", err)
	}
	wantRedis := store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:1"}, CommandTimeout: time.Second, NearCacheBytes: 2, NearCacheTTL: 3 * time.Second}, Cache: cache.Options{PlainNamespace: "seven", CompressAbove: 16, MaxTTL: 6 * time.Second}, Sessions: session.Options{SweepInterval: 17 * time.Second}, RateLimits: ratelimit.Options{Replicas: 19}}
	if diff := cmp.Diff(wantRedis, stored); diff != "" {
		t.Errorf("store options (-want +got):\n%s", diff)
	}
	wantServing := service.Options{
		Version: release(),
		Limits: policy.Limits{
			MaxValueBytes: 4, DefaultTTL: 5 * time.Second, MaxTTL: 6 * time.Second, PlainNamespace: "seven",
			SessionIdleTimeout: 8 * time.Second, SessionAbsoluteTimeout: 9 * time.Second,
			SessionRotationGrace: 17 * time.Second, SessionCacheFor: -1,
			SessionsPerSubject: 17, SessionsPerClass: 18, SessionLimitPolicy: session.Reject,
		},
		MaxDeadline: 10 * time.Second, MaxInFlight: 11, MaxInFlightBytes: 11, MaxConcurrentStreams: 12,
		DrainDelay: 13 * time.Second, StopTimeout: 14 * time.Second, SlowCall: 15 * time.Second,
	}
	if diff := cmp.Diff(wantServing, serving); diff != "" {
		t.Errorf("service options (-want +got):\n%s", diff)
	}
}

func TestRedisSettings(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("from file\n"), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	for _, test := range []struct {
		name string
		env  environ
		want store.Options
	}{
		{
			"URL",
			environ{"REDIS_URL": "redis://ann:p%40ss@cache:7000/3"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:7000"}, Username: "ann", Password: "p@ss", DB: 3}},
		},
		{
			"PasswordAloneInURL",
			environ{"REDIS_URL": "redis://:pass@cache"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:6379"}, Password: "pass"}},
		},
		{
			"SettingsOverrideURL",
			environ{"REDIS_URL": "redis://ann:pass@cache:7000/3", "REDIS_USERNAME": "bob", "REDIS_PASSWORD": "word", "REDIS_DB": "0"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:7000"}, Username: "bob", Password: "word"}},
		},
		{
			"PasswordFileOverridesURL",
			environ{"REDIS_URL": "redis://:pass@cache", "REDIS_PASSWORD_FILE": password},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:6379"}, Password: "from file", PasswordFile: password}},
		},
		{
			"Valkey",
			environ{"REDIS_URL": "valkey://ann:pass@cache?db=4"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"cache:6379"}, Username: "ann", Password: "pass", DB: 4}},
		},
		{
			"UnixSocket",
			environ{"REDIS_URL": "unix:///run/redis.sock?db=3", "REDIS_PASSWORD": "pass"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"/run/redis.sock"}, Password: "pass", DB: 3}},
		},
		{
			"AddressMap",
			environ{"REDIS_CLUSTER_NODES": "a:1", "REDIS_ADDRESS_MAP": "10.0.0.1:6379=h:1, 10.0.0.2=h2,[::1]:2=h:3"},
			store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{"a:1"}, AddressMap: map[string]string{"10.0.0.1:6379": "h:1", "10.0.0.2": "h2", "[::1]:2": "h:3"}}},
		},
		{
			"IPv6",
			environ{"REDIS_URL": "redis://[::1]:7000"},
			store.Options{Redis: redis.Options{Mode: redis.Standalone, Addrs: []string{"[::1]:7000"}}},
		},
		{
			"Embedded",
			environ{"REDIS_URL": "embedded://"},
			store.Options{Redis: redis.Options{Mode: redis.Embedded}},
		},
		{
			"Cluster",
			environ{"REDIS_CLUSTER_NODES": "a:1, b,[::1]:2", "REDIS_PASSWORD": "pass"},
			store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{"a:1", "b:6379", "[::1]:2"}, Password: "pass"}},
		},
		{
			"Sentinel",
			environ{"REDIS_SENTINEL_NODES": "a,b:1", "REDIS_SENTINEL_MASTER": "main", "REDIS_SENTINEL_USERNAME": "eve", "REDIS_SENTINEL_PASSWORD": "word", "REDIS_PASSWORD": "pass", "REDIS_DB": "2"},
			store.Options{Redis: redis.Options{Mode: redis.Sentinel, Addrs: []string{"a:26379", "b:1"}, SentinelMaster: "main", SentinelUsername: "eve", SentinelPassword: "word", Password: "pass", DB: 2}},
		},
		{
			"EmptyVariablesAreUnset",
			environ{"REDIS_URL": "", "REDIS_DB": "", "REDIS_TLS": "", "LARDER_DEFAULT_TTL": "", "REDIS_CLUSTER_NODES": "a:1"},
			store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: []string{"a:1"}}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, _, err := settings(t, test.env).Options()
			if err != nil {
				t.Fatalf("Options: %v", err)
			}
			ignored := cmpopts.IgnoreFields(redis.Options{}, "CommandTimeout", "NearCacheBytes", "NearCacheTTL")
			if diff := cmp.Diff(test.want.Redis, got.Redis, ignored); diff != "" {
				t.Errorf("store options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlagsGoBeforeTheEnvironment(t *testing.T) {
	t.Parallel()
	env := environ{"LARDER_DEFAULT_TTL": "2h", "LARDER_REFLECTION": "true", "REDIS_DB": "not read"}
	_, serving, err := settings(t, env, "--default-ttl=3h", "--no-reflection", "--redis-db=1").Options()
	if err != nil {
		t.Fatalf("Options: %v", err)
	}
	if serving.Limits.DefaultTTL != 3*time.Hour || serving.Reflection {
		t.Errorf("DefaultTTL = %v and Reflection = %t, want 3h0m0s and false", serving.Limits.DefaultTTL, serving.Reflection)
	}
}

// Each line of the error names one setting and one fault.
func TestFaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	missing := filepath.Join(dir, "missing")
	for _, test := range []struct {
		name string
		env  environ
		want []string // the beginnings of the lines
	}{
		{
			"BothNodeLists",
			environ{"REDIS_CLUSTER_NODES": "a", "REDIS_SENTINEL_NODES": "b", "REDIS_SENTINEL_MASTER": "m"},
			[]string{"REDIS_CLUSTER_NODES and REDIS_SENTINEL_NODES: both are set"},
		},
		{
			"URLAndNodes",
			environ{"REDIS_URL": "redis://localhost:6379", "REDIS_CLUSTER_NODES": "a"},
			[]string{"REDIS_URL: is set together with a list of nodes"},
		},
		{
			"DatabaseOfCluster",
			environ{"REDIS_CLUSTER_NODES": "a", "REDIS_DB": "1"},
			[]string{"REDIS_DB: must be 0 with REDIS_CLUSTER_NODES"},
		},
		{"NegativeDatabase", environ{"REDIS_DB": "-1"}, []string{"REDIS_DB: must not be below zero"}},
		{"SentinelWithoutMaster", environ{"REDIS_SENTINEL_NODES": "a"}, []string{"REDIS_SENTINEL_MASTER: is required"}},
		{"MasterWithoutSentinel", environ{"REDIS_SENTINEL_MASTER": "m"}, []string{"REDIS_SENTINEL_MASTER: is set without REDIS_SENTINEL_NODES"}},
		{"URLInNodes", environ{"REDIS_CLUSTER_NODES": "redis://:hunter2@a:1,b"}, []string{"REDIS_CLUSTER_NODES: expected host or host:port"}},
		{"PortOutOfRange", environ{"REDIS_URL": "redis://:hunter2@h:65536"}, []string{"REDIS_URL: expected host or host:port"}},
		{"UsernameWithoutPassword", environ{"REDIS_URL": "redis://ann@h"}, []string{"REDIS_USERNAME: is set without REDIS_PASSWORD"}},
		{"PasswordAndFile", environ{"REDIS_PASSWORD": "hunter2", "REDIS_PASSWORD_FILE": empty}, []string{"REDIS_PASSWORD and REDIS_PASSWORD_FILE: both are set"}},
		{"NoPasswordFile", environ{"REDIS_PASSWORD_FILE": missing}, []string{"REDIS_PASSWORD_FILE: open " + missing}},
		{"EmptyPasswordFile", environ{"REDIS_PASSWORD_FILE": empty}, []string{"REDIS_PASSWORD_FILE: " + empty + " is empty"}},
		{
			"NoSentinelPasswordFile",
			environ{"REDIS_SENTINEL_NODES": "a", "REDIS_SENTINEL_MASTER": "m", "REDIS_SENTINEL_PASSWORD_FILE": missing},
			[]string{"REDIS_SENTINEL_PASSWORD_FILE: open " + missing},
		},
		{"NoCAFile", environ{"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": missing}, []string{"REDIS_TLS_CA_FILE: open " + missing}},
		{"NoCertificateInCAFile", environ{"REDIS_TLS": "true", "REDIS_TLS_CA_FILE": empty}, []string{"REDIS_TLS_CA_FILE: " + empty + " holds no PEM certificate"}},
		{"CertWithoutKey", environ{"REDIS_TLS": "true", "REDIS_TLS_CERT_FILE": empty}, []string{"REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: set both or neither"}},
		{"NoCertFile", environ{"REDIS_TLS": "true", "REDIS_TLS_CERT_FILE": missing, "REDIS_TLS_KEY_FILE": missing}, []string{"REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE: open " + missing}},
		{"CAWithoutTLS", environ{"REDIS_TLS_CA_FILE": missing}, []string{"REDIS_TLS_CA_FILE: is set without TLS"}},
		{"AddressMap", environ{"REDIS_SENTINEL_NODES": "a", "REDIS_SENTINEL_MASTER": "m", "REDIS_ADDRESS_MAP": "10.0.0.1"}, []string{"REDIS_ADDRESS_MAP: expected pairs"}},
		{"AddressMapTwice", environ{"REDIS_CLUSTER_NODES": "a", "REDIS_ADDRESS_MAP": "b=c,b=d"}, []string{"REDIS_ADDRESS_MAP: b occurs twice"}},
		{"AddressMapOfOneServer", environ{"REDIS_ADDRESS_MAP": "b=c"}, []string{"REDIS_ADDRESS_MAP: is set without"}},
		{"SocketWithTLS", environ{"REDIS_URL": "unix:///s", "REDIS_TLS": "true"}, []string{"REDIS_TLS: is true and REDIS_URL is a Unix socket"}},
		{"CommonNameWithoutTLS", environ{"REDIS_TLS_ALLOW_CN": "true"}, []string{"REDIS_TLS_ALLOW_CN: is set without TLS"}},
		{"Scheme", environ{"REDIS_URL": "http://:hunter2@h"}, []string{"REDIS_URL: must begin with redis://, rediss://, valkey://"}},
		{"NoHost", environ{"REDIS_URL": "valkey:///3"}, []string{"REDIS_URL: has no host"}},
		{"Query", environ{"REDIS_URL": "redis://h?password=hunter2"}, []string{"REDIS_URL: takes ?db=NUMBER and nothing else"}},
		{"DatabaseTwice", environ{"REDIS_URL": "redis://h/1?db=2"}, []string{"REDIS_URL: names the database twice"}},
		{"DatabaseNotANumber", environ{"REDIS_URL": "redis://h?db=one"}, []string{"REDIS_URL: the database must be a number"}},
		{"TLSTurnedOffInRediss", environ{"REDIS_URL": "rediss://h", "REDIS_TLS": "false"}, []string{"REDIS_TLS: is false and REDIS_URL is rediss://"}},
		{"DefaultAboveMaxTTL", environ{"LARDER_DEFAULT_TTL": "2h", "LARDER_MAX_TTL": "1h"}, []string{"LARDER_DEFAULT_TTL: must not be above LARDER_MAX_TTL, which is 1h"}},
		{"SweepTooSeldom", environ{"LARDER_SESSION_SWEEP_INTERVAL": "11m"}, []string{"LARDER_SESSION_SWEEP_INTERVAL: must be between 1s and 10m"}},
		{"IdleAboveAbsolute", environ{"LARDER_SESSION_IDLE_TIMEOUT": "2h", "LARDER_SESSION_ABSOLUTE_TIMEOUT": "1h"}, []string{"LARDER_SESSION_IDLE_TIMEOUT: must not be above LARDER_SESSION_ABSOLUTE_TIMEOUT, which is 1h"}},
		{"RotationGrace", environ{"LARDER_SESSION_ROTATION_GRACE": "301s"}, []string{"LARDER_SESSION_ROTATION_GRACE: must be between"}},
		{"NegativeRotationGrace", environ{"LARDER_SESSION_ROTATION_GRACE": "-1s"}, []string{"LARDER_SESSION_ROTATION_GRACE: must be between"}},
		{"NegativeCacheFor", environ{"LARDER_SESSION_CACHE_FOR": "-1s"}, []string{"LARDER_SESSION_CACHE_FOR: must not"}},
		{"SessionLimits", environ{"LARDER_SESSIONS_PER_SUBJECT": "-1", "LARDER_SESSIONS_PER_CLASS": "-1"}, []string{"LARDER_SESSIONS_PER_SUBJECT: must not", "LARDER_SESSIONS_PER_CLASS: must not"}},
		{"SessionLimitPolicy", environ{"LARDER_SESSION_LIMIT_POLICY": "EVICT"}, []string{"LARDER_SESSION_LIMIT_POLICY: must be"}},
		{"ValueSize", environ{"LARDER_MAX_VALUE_BYTES": "513MiB"}, []string{"LARDER_MAX_VALUE_BYTES: must be between"}},
		{"HugeSize", environ{"LARDER_NEAR_CACHE_BYTES": "9EiB"}, []string{"LARDER_NEAR_CACHE_BYTES: expected a size"}},
		{"NegativeSize", environ{"LARDER_NEAR_CACHE_BYTES": "-1"}, []string{"LARDER_NEAR_CACHE_BYTES: expected a size"}},
		{"Namespace", environ{"LARDER_PLAIN_NAMESPACE": "Users"}, []string{"LARDER_PLAIN_NAMESPACE: must be"}},
		{"Address", environ{"LARDER_GRPC_ADDR": "50051", "LARDER_ADMIN_ADDR": "localhost:http"}, []string{"LARDER_GRPC_ADDR: must be", "LARDER_ADMIN_ADDR: must be"}},
		{"LogFormat", environ{"LARDER_LOG_FORMAT": "xml"}, []string{"LARDER_LOG_FORMAT: must be json or text"}},
		{
			"AllAtOnce",
			environ{"REDIS_DB": "two", "LARDER_DEFAULT_TTL": "soon", "LARDER_LOG_LEVEL": "loud", "LARDER_MAX_IN_FLIGHT": "0", "REDIS_TLS_KEY_FILE": empty},
			[]string{"REDIS_DB: expected", "LARDER_DEFAULT_TTL: expected", "LARDER_LOG_LEVEL: must be debug, info, warn or error", "REDIS_TLS_KEY_FILE: is set without TLS", "LARDER_MAX_IN_FLIGHT: must be above zero"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := settings(t, test.env).Options()
			if err == nil {
				t.Fatalf("Options = nil, want faults that begin with %q", test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Options = %v, want no password in it", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if !slices.EqualFunc(lines, test.want, strings.HasPrefix) {
				t.Errorf("Options = %d lines\n%v\nwant lines that begin with %q", len(lines), err, test.want)
			}
		})
	}
}

// A number that is too small is refused: it must not turn a limit off or invert it.
func TestNumbersBelowTheirLeast(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"LARDER_REDIS_TIMEOUT", "LARDER_NEAR_CACHE_TTL", "LARDER_DEFAULT_TTL", "LARDER_MAX_TTL", "LARDER_SESSION_IDLE_TIMEOUT",
		"LARDER_SESSION_ABSOLUTE_TIMEOUT", "LARDER_MAX_DEADLINE", "LARDER_STARTUP_TIMEOUT", "LARDER_STOP_TIMEOUT", "LARDER_SLOW_CALL",
		"LARDER_SESSION_SWEEP_INTERVAL",
	} {
		if _, _, err := settings(t, environ{name: "0s"}).Options(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=0s: %v, want a fault that names it", name, err)
		}
	}
	for _, name := range []string{"LARDER_MAX_IN_FLIGHT", "LARDER_MAX_CONCURRENT_STREAMS", "LARDER_MAX_VALUE_BYTES"} {
		if _, _, err := settings(t, environ{name: "0"}).Options(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=0: %v, want a fault that names it", name, err)
		}
	}
	for name, value := range map[string]string{"LARDER_DRAIN_DELAY": "0s", "LARDER_NEAR_CACHE_BYTES": "0"} {
		if _, _, err := settings(t, environ{name: value}).Options(); err != nil {
			t.Errorf("%s=%s: %v, want no fault", name, value, err)
		}
	}
}

// A password with a character that should have been escaped can end up in any part of a URL, and so in any error.
func TestUnreadableURLIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"redis://:hun/ter2@h", "redis://:hun#ter2@h", "redis://:hun?ter2@h", "redis://:hun%ter2@h", "redis://:hun ter2@h:1", "redis://hunter2",
		"hunter2", "//:hunter2@h", "http://:hunter2@h", "redis://:hunter2@h/one", "redis://:hunter2@h/-1", "redis://:hunter2@", "embedded://:hunter2@h", "redis://[::hunter2",
		"redis://h?password=hunter2", "redis://h#hunter2",
	} {
		_, _, err := settings(t, environ{"REDIS_URL": url}).Options()
		if url == "redis://hunter2" {
			if err != nil {
				t.Errorf("%s: %v, want no fault", url, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "REDIS_URL: ") || strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line that begins with REDIS_URL and repeats nothing of it", url, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	files := redistest.GenerateTLS(t)
	for _, test := range []struct {
		name       string
		env        environ
		serverName string
	}{
		{"Rediss", environ{"REDIS_URL": "rediss://cache:7000"}, "cache"},
		{"Setting", environ{"REDIS_URL": "redis://cache", "REDIS_TLS": "true"}, "cache"},
		{"ServerName", environ{"REDIS_URL": "rediss://10.0.0.1", "REDIS_TLS_SERVER_NAME": "cache.example"}, "cache.example"},
		{"ClusterNodesHaveTheirOwnNames", environ{"REDIS_CLUSTER_NODES": "a,b", "REDIS_TLS": "yes"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			maps.Copy(test.env, environ{"REDIS_TLS_CA_FILE": files.CA, "REDIS_TLS_CERT_FILE": files.ClientCert, "REDIS_TLS_KEY_FILE": files.ClientKey})
			o, _, err := settings(t, test.env).Options()
			if err != nil {
				t.Fatalf("Options: %v", err)
			}
			if o.Redis.TLS == nil || o.Redis.TLS.ServerName != test.serverName || o.Redis.TLS.MinVersion < 0x0303 || o.Redis.TLS.RootCAs == nil || len(o.Redis.TLS.Certificates) != 1 || o.Redis.TLS.InsecureSkipVerify {
				t.Errorf("TLS = %+v, want %q, TLS 1.2 or later, the authority and the certificate", o.Redis.TLS, test.serverName)
			}
		})
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	config := settings(t, environ{"REDIS_URL": "redis://ann:hunter2@h/1", "REDIS_PASSWORD": "hunter2", "REDIS_SENTINEL_PASSWORD": "hunter2"})
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", config.Redis)
		fmt.Fprintf(&shown, verb+verb+"\n", config.Redis.Password, config.Redis.URL)
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatalf("Marshal: %v", err)
	}
	shown.Write(text)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("", "password", config.Redis.Password, "url", config.Redis.URL, "config", config)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("", "password", config.Redis.Password, "url", config.Redis.URL, "config", config)
	if hidden := regexp.MustCompile(`hunter2|(?i:68756e74657232)`).FindString(shown.String()); hidden != "" {
		t.Errorf("%q is shown, want no secret in\n%s", hidden, shown.String())
	}
	if !strings.Contains(shown.String(), "[redacted]") || !strings.Contains(shown.String(), "redis://h/1") {
		t.Errorf("shown\n%s\nwant [redacted] and redis://h/1 in it", shown.String())
	}
}
