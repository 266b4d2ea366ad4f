package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// eventually fails the test unless f returns nil in time.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	if err := poll(startTimeout, f); err != nil {
		t.Fatalf("after %v: %v, want no error", startTimeout, err)
	}
}

func TestServer(t *testing.T) {
	s := Start(t, Options{})
	if want := "redis://" + s.Addr; s.URL() != want {
		t.Errorf("URL = %q, want %q", s.URL(), want)
	}
	if !strings.Contains(s.Version(), ".") {
		t.Errorf("Version = %q, want one with a dot", s.Version())
	}
	if got := s.Do(t, "SET", "k", "a\r\nb"); got != "OK" {
		t.Errorf("SET = %v, want OK", got)
	}
	if got := s.Do(t, "GET", "k"); got != "a\r\nb" {
		t.Errorf("GET = %q, want %q", got, "a\r\nb")
	}
	if got := s.Do(t, "GET", "none"); got != nil {
		t.Errorf("GET of an absent key = %v, want nil", got)
	}
	if got := s.Do(t, "DBSIZE"); got != int64(1) {
		t.Errorf("DBSIZE = %v, want 1", got)
	}
	got := s.Do(t, "EVAL", "return {1, 'a', {}, redis.error_reply('ERR inner')}", "0").([]any)
	if fmt.Sprint(got) != "[1 a [] ERR inner]" {
		t.Errorf("EVAL = %v, want [1 a [] ERR inner]", got)
	}
	if v, err := s.TryDo("INCR", "k"); v != nil || err == nil || !strings.HasPrefix(err.Error(), "ERR value is not") {
		t.Errorf("INCR of text = %v, %v, want nil and ERR value is not ...", v, err)
	}
}

func TestCommandCalls(t *testing.T) {
	s := Start(t, Options{})
	s.Do(t, "SET", "k", "v")
	s.ResetCommandCalls(t)
	s.Do(t, "GET", "k")
	s.Do(t, "GET", "k")
	s.Do(t, "CLIENT", "ID")
	calls := s.CommandCalls(t)
	if calls["get"] != 2 || calls["client|id"] != 1 || calls["set"] != 0 {
		t.Errorf("CommandCalls = %v, want 2 of get, 1 of client|id and none of set", calls)
	}
}

func TestArgsAndDir(t *testing.T) {
	dir := t.TempDir()
	t.Run("run", func(t *testing.T) {
		s := Start(t, Options{Dir: dir, Args: []string{
			"maxmemory", "2mb", "client-output-buffer-limit", "normal 1mb 1mb 10", "rename-command", `FLUSHALL ""`, "save", "",
		}})
		if got := fmt.Sprint(s.Do(t, "CONFIG", "GET", "maxmemory")); got != "[maxmemory 2097152]" {
			t.Errorf("CONFIG GET maxmemory = %s, want 2097152", got)
		}
		if _, err := s.TryDo("FLUSHALL"); err == nil {
			t.Error("FLUSHALL = no error, want one: it was renamed")
		}
		if got := s.Do(t, "CONFIG", "GET", "dir").([]any)[1]; got != dir {
			t.Errorf("CONFIG GET dir = %v, want %s", got, dir)
		}
	})
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("Stat of the directory of the caller = %v, want no error", err)
	}
	for _, args := range [][]string{{"maxmemory"}, {"no-such-directive", "1"}} {
		_, _, err := StartMain(Options{Args: args})
		if err == nil {
			t.Errorf("StartMain with %q = no error, want one", args)
		} else if len(args) == 2 && !strings.Contains(err.Error(), "Bad directive") {
			t.Errorf("StartMain with %q = %v, want Bad directive from the log", args, err)
		}
	}
}

func TestPasswordAndACL(t *testing.T) {
	s := Start(t, Options{
		Password: `se"cr\et #1`,
		ACL:      []string{"user reader on >pass ~cache:* +get +ping"},
	})
	s.Do(t, "SET", "cache:k", "v") // full rights regardless
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatalf("Dial = %v, want no error", err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for _, step := range []struct {
		command []string
		refused string
	}{
		{[]string{"GET", "cache:k"}, "NOAUTH"},
		{[]string{"AUTH", "wrong"}, "WRONGPASS"},
		{[]string{"AUTH", `se"cr\et #1`}, ""},
		{[]string{"SET", "other", "v"}, ""},
		{[]string{"AUTH", "reader", "pass"}, ""},
		{[]string{"GET", "cache:k"}, ""},
		{[]string{"GET", "other"}, "NOPERM"},
	} {
		_, err := roundTrip(conn, r, step.command...)
		if fmt.Sprint(err) != "<nil>" != (step.refused != "") || err != nil && !strings.HasPrefix(err.Error(), step.refused) {
			t.Errorf("%q = %v, want %q", step.command, err, step.refused)
		}
	}
}

func TestRestart(t *testing.T) {
	s := Start(t, Options{Password: "secret"})
	for name, end := range map[string]func(){"running": func() {}, "killed": s.Kill, "stopped": s.Stop} {
		addr, before := s.Addr, pids(s)
		s.Do(t, "SET", "k", "v")
		end()
		if name != "running" {
			wantGone(t, before)
			if _, err := s.TryDo("PING"); err == nil {
				t.Errorf("%s: PING = no error, want one", name)
			}
		}
		s.Restart(t)
		wantGone(t, before)
		if s.Addr != addr {
			t.Errorf("%s: Addr = %s, want %s", name, s.Addr, addr)
		}
		if got := s.Do(t, "GET", "k"); got != nil {
			t.Errorf("%s: GET = %v after a restart, want nil", name, got)
		}
	}
}

func TestPause(t *testing.T) {
	s := Start(t, Options{})
	s.Pause(t)
	var timeout net.Error
	if _, err := s.do(200*time.Millisecond, "PING"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("PING while paused = %v, want a timeout", err)
	}
	s.Resume(t)
	s.Do(t, "PING")

	s.Pause(t)
	begin := time.Now()
	s.Stop()
	if d := time.Since(begin); d > stopTimeout/2 {
		t.Errorf("Stop of a paused server took %v, want at most %v", d, stopTimeout/2)
	}
}

func TestTakenPort(t *testing.T) {
	first := Start(t, Options{})
	_, _, err := StartMain(Options{Port: first.port})
	if !errors.Is(err, errPortTaken) {
		t.Errorf("StartMain on the port of %s = %v, want %v", first.Addr, err, errPortTaken)
	}
	first.Do(t, "PING")

	// The port of the cluster bus counts as well.
	port := first.port + 1
	for !portFree(port) {
		port++
	}
	bus, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+busOffset)))
	if err != nil {
		t.Fatalf("Listen = %v, want no error", err)
	}
	defer bus.Close()
	_, _, err = StartMain(Options{Port: port, Args: []string{"cluster-enabled", "yes"}})
	if !errors.Is(err, errPortTaken) {
		t.Errorf("StartMain with a taken port of the cluster bus = %v, want %v", err, errPortTaken)
	}
}

func TestMissingBinary(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := StartMain(Options{})
	if err == nil || err.Error() != "redis-server not found: run `make redis`" {
		t.Errorf("StartMain = %v, want redis-server not found: run `make redis`", err)
	}
}
