package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

// warmed is a server and a client of it.
type warmed struct {
	*client.Client

	addr  string
	dir   string
	serve *process
}

func newWarmed(t *testing.T, env environ) *warmed {
	t.Helper()
	p := serve(t, env)
	p.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	return &warmed{connectTo(t, p.addr(t, "grpc")), p.addr(t, "grpc"), t.TempDir(), p}
}

func connectTo(t *testing.T, addr string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Target: addr, Timeout: lardertest.Patience, MaxAttempts: 50})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// file makes a file of lines.
func (w *warmed) file(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// warm runs the command, patiently as a busy machine needs it, with standard input from a reader.
func (w *warmed) warm(ctx context.Context, t testing.TB, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var out, errs strings.Builder
	asked, err := parse(append([]string{"warm", "--attempts=50", "--addr=" + w.addr}, args...), environ(nil).lookup, &out)
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(writer, stdin)
		_ = writer.Close()
	}()
	command := asked.(*warmCommand)
	command.stdin, command.stderr = reader, &errs
	code = 0
	if err := command.Run(ctx, &out); err != nil {
		code = 1
		fmt.Fprintln(&errs, err)
	}
	_ = reader.Close()
	<-copied
	return code, out.String(), errs.String()
}

func (w *warmed) export(t testing.TB, args ...string) string {
	t.Helper()
	var out, errs strings.Builder
	asked, err := parse(append([]string{"export", "--attempts=50", "--addr=" + w.addr}, args...), environ(nil).lookup, &out)
	if err != nil {
		t.Fatal(err)
	}
	asked.(*exportCommand).stderr = &errs
	if err := asked.Run(context.Background(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	return out.String()
}

// entries returns all of a namespace, by key.
func (w *warmed) entries(t testing.TB, namespace string) map[string]client.Entry {
	t.Helper()
	all := map[string]client.Entry{}
	for key, err := range w.Cache.In(namespace).ListKeys(context.Background(), "", client.ListKeysOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		e, err := w.Cache.In(namespace).GetWith(context.Background(), key, client.GetOptions{Primary: true})
		if err != nil {
			t.Fatal(err)
		}
		all[key] = e
	}
	return all
}

// checks compares what a run has said with the beginnings of what it should say.
func checks(t *testing.T, code int, stdout, stderr string, wantCode int, wantOut string, wantErr ...string) {
	t.Helper()
	if code != wantCode || !strings.Contains(stdout, wantOut) {
		t.Errorf("exit %d, want %d; want %q:\n%s%s", code, wantCode, wantOut, stdout, stderr)
	}
	for _, want := range wantErr {
		if !strings.Contains(stderr, want) {
			t.Errorf("want %q on standard error:\n%s", want, stderr)
		}
	}
	if len(wantErr) == 0 && stderr != "" {
		t.Errorf("standard error:\n%s", stderr)
	}
}

func TestWarmWritesWhatTheLinesSay(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339Nano)
	over := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339Nano)
	path := w.file(
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
	code, stdout, stderr := w.warm(t.Context(), t, nil, path, "--namespace=n", "--batch=2", "--concurrency=3")
	checks(t, code, stdout, stderr, 0, "8 stored, 2 expired and 0 bad lines in ")
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("left are %q", files)
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
	for key, e := range w.entries(t, "n") {
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
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := w.entries(t, "elsewhere"); string(got["text"].Value) != "1" {
		t.Errorf("elsewhere is %v", got)
	}
}

func TestWarmFromStandardInput(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	code, stdout, stderr := w.warm(t.Context(), t, strings.NewReader(`{"key": "k", "value": "v"}`), "-")
	checks(t, code, stdout, stderr, 0, "1 stored, 0 expired and 0 bad lines in ")
	if got := w.entries(t, "default"); string(got["k"].Value) != "v" {
		t.Errorf("got %v", got)
	}
	// It may say nothing for ever.
	silent, hold := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, stdout, stderr := w.warm(ctx, t, silent, "-")
		checks(t, code, stdout, stderr, 1, "0 stored", "interrupted after line 0")
	}()
	context.AfterFunc(ctx, func() { _ = hold.Close() })
	<-ended
}

func TestWarmReportsBadLines(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	long := strings.Repeat("k", 1025)
	bad := []struct{ line, what string }{
		{`{"key": "secret`, "is not JSON"},
		{`[1]`, "must be a JSON object"},
		{`null`, "key: must not be empty"},
		{`{"value": "secret"}`, "key: must not be empty"},
		{`{"key": "secret"}`, "value: must be set"},
		{`{"key": "secret", "value": 5}`, "value: must not be a JSON number"},
		{`{"key": "secret", "value": "v", "value_base64": "dg=="}`, "value: must not be set beside"},
		{`{"key": "secret", "value_base64": "?"}`, "illegal base64"},
		{`{"key": "secret", "value": "v", "tll": "1s"}`, `unknown field "tll"`},
		{`{"key": "secret", "value": "v", "ttl": "0s"}`, "a duration must be above zero"},
		{`{"key": "secret", "value": "v", "ttl": "soon"}`, "a duration must be above zero"},
		{`{"key": "secret", "value": "v", "ttl": "1s", "never": true}`, "ttl: at most one of"},
		{`{"key": "secret", "value": "v", "expire_time": "tomorrow"}`, "a time must be written"},
		{`{"key": "secret", "value": "v"} {}`, "must hold one JSON object"},
		{`{"key": "secret", "value": "` + "\xff" + `"}`, "must be UTF-8"},
		{`{"key": "secret", "value": "\ud800"}`, "must not hold half of a pair"},
		// These only the server knows.
		{`{"key": "` + long + `", "value": "v"}`, "key: must be 1 to 1024 bytes long"},
		{`{"key": "secret", "value": "v", "ttl": "1000000h"}`, "ttl: must be at least"},
		{`{"key": "secret", "value": "v", "negative": true}`, "value: must be empty"},
		{`{"namespace": "No", "key": "secret", "value": "v"}`, "namespace: must be"},
	}
	var lines, reports []string
	for i, b := range bad {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "v"}`, i), b.line)
		reports = append(reports, fmt.Sprintf("larder: line %d: %s", 2*i+2, b.what))
	}
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "all", lines...), "--keep-going")
	checks(t, code, stdout, stderr, 1, fmt.Sprintf("%d stored, 0 expired and %[1]d bad lines", len(bad)), append(reports, fmt.Sprintf("%d bad lines were left out", len(bad)))...)
	if n := strings.Count(stderr, "\n"); n != len(bad)+1 || strings.Contains(stderr, "secret") {
		t.Errorf("standard error:\n%s", stderr)
	}
	if got := len(w.entries(t, "default")); got != len(bad) {
		t.Errorf("%d entries", got)
	}
	for i, b := range bad {
		ns := fmt.Sprint("one", i)
		path := w.file(t, ns, `{"key": "before", "value": "v"}`, b.line, `{"key": "after", "value": "v"}`)
		code, stdout, stderr := w.warm(t.Context(), t, nil, path, "--batch=1", "--concurrency=1", "--namespace="+ns)
		checks(t, code, stdout, stderr, 1, "1 stored, 0 expired and 0 bad lines", "larder: line 2: "+b.what, "stopped at a bad line")
		if got := w.entries(t, ns); len(got) != 1 || got["before"].Key == "" {
			t.Errorf("%s: there are %v", b.what, got)
		}
		// Mended, it goes on where it stopped.
		w.file(t, ns, `{"key": "before", "value": "v"}`, `{"key": "mended", "value": "v"}`, `{"key": "after", "value": "v"}`)
		code, stdout, stderr = w.warm(t.Context(), t, nil, path, "--namespace="+ns)
		checks(t, code, stdout, stderr, 0, "going on after line 1\n3 stored")
	}
}

// numbered are lines of entries k0, k1 and so on.
func numbered(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "%[1]d"}`, i))
	}
	return lines
}

