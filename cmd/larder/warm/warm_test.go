package warm

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/lardertest"
)

func TestEachFieldOfALineIsWritten(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339Nano)
	over := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339Nano)
	path := s.file(
		t, "in", `{"key": "text", "value": "grün <&>", "ttl": "60s", "content_type": "text/plain", "tags": ["b", "a"]}`,
		`{"key": "bytes", "value_base64": "/wA=", "never": true}`,
		``,
		`{"key": "negative", "negative": true, "ttl": "1m"}`,
		`{"key": "until", "value": "", "expire_time": "`+soon+`", "stale_ttl": "10m"}`,
		`{"key": "stale", "value": "s", "expire_time": "`+over+`", "stale_ttl": "10m"}`,
		`{"key": "gone", "value": "g", "expire_time": "`+over+`"}`,
		`{"key": "goner", "value": "g", "expire_time": "`+over+`", "stale_ttl": "10s"}`,
		`{"namespace": "elsewhere", "key": "text", "value": "1"}`,
		`{"key": "twice", "value": "1"}`, `{"key": "twice", "value": "2"}`,
	)
	s.warm(t.Context(), t, nil, path, "--namespace=n", "--batch=2", "--concurrency=3").check(t, 0, "8 stored, 2 expired and 0 bad lines in ")
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("the folder has the files %q, want only the input", files)
	}
	type brief struct {
		Outcome        client.Outcome
		Value          string
		TTL, StaleTTL  time.Duration
		ContentType    string
		Tags           []string
		WithoutExpires bool
	}
	got := map[string]brief{}
	for key, e := range s.entries(t, "n") {
		up := func(d time.Duration) time.Duration { return (d + time.Minute - 1).Truncate(time.Minute) }
		got[key] = brief{e.Outcome, string(e.Value), up(e.TTL), up(e.StaleTTL), e.ContentType, e.Tags, e.TTL == 0 && e.StaleTTL == 0}
	}
	want := map[string]brief{
		"text":     {client.Hit, "grün <&>", time.Minute, 0, "text/plain", []string{"b", "a"}, false},
		"bytes":    {client.Hit, "\xff\x00", 0, 0, "", nil, true},
		"negative": {client.Negative, "", time.Minute, 0, "", nil, false},
		"until":    {client.Hit, "", time.Minute, 10 * time.Minute, "", nil, false},
		"stale":    {client.Stale, "s", 0, 9 * time.Minute, "", nil, false},
		"twice":    {client.Hit, "2", time.Hour, 0, "", nil, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries of namespace n (-want +got):\n%s", diff)
	}
	if got := s.entries(t, "elsewhere"); string(got["text"].Value) != "1" {
		t.Errorf("namespace elsewhere has %v, want text with the value 1", got)
	}
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	s.warm(t.Context(), t, strings.NewReader(`{"key": "k", "value": "v"}`), "-").check(t, 0, "1 stored, 0 expired and 0 bad lines in ")
	if got := s.entries(t, "default"); string(got["k"].Value) != "v" {
		t.Errorf("the server has %v, want k with the value v", got)
	}
	// The writer of a pipe may write nothing and never close it.
	silent, hold := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.warm(ctx, t, silent, "-").check(t, 1, "0 stored", "interrupted; nothing was sent")
	}()
	context.AfterFunc(ctx, func() { _ = hold.Close() })
	<-ended
}

func TestBadFlagsAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-", "--rate=-1"},
		{"-", "--concurrency=0"},
		{"-", "--batch=0"},
		{"-", "--batch=1001"},
		{"-", "--attempts=0"},
		{"-", "--timeout=0s"},
		{"-", "--checkpoint=c"},
		{"-", "--addr=none"},
		{"/none"},
		{"."},
		{},
	} {
		code, stdout, stderr := lardertest.Run(t, nil, append([]string{"warm"}, args...)...)
		if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("warm %q: exit code %d, standard output %q, standard error %q; want 1, nothing and one line", args, code, stdout, stderr)
		}
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := &server{addr: lardertest.ClosedAddr(t), dir: t.TempDir()}
	s.warm(t.Context(), t, nil, s.file(t, "in", numbered(2)...), "--attempts=2", "--timeout=5s").
		check(t, 1, "0 stored", "Unavailable", "the server has acknowledged nothing")
	code, _, stderr := lardertest.Run(t, nil, "export", "--addr="+s.addr, "--attempts=1")
	if want := "the export is incomplete"; code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("export: exit code %d, standard error %q; want 1 and %q", code, stderr, want)
	}
}

// If several lines have the same key the last one wins, however many batches are in flight.
func TestLinesOfOneKeyKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	var lines []string
	for i := range 300 {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "%d"}`, i%7, i))
	}
	s.warm(t.Context(), t, nil, s.file(t, "in", lines...), "--batch=3", "--concurrency=8").check(t, 0, "300 stored")
	for i := 293; i < 300; i++ {
		if got := s.entries(t, "default")[fmt.Sprint("k", i%7)]; string(got.Value) != fmt.Sprint(i) {
			t.Errorf("the value of k%d is %q, want %d", i%7, got.Value, i)
		}
	}
}

func TestLargeValues(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	var lines []string
	for i := range 5 {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": %q}`, i, strings.Repeat("v", 1<<20)))
	}
	lines = append(lines, fmt.Sprintf(`{"key": "k", "value": %q}`, strings.Repeat("v", 1<<20+1)), fmt.Sprintf(`{"key": "k", "value": %q}`, strings.Repeat("v", 5<<20)))
	s.warm(t.Context(), t, nil, s.file(t, "in", lines...), "--keep-going").
		check(t, 1, "5 stored, 0 expired and 2 bad lines", "line 6: value: must be at most", "line 7: is larger than the server accepts", "2 bad lines")
	if got := strings.Count(s.export(t), "\n"); got != 5 { // they do not fit into one response
		t.Errorf("export wrote %d lines, want 5", got)
	}
}

// The rate holds over the whole run, except that the first batch is sent at once.
func TestRate(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	start := time.Now()
	s.warm(t.Context(), t, nil, s.file(t, "in", numbered(30)...), "--rate=50", "--batch=10").check(t, 0, "30 stored")
	if took := time.Since(start); took < 390*time.Millisecond {
		t.Errorf("30 entries at 50 per second took %v, want at least 390ms", took)
	}
}

// The compiled commands read flags and write to the standard streams.
func TestCompiledCommands(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	path := s.file(t, "in", numbered(2)...)
	code, stdout, stderr := lardertest.Run(t, nil, "warm", "--addr="+s.addr, path)
	result{code, stdout, stderr}.check(t, 0, "2 stored")
	code, stdout, stderr = lardertest.Run(t, nil, "export", "--addr="+s.addr)
	if want := "2 entries exported in "; code != 0 || strings.Count(stdout, "\n") != 2 || !strings.HasPrefix(stderr, want) {
		t.Errorf("export: exit code %d, standard output %q, standard error %q; want 0, two lines, and %q", code, stdout, stderr, want)
	}
}
