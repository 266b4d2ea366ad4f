package main

import (
	"context"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthcare/larder/cmd/larder/lardertest"
)

// call runs one command line to its end.
func call(t *testing.T, env environ, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = run(t.Context(), args, environment(env), &out, &err)
	return code, out.String(), err.String()
}

// variables returns the environment variables of all settings of the server.
func variables(t *testing.T) []string {
	t.Helper()
	var names []string
	var walk func(reflect.Type)
	walk = func(group reflect.Type) {
		for field := range group.Fields() {
			if name := field.Tag.Get("env"); name != "" {
				names = append(names, name)
			} else if field.Type.Kind() == reflect.Struct {
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	return names
}

func TestHelpNamesEverySetting(t *testing.T) {
	t.Parallel()
	code, help, stderr := call(t, nil, "serve", "--help")
	if code != 0 || stderr != "" {
		t.Fatalf("serve --help: exit code %d, standard error %q; want 0 and nothing", code, stderr)
	}
	names := variables(t)
	if len(names) < 30 || !slices.Contains(names, "REDIS_PASSWORD") {
		t.Fatalf("the settings have the variables %q, want at least 30, REDIS_PASSWORD among them", names)
	}
	for _, name := range names {
		if !regexp.MustCompile(`\$` + name + `\b`).MatchString(help) {
			t.Errorf("serve --help does not name %s:\n%s", name, help)
		}
	}
	if strings.Contains(help, "--redis-password=") || strings.Contains(help, "--redis-sentinel-password=") {
		t.Errorf("serve --help has a flag for a secret, want none:\n%s", help)
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	code, help, _ := call(t, nil, "--help")
	for _, name := range []string{"serve", "probe", "version"} {
		if code != 0 || !strings.Contains(help, "\n  "+name) {
			t.Errorf("--help: exit code %d, want 0 and the command %s in\n%s", code, name, help)
		}
	}
}

func TestSecretsAreRefusedAsFlags(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"REDIS_PASSWORD":          {"--redis-password=hunter2"},
		"REDIS_SENTINEL_PASSWORD": {"serve", "--redis-sentinel-nodes=a", "--redis-sentinel-master=m", "--redis-sentinel-password", "hunter2"},
		"REDIS_URL":               {"serve", "--redis-url=redis://:hunter2@h"},
	} {
		code, _, stderr := call(t, nil, append(args, "--check")...)
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "is refused") || !strings.Contains(stderr, name) || strings.Contains(stderr, "hunter2") {
			t.Errorf("%q: exit code %d, standard error %q; want 1 and one line that refuses the flag and names %s", args, code, stderr, name)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := call(t, environ{"REDIS_URL": "redis://ann:hunter2@cache:7000/1"}, "serve", "--check")
	if want := "The settings are valid: redis at cache:7000 (standalone).\n"; code != 0 || stdout != want || stderr != "" {
		t.Errorf("serve --check: exit code %d, standard output %q, standard error %q; want 0, %q and nothing", code, stdout, stderr, want)
	}
	code, stdout, stderr = call(t, environ{"REDIS_DB": "two", "LARDER_MAX_TTL": "never"}, "--check")
	if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 2 || !strings.Contains(stderr, "larder: REDIS_DB: ") || !strings.Contains(stderr, "\nlarder: LARDER_MAX_TTL: ") {
		t.Errorf("--check of bad settings: exit code %d, standard output %q, standard error %q; want 1, nothing, and a line each for REDIS_DB and LARDER_MAX_TTL", code, stdout, stderr)
	}
}

func TestUnknownFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--grcp-addr=:1"}, {"server"}, {"probe", "--redis-url=redis://h"}} {
		if code, _, stderr := call(t, nil, args...); code != 1 || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "larder: un") {
			t.Errorf("%q: exit code %d, standard error %q; want 1 and one line that says what is unknown or unexpected", args, code, stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	want := "larder " + release() + " (go1."
	if code, stdout, _ := call(t, nil, "version"); code != 0 || !strings.HasPrefix(stdout, want) {
		t.Errorf("version: exit code %d, standard output %q; want 0 and a line that begins with %q", code, stdout, want)
	}
}

// A signal that comes before Redis is connected is no failure.
func TestStoppedBeforeItConnects(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	env := environ{"REDIS_URL": "redis://" + lardertest.ClosedAddr(t), "LARDER_GRPC_ADDR": "127.0.0.1:0", "LARDER_ADMIN_ADDR": "127.0.0.1:0"}
	if code := run(ctx, nil, environment(env), &stdout, &stderr); code != 0 || stderr.String() != "" {
		t.Errorf("exit code %d, standard error %q; want 0 and nothing", code, stderr.String())
	}
}
