package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A variable that is no setting ends the start, because whoever has set it believes that it does something.
func TestUnknownVariablesEndTheStart(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"LARDER_GRPC_ADRR":       "LARDER_GRPC_ADRR: is not a setting; did you mean LARDER_GRPC_ADDR?",
		"LARDER_MAX_VALUE_SIZE":  "LARDER_MAX_VALUE_SIZE: is not a setting; did you mean LARDER_MAX_VALUE_BYTES?",
		"LARDER_REDIS_URL":       "LARDER_REDIS_URL: is not a setting; did you mean REDIS_URL?",
		"LARDER_LOGLEVEL":        "LARDER_LOGLEVEL: is not a setting; did you mean LARDER_LOG_LEVEL?",
		"LARDER_SOMETHING":       "LARDER_SOMETHING: is not a setting; larder serve --help lists them",
		"LARDER_GRPC_PORT":       "LARDER_GRPC_PORT: is not a setting",
		"LARDER_PORT":            "LARDER_PORT: is not a setting",
		"LARDER_SERVICE_HOST":    "LARDER_SERVICE_HOST: is not a setting",
		"LARDER_KEYRING":         "LARDER_KEYRING: is not a setting",
		"LARDER_redis_strict":    "LARDER_redis_strict: is not a setting",
		"LARDER_PASSWORD_SECRET": "LARDER_PASSWORD_SECRET: is not a setting",
	} {
		code, _, stderr := call(t, environ{name: "hunter2", "REDIS_URL": "embedded://"}, "serve", "--check")
		if code != 1 || !strings.HasPrefix(stderr, "larder: "+want) || strings.Contains(stderr, "hunter2") {
			t.Errorf("serve with %s: exit code %d, standard error %q; want 1 and %q", name, code, stderr, want)
		}
	}
	_, _, err := settings(t, environ{"LARDER_B": "1", "LARDER_A": "1", "LARDER_MAX_TTL": "1d"}).Options()
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("Options = %v, want three faults, one a line", err)
	}
}

func TestVariablesOfOthers(t *testing.T) {
	t.Parallel()
	// Kubernetes makes these for Services that are named larder and larder-admin, unless enableServiceLinks is false.
	env := environ{
		"REDIS_URL": "embedded://", "LARDER_EMPTY": "", "LARDERS_X": "1", "PATH": "/bin",
		"LARDER_SERVICE_HOST": "10.0.0.1", "LARDER_SERVICE_PORT": "50051", "LARDER_SERVICE_PORT_GRPC": "50051", "LARDER_PORT": "tcp://10.0.0.1:50051",
		"LARDER_PORT_50051_TCP": "tcp://10.0.0.1:50051", "LARDER_PORT_50051_TCP_PROTO": "tcp", "LARDER_PORT_50051_TCP_PORT": "50051", "LARDER_PORT_50051_TCP_ADDR": "10.0.0.1",
		"LARDER_ADMIN_SERVICE_HOST": "10.0.0.2", "LARDER_ADMIN_SERVICE_PORT": "9090", "LARDER_ADMIN_PORT": "tcp://10.0.0.2:9090",
		"REDIS_PORT": "tcp://10.0.0.3:6379", "REDIS_SERVICE_HOST": "10.0.0.3", "REDIS_SERVICE_PORT": "6379", "REDIS_HOST": "h",
	}
	code, _, stderr := call(t, env, "serve", "--check")
	if code != 0 || stderr != "" {
		t.Errorf("serve --check = %d, %q; want 0 and nothing on standard error", code, stderr)
	}
	if hints := settings(t, env).hints; len(hints) > 0 {
		t.Errorf("hints = %q, want none", hints)
	}
	// Redis has other clients, whose variables are no faults.
	config := settings(t, environ{"REDIS_URL": "embedded://", "REDIS_PASSWROD": "hunter2", "REDIS_TIMEOUT": "1s"})
	if _, _, err := config.Options(); err != nil {
		t.Errorf("Options = %v, want nil", err)
	}
	want := []string{"REDIS_PASSWROD is not a setting of Larder; did you mean REDIS_PASSWORD?", "REDIS_TIMEOUT is not a setting of Larder; did you mean LARDER_REDIS_TIMEOUT?"}
	if diff := cmp.Diff(want, config.hints); diff != "" {
		t.Errorf("hints (-want +got):\n%s", diff)
	}
}

// What makes secrets, such as echo, ends them with a line break.
func TestLineBreaksAtTheEndOfVariables(t *testing.T) {
	t.Parallel()
	o, _, err := settings(t, environ{"REDIS_URL": "redis://h:1\n", "REDIS_PASSWORD": "pass word \r\n", "LARDER_REDIS_TIMEOUT": "3s\n"}).Options()
	if err != nil || o.Redis.Password != "pass word " || o.Redis.Addrs[0] != "h:1" || o.Redis.CommandTimeout != 3*time.Second {
		t.Errorf("Options = %q, %q, %v, %v; want h:1, the password without its line break, and 3s", o.Redis.Addrs, o.Redis.Password, o.Redis.CommandTimeout, err)
	}
}

// Each value that is likely meant well is told how to be written, as a variable and as a flag.
func TestValuesThatNeedAHint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ variable, flag, value, want string }{
		{"LARDER_DEFAULT_TTL", "--default-ttl", "1d", "a day is 24h"},
		{"LARDER_MAX_TTL", "--max-ttl", "1800000h", "at most 1752000h"},
		{"LARDER_DRAIN_DELAY", "--drain-delay", "5", "needs a unit"},
		{"LARDER_LOG_LEVEL", "--log-level", "verbose", "must be debug, info, warn or error"},
	} {
		if _, _, err := settings(t, environ{tt.variable: tt.value}).Options(); err == nil || !strings.HasPrefix(err.Error(), tt.variable+": ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s=%s: %v, want an error with %q", tt.variable, tt.value, err, tt.want)
		}
		if code, _, stderr := call(t, nil, "serve", "--check", tt.flag+"="+tt.value); code != 1 || !strings.Contains(stderr, tt.flag) || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s=%s: exit code %d, %q; want 1 and %q", tt.flag, tt.value, code, stderr, tt.want)
		}
	}
}