// progress waits until a checkpoint tells of a line.
func reaches(t *testing.T, path string, line int64) (c checkpoint) {
	t.Helper()
	deadline := time.After(lardertest.Patience)
	for {
		if text, err := os.ReadFile(path + ".checkpoint"); err == nil && json.Unmarshal(text, &c) == nil && c.Line >= line {
			return c
		}
		select {
		case <-deadline:
			t.Fatalf("the checkpoint is at line %d", c.Line)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestWarmGoesOnAfterAnInterruption(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	path := w.file(t, "in", numbered(100)...)
	args := []string{path, "--batch=5", "--rate=20", "--concurrency=2"}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		reaches(t, path, 10)
		cancel()
	}()
	code, stdout, stderr := w.warm(ctx, t, nil, args...)
	checks(t, code, stdout, stderr, 1, "0 expired and 0 bad lines", "interrupted after line ", "run the same command again")
	at := reaches(t, path, 0)
	if at.Line < 10 || at.Line >= 100 || at.Line != at.Stored {
		t.Fatalf("the checkpoint is %+v", at)
	}
	// What was acknowledged is not sent again.
	if _, err := w.Cache.Delete(t.Context(), "k0", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = w.warm(t.Context(), t, nil, path, "--batch=5")
	checks(t, code, stdout, stderr, 0, fmt.Sprintf("going on after line %d\n100 stored, 0 expired", at.Line))
	got := w.entries(t, "default")
	if _, back := got["k0"]; back || len(got) != 99 {
		t.Errorf("%d entries, k0 among them: %v", len(got), back)
	}
	if _, err := os.Stat(path + ".checkpoint"); !os.IsNotExist(err) {
		t.Errorf("the checkpoint is left: %v", err)
	}
}

func TestWarmGoesOnAfterAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	env := environ{"REDIS_URL": server.URL(), "LARDER_REDIS_TIMEOUT": "500ms"}
	w := newWarmed(t, env)
	path := w.file(t, "in", numbered(100)...)
	type result struct {
		code           int
		stdout, stderr string
	}
	ended := make(chan result)
	go func() {
		code, stdout, stderr := w.warm(t.Context(), t, nil, path, "--batch=5", "--rate=20", "--attempts=2")
		ended <- result{code, stdout, stderr}
	}()
	reaches(t, path, 10)
	server.Stop()
	r := <-ended
	checks(t, r.code, r.stdout, r.stderr, 1, " stored, 0 expired and 0 bad lines", "line", "run the same command again")
	server.Restart(t)
	w.serve.awaitHealth(t, "ready", healthv1.HealthCheckResponse_SERVING)
	at := reaches(t, path, 0)
	code, stdout, stderr := w.warm(t.Context(), t, nil, path, "--batch=5")
	checks(t, code, stdout, stderr, 0, fmt.Sprintf("going on after line %d\n100 stored", at.Line))
	if got := len(w.entries(t, "default")); got != 100-int(at.Line) { // the Redis keeps nothing
		t.Errorf("%d entries after line %d", got, at.Line)
	}
}

func TestWarmRefusesACheckpointOfSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	lines := numbered(4)
	lines[2] = "bad"
	path := w.file(t, "in", lines...)
	args := []string{path, "--batch=1"}
	code, stdout, stderr := w.warm(t.Context(), t, nil, args...)
	checks(t, code, stdout, stderr, 1, "2 stored", "line 3", "stopped")

	code, stdout, stderr = w.warm(t.Context(), t, nil, path, "--namespace=other")
	checks(t, code, stdout, stderr, 1, "", "is of a run with", "--restart")
	lines[0], lines[2] = `{"key": "new", "value": "v"}`, `{"key": "k2", "value": "v"}`
	w.file(t, "in", lines...)
	code, stdout, stderr = w.warm(t.Context(), t, nil, args...)
	checks(t, code, stdout, stderr, 1, "", "has been changed since", "--restart")
	code, stdout, stderr = w.warm(t.Context(), t, nil, append(args, "--restart")...)
	checks(t, code, stdout, stderr, 0, "4 stored")

	w.file(t, "in.checkpoint", "{}")
	code, stdout, stderr = w.warm(t.Context(), t, nil, args...)
	checks(t, code, stdout, stderr, 1, "", "is not a checkpoint")
	code, stdout, stderr = w.warm(t.Context(), t, nil, append(args, "--checkpoint="+filepath.Join(w.dir, "none", "c"))...)
	checks(t, code, stdout, stderr, 1, "", "--checkpoint")
}

func TestWarmRefusesItsFlags(t *testing.T) {
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
		if code, stdout, stderr := call(t, nil, append([]string{"warm"}, args...)...); code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
}

func TestWarmOfNobodyThere(t *testing.T) {
	t.Parallel()
	w := &warmed{addr: lardertest.ClosedAddr(t), dir: t.TempDir()}
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "in", numbered(2)...), "--attempts=2", "--timeout=5s")
	checks(t, code, stdout, stderr, 1, "0 stored", "Unavailable", "stopped after line 0")
	var errs strings.Builder
	if code := run(t.Context(), []string{"export", "--addr=" + w.addr, "--attempts=1"}, environ(nil).lookup, io.Discard, &errs); code != 1 || !strings.Contains(errs.String(), "not whole") {
		t.Errorf("exit %d: %s", code, &errs)
	}
}

