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
	code = run(t.Context(), args, env.lookup, &out, &err)
	return code, out.String(), err.String()
}

// variables are the names of all settings of the server.
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
		t.Fatalf("exit %d: %s", code, stderr)
	}
	names := variables(t)
	if len(names) < 30 || !slices.Contains(names, "REDIS_PASSWORD") {
		t.Fatalf("found %q", names)
	}
	for _, name := range names {
		if !regexp.MustCompile(`\$` + name + `\b`).MatchString(help) {
			t.Errorf("the help does not name %s", name)
		}
	}
	if strings.Contains(help, "--redis-password=") || strings.Contains(help, "--redis-sentinel-password=") {
		t.Error("the help offers a flag for a secret")
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	code, help, _ := call(t, nil, "--help")
	for _, name := range []string{"serve", "probe", "version"} {
		if code != 0 || !strings.Contains(help, "\n  "+name) {
			t.Errorf("exit %d, no %s:\n%s", code, name, help)
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
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := call(t, environ{"REDIS_URL": "redis://ann:hunter2@cache:7000/1"}, "serve", "--check")
	if want := "The settings are valid: redis at cache:7000 (standalone).\n"; code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = call(t, environ{"REDIS_DB": "two", "LARDER_MAX_TTL": "never"}, "--check")
	if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 2 || !strings.Contains(stderr, "larder: REDIS_DB: ") || !strings.Contains(stderr, "\nlarder: LARDER_MAX_TTL: ") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestUnknownFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--grcp-addr=:1"}, {"server"}, {"probe", "--redis-url=redis://h"}} {
		if code, _, stderr := call(t, nil, args...); code != 1 || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "larder: un") {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if code, stdout, _ := call(t, nil, "version"); code != 0 || !strings.HasPrefix(stdout, "larder "+release()+" (go1.") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

// An end before the start is an end that was asked for.
func TestStoppedBeforeItConnects(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	env := environ{"REDIS_URL": "redis://" + lardertest.ClosedAddr(t), "LARDER_GRPC_ADDR": "127.0.0.1:0", "LARDER_ADMIN_ADDR": "127.0.0.1:0"}
	if code := run(ctx, nil, env.lookup, &stdout, &stderr); code != 0 || stderr.String() != "" {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}
