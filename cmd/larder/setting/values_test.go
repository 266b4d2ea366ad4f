package setting

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bytes{"1MiB": 1 << 20, "1048576": 1 << 20, "64 KiB": 64 << 10, "64kB": 64000, "0.5MiB": 512 << 10, "0": 0} {
		var got Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("UnmarshalText(%q) = %d, %v; want %d", text, int64(got), err, int64(want))
		}
	}
	for _, text := range []string{"", "-1", "9EiB", "1XiB", "many"} {
		var got Bytes
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "expected a size") {
			t.Errorf("UnmarshalText(%q) = %d, %v; want an error", text, int64(got), err)
		}
	}
}

func TestLevel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slog.Level{"debug": slog.LevelDebug, "INFO": slog.LevelInfo, "warn": slog.LevelWarn, "Error": slog.LevelError} {
		var got Level
		if err := got.UnmarshalText([]byte(text)); err != nil || slog.Level(got) != want {
			t.Errorf("UnmarshalText(%q) = %v, %v; want %v", text, slog.Level(got), err, want)
		}
	}
	for _, text := range []string{"", "loud", "info+1", "warning"} {
		var got Level
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "must be debug, info, warn or error") {
			t.Errorf("UnmarshalText(%q) = %v, %v; want an error that lists the levels", text, slog.Level(got), err)
		}
	}
}

func TestRedisURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		url                RedisURL
		shown, host        string
		username, password string
		database           int
		scheme             string
		valid              bool
	}{
		{"redis://localhost:6379", "redis://localhost:6379", "localhost:6379", "", "", 0, "redis", true},
		{"rediss://ann:p%40ss@cache:7000/3", "rediss://cache:7000/3", "cache:7000", "ann", "p@ss", 3, "rediss", true},
		{"redis://:pass@[::1]:1/", "redis://[::1]:1/", "[::1]:1", "", "pass", 0, "redis", true},
		{Embedded, "embedded://", "", "", "", 0, "embedded", true},
		{"redis://h/one", "redis://h/one", "h", "", "", -1, "redis", false},
		{"redis://h/2147483648", "redis://h/2147483648", "h", "", "", -1, "redis", false},
		{"embedded://h", "embedded://h", "h", "", "", 0, "embedded", false},
		{"http://h", "http://h", "h", "", "", 0, "http", false},
		{"redis://h?db=1", "redis://h?db=1", "h", "", "", 1, "redis", true},
		{"valkey://h:1/2", "valkey://h:1/2", "h:1", "", "", 2, "valkey", true},
		{"valkeys://:p@h", "valkeys://h", "h", "", "p", 0, "valkeys", true},
		{"unix:///run/redis.sock", "unix:///run/redis.sock", "", "", "", 0, "unix", true},
		{"unix://ann:p@/run/redis.sock?db=3", "unix:///run/redis.sock?db=3", "", "ann", "p", 3, "unix", true},
		{"redis://h/1?db=1", "redis://h/1?db=1", "h", "", "", 1, "redis", false},
		{"redis://h?db=1&db=2", "redis://h?db=1&db=2", "h", "", "", 1, "redis", false},
		{"redis://h?db=", "redis://h?db=", "h", "", "", -1, "redis", false},
		{"redis://h?timeout=1", "redis://h?timeout=1", "h", "", "", 0, "redis", false},
		{"unix://run/redis.sock", "unix://run/redis.sock", "run", "", "", 0, "unix", false},
		{"unix://", "unix:", "", "", "", 0, "unix", false},
	} {
		var parsed RedisURL
		if err := parsed.UnmarshalText([]byte(test.url)); (err == nil) != test.valid || err == nil && parsed != test.url {
			t.Errorf("UnmarshalText(%q) = %v, want accepted: %v", string(test.url), err, test.valid)
		}
		username, password := test.url.Credentials()
		if username != test.username || password != test.password {
			t.Errorf("Credentials of %q = %q, %q; want %q, %q", string(test.url), username, password, test.username, test.password)
		}
		if got := test.url.Database(); got != test.database {
			t.Errorf("Database of %q = %d, want %d", string(test.url), got, test.database)
		}
		if parts := test.url.Parts(); parts.Host != test.host || parts.Scheme != test.scheme {
			t.Errorf("Parts of %q = scheme %q, host %q; want %q, %q", string(test.url), parts.Scheme, parts.Host, test.scheme, test.host)
		}
		if got := test.url.String(); got != test.shown {
			t.Errorf("String of %q = %q, want %q", string(test.url), got, test.shown)
		}
	}
}

// FuzzRedisURL feeds text that holds a password: neither an error nor an accepted URL shows it.
func FuzzRedisURL(f *testing.F) {
	for _, before := range []string{"redis://:", "redis://ann:", "rediss://u:", "embedded://:", "http://:", ":"} {
		for _, after := range []string{"@h", "/@h", "#@h", "?@h", "%@h", " @h:1", "@", "@[::1]", "@h/1"} {
			f.Add(before, after)
		}
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "hunter2"
		if strings.Contains(before+after, password) {
			return
		}
		var r RedisURL
		err := r.UnmarshalText([]byte(before + password + after))
		if err != nil {
			if strings.Contains(err.Error(), password) {
				t.Errorf("the error repeats the password: %v", err)
			}
			return
		}
		if _, got := r.Credentials(); strings.Contains(got, password) && strings.Contains(fmt.Sprintf("%v", r), password) {
			t.Errorf("%%v shows the password: %v", r)
		}
	})
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	held := struct {
		Password Secret
		URL      RedisURL
	}{"hunter2", "redis://ann:hunter2@h/1"}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", held)
		fmt.Fprintf(&shown, verb+verb+"\n", held.Password, held.URL)
	}
	text, err := json.Marshal(held)
	if err != nil {
		t.Fatalf("encode as JSON: %v", err)
	}
	shown.Write(text)
	slog.New(slog.NewJSONHandler(&shown, nil)).Info("", "password", held.Password, "url", held.URL, "held", held)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("", "password", held.Password, "url", held.URL, "held", held)
	if got := shown.String(); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e74657232") {
		t.Errorf("the password is shown:\n%s", got)
	}
	for _, want := range []string{"[redacted]", "redis://h/1"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%s is not shown:\n%s", want, shown.String())
		}
	}
	if got := Secret("").String(); got != "" {
		t.Errorf("String of an empty secret = %q, want nothing", got)
	}
}