// Of lines with one key the last wins, however many batches are in flight.
func TestWarmKeepsTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	var lines []string
	for i := range 300 {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "%d"}`, i%7, i))
	}
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "in", lines...), "--batch=3", "--concurrency=8")
	checks(t, code, stdout, stderr, 0, "300 stored")
	for i := 293; i < 300; i++ {
		if got := w.entries(t, "default")[fmt.Sprint("k", i%7)]; string(got.Value) != fmt.Sprint(i) {
			t.Errorf("k%d is %s, want %d", i%7, got.Value, i)
		}
	}
}

func TestWarmTakesLargeValues(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	var lines []string
	for i := range 5 {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": %q}`, i, strings.Repeat("v", 1<<20)))
	}
	lines = append(lines, fmt.Sprintf(`{"key": "k", "value": %q}`, strings.Repeat("v", 1<<20+1)), fmt.Sprintf(`{"key": "k", "value": %q}`, strings.Repeat("v", 5<<20)))
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "in", lines...), "--keep-going")
	checks(t, code, stdout, stderr, 1, "5 stored, 0 expired and 2 bad lines", "line 6: value: must be at most", "line 7: is longer than the server takes", "2 bad lines")
	if got := strings.Count(w.export(t), "\n"); got != 5 { // more than one answer holds
		t.Errorf("%d entries exported", got)
	}
}

