package warm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

// reaches waits until the checkpoint of the file at path has reached a line, and returns it.
func reaches(t *testing.T, path string, line int64) (c checkpoint) {
	t.Helper()
	deadline := time.After(lardertest.Patience)
	for {
		if text, err := os.ReadFile(path + ".checkpoint"); err == nil && json.Unmarshal(text, &c) == nil && c.Line >= line {
			return c
		}
		select {
		case <-deadline:
			t.Fatalf("the checkpoint is at line %d after %v, want %d", c.Line, lardertest.Patience, line)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestResumeAfterAnInterruption(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	path := s.file(t, "in", numbered(100)...)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		reaches(t, path, 10)
	}()
	s.warm(ctx, t, nil, path, "--batch=5", "--rate=20", "--concurrency=2").
		check(t, 1, "0 expired and 0 bad lines", "interrupted; stopped after line ", "run the same command again")
	at := reaches(t, path, 0)
	if at.Line < 10 || at.Line >= 100 || at.Line != at.Stored {
		t.Fatalf("the checkpoint is %+v, want a line from 10 to 99 and as many entries stored", at)
	}
	// An acknowledged line is not sent again.
	if _, err := s.Cache.Delete(t.Context(), "k0", client.DeleteOptions{}); err != nil {
		t.Fatalf("delete k0: %v", err)
	}
	s.warm(t.Context(), t, nil, path, "--batch=5").check(t, 0, fmt.Sprintf("resuming after line %d\n100 stored, 0 expired", at.Line))
	got := s.entries(t, "default")
	if _, back := got["k0"]; back || len(got) != 99 {
		t.Errorf("the server has %d entries, k0 among them: %v; want 99 without k0", len(got), back)
	}
	if _, err := os.Stat(path + ".checkpoint"); !os.IsNotExist(err) {
		t.Errorf("the checkpoint of a complete run: %v, want that it does not exist", err)
	}
}

func TestResumeAfterAnOutage(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	s := serve(t, []string{"REDIS_URL=" + redis.URL(), "LARDER_REDIS_TIMEOUT=500ms"})
	path := s.file(t, "in", numbered(100)...)
	ended := make(chan result)
	go func() {
		ended <- s.warm(t.Context(), t, nil, path, "--batch=5", "--rate=20", "--attempts=2")
	}()
	reaches(t, path, 10)
	redis.Stop()
	r := <-ended
	r.check(t, 1, " stored, 0 expired and 0 bad lines", "line", "run the same command again")
	redis.Restart(t)
	s.awaitReady(t)
	at := reaches(t, path, 0)
	s.warm(t.Context(), t, nil, path, "--batch=5").check(t, 0, fmt.Sprintf("resuming after line %d\n100 stored", at.Line))
	if got, want := len(s.entries(t, "default")), 100-int(at.Line); got != want { // the restarted Redis is empty
		t.Errorf("the server has %d entries, want the %d after line %d", got, want, at.Line)
	}
}

// A run that has stored nothing says so and leaves no checkpoint.
func TestNothingToResume(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	nowhere := &server{addr: lardertest.ClosedAddr(t), dir: t.TempDir()}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, test := range []struct {
		name  string
		s     *server
		ctx   context.Context
		lines []string
		want  []string
	}{
		{"BadLine", s, t.Context(), []string{`{"key": "k", "value": "v"}`, `{"kei": "k"}`}, []string{"0 stored, 0 expired and 1 bad line in", "line 2: unknown field", "stopped at a bad line; nothing was sent"}},
		{"RefusedLine", s, t.Context(), []string{`{"key": "k", "value": "v", "ttl": "1000000h"}`}, []string{"0 stored, 0 expired and 1 bad line in", "line 1: ttl", "the server has acknowledged nothing"}},
		{"Interruption", s, ended, numbered(2), []string{"0 stored, 0 expired and 0 bad lines in", "interrupted; nothing was sent"}},
		{"NoServer", nowhere, t.Context(), numbered(2), []string{"0 stored, 0 expired and 0 bad lines in", "the server has acknowledged nothing"}},
	} {
		path := test.s.file(t, test.name, test.lines...)
		got := test.s.warm(test.ctx, t, nil, path, "--attempts=1", "--timeout=20s")
		got.check(t, 1, test.want[0], test.want[1:]...)
		if strings.Contains(got.stderr, "resume") {
			t.Errorf("%s: standard error = %q, want no word of resuming", test.name, got.stderr)
		}
		if _, err := os.Stat(path + ".checkpoint"); !os.IsNotExist(err) {
			t.Errorf("%s: the checkpoint: %v, want that it does not exist", test.name, err)
		}
	}
}

func TestForeignCheckpointsAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	lines := numbered(4)
	lines[2] = "bad"
	path := s.file(t, "in", lines...)
	args := []string{path, "--batch=1"}
	s.warm(t.Context(), t, nil, args...).check(t, 1, "2 stored", "line 3", "stopped")

	s.warm(t.Context(), t, nil, path, "--namespace=other").check(t, 1, "", "belongs to a run with", "--restart")
	lines[0], lines[2] = `{"key": "new", "value": "v"}`, `{"key": "k2", "value": "v"}`
	s.file(t, "in", lines...)
	s.warm(t.Context(), t, nil, args...).check(t, 1, "", "have changed", "--restart")
	s.warm(t.Context(), t, nil, append(args, "--restart")...).check(t, 0, "4 stored")

	s.file(t, "in.checkpoint", "{}")
	s.warm(t.Context(), t, nil, args...).check(t, 1, "", "is not a checkpoint")
	s.warm(t.Context(), t, nil, append(args, "--checkpoint="+filepath.Join(s.dir, "none", "c"))...).check(t, 1, "", "--checkpoint")
}