// entryOf draws an entry.
func entryOf(r *rapid.T, i int) client.SetItem {
	ttl := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute, time.Hour})
	item := client.SetItem{
		Key:   fmt.Sprint(i, rapid.StringMatching(`[^\x00]{0,20}`).Draw(r, "key")),
		Value: rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 100), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(r, "value"),
		Options: client.SetOptions{
			TTL: ttl.Draw(r, "ttl"), ContentType: rapid.SampledFrom([]string{"", "text/plain", "\u2028<&>"}).Draw(r, "content type"),
			Tags: rapid.SliceOfNDistinct(rapid.StringMatching(`[^\x00]{1,10}`), 0, 4, rapid.ID).Draw(r, "tags"),
		},
	}
	o := &item.Options
	switch rapid.IntRange(0, 3).Draw(r, "kind") {
	case 0:
		o.Negative, item.Value = true, nil
	case 1:
		o.StaleTTL = time.Hour
	case 2:
		if len(o.Tags) == 0 {
			o.TTL, o.Never = 0, true
		}
	}
	if o.TTL == time.Millisecond && o.StaleTTL == 0 {
		o.TTL = time.Minute
	}
	return item
}

// What is exported from one namespace and warmed into another is the same there.
func TestExportIntoWarm(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	w := newWarmed(t, environ{"REDIS_URL": server.URL()})
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		from, to := fmt.Sprint("from", round), fmt.Sprint("to", round)
		var items []client.SetItem
		for i := range rapid.IntRange(0, 12).Draw(r, "entries") {
			items = append(items, entryOf(r, i))
		}
		if len(items) > 0 {
			if _, err := w.Cache.In(from).BatchSet(t.Context(), items); err != nil {
				r.Fatal(err)
			}
		}
		<-time.After(2 * time.Millisecond) // what lasts for one is stale now
		lines := w.export(t, "--namespace="+from)
		code, stdout, stderr := w.warm(t.Context(), t, strings.NewReader(lines), "-", "--namespace="+to, "--batch=5")
		if code != 0 || !strings.HasPrefix(stdout, fmt.Sprintf("%d stored, 0 expired and 0 bad", len(items))) {
			r.Fatalf("exit %d: %s%s\n%s", code, stdout, stderr, lines)
		}
		<-time.After(2 * time.Millisecond)
		before, after := w.entries(t, from), w.entries(t, to)
		same := cmp.Comparer(func(a, b client.Entry) bool {
			near := func(a, b time.Duration) bool { return (a == 0) == (b == 0) && (a-b).Abs() < 20*time.Second }
			return a.Outcome == b.Outcome && bytes.Equal(a.Value, b.Value) && near(a.TTL, b.TTL) && near(a.StaleTTL, b.StaleTTL) &&
				a.ContentType == b.ContentType && slices.Equal(a.Tags, b.Tags)
		})
		if diff := cmp.Diff(before, after, same); diff != "" || len(before) != len(items) {
			r.Fatalf("%d entries (-before +after):\n%s\n%s", len(before), diff, lines)
		}
	})
}

func TestExportToAFile(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "in", numbered(1200)...))
	checks(t, code, stdout, stderr, 0, "1200 stored")
	path := filepath.Join(w.dir, "out")
	if out := w.export(t, "--output="+path, "--pattern=k1*"); out != "" {
		t.Errorf("standard output: %s", out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var l entryLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || !strings.HasPrefix(l.Key, "k1") || l.Value == nil || "k"+*l.Value != l.Key {
			t.Errorf("%s: %v", line, err)
		}
		keys[l.Key] = true
	}
	if len(keys) != 311 { // 1, 10 to 19, 100 to 199, 1000 to 1199
		t.Errorf("%d keys", len(keys))
	}
	// An export that fails leaves the one before.
	var errs strings.Builder
	if code := run(t.Context(), []string{"export", "--addr=" + lardertest.ClosedAddr(t), "--attempts=1", "--output=" + path}, environ(nil).lookup, io.Discard, &errs); code != 1 {
		t.Errorf("exit %d", code)
	}
	again, err := os.ReadFile(path)
	if files, _ := os.ReadDir(w.dir); err != nil || !bytes.Equal(again, text) || len(files) != 2 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if out := w.export(t, "--output=/dev/null"); out != "" {
		t.Errorf("standard output: %s", out)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatalf("the device is a file now: %v", err)
	}
}

// The rate holds over the whole run, of which only the first batch is free.
func TestWarmKeepsItsRate(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	start := time.Now()
	code, stdout, stderr := w.warm(t.Context(), t, nil, w.file(t, "in", numbered(30)...), "--rate=50", "--batch=10")
	checks(t, code, stdout, stderr, 0, "30 stored")
	if took := time.Since(start); took < 390*time.Millisecond {
		t.Errorf("30 entries at 50 a second took %v", took)
	}
}

func TestWarmAsAProcess(t *testing.T) {
	t.Parallel()
	w := newWarmed(t, environ{"REDIS_URL": "embedded://"})
	path := w.file(t, "in", numbered(2)...)
	code, stdout, stderr := lardertest.Run(t, nil, "warm", "--addr="+w.addr, path)
	checks(t, code, stdout, stderr, 0, "2 stored")
	code, stdout, stderr = lardertest.Run(t, nil, "export", "--addr="+w.addr)
	if code != 0 || strings.Count(stdout, "\n") != 2 || !strings.HasPrefix(stderr, "2 entries exported in ") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}
