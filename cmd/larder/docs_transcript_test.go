package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

var pause = flag.Duration("pause", 0, "how long TestTranscripts waits before each command, as a person would: go test ./cmd/larder -run TestTranscripts -pause 30s -timeout 2h")

// varying is what differs from run to run in a transcript, and what stands for it in the comparison.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`ls1_[A-Za-z0-9_-]{66}`), "TOKEN"},
	{regexp.MustCompile(`"sessionId": "[A-Za-z0-9_-]{23}"`), `"sessionId": "ID"`},
	{regexp.MustCompile(`"tokenId": "[A-Za-z0-9_-]{23}"`), `"tokenId": "ID"`},
	{regexp.MustCompile(`"code": "\d{6}"`), `"code": "CODE"`},
	{regexp.MustCompile(`"([0-9A-Z]{5}-){4}[0-9A-Z]{6}"`), `"RECOVERY"`},
	{regexp.MustCompile(`"subjectEpoch": "\d+"`), `"subjectEpoch": "EPOCH"`},
	{regexp.MustCompile(`"reservationId": "lr1_[A-Za-z0-9_-]+"`), `"reservationId": "RESERVATION"`},
	{regexp.MustCompile(`ll1_[A-Za-z0-9_-]{43}`), "LOCK"},
	{regexp.MustCompile(`"fencingToken": "\d+"`), `"fencingToken": "FENCE"`},
	{regexp.MustCompile(`"leaseToken": "[A-Za-z0-9_-]+"`), `"leaseToken": "LEASE"`},
	{regexp.MustCompile(`"resumeToken": "[A-Za-z0-9_-]+"`), `"resumeToken": "RESUME"`},
	{regexp.MustCompile(`"eventId": "[0-9]+-[0-9]+-[0-9]+"`), `"eventId": "EVENT"`},
	{regexp.MustCompile(`"[0-9a-f]{16}"`), `"ETAG"`},
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+Z"`), `"TIME"`},
	{regexp.MustCompile(`": "[0-9.]+s"`), `": "DURATION"`},
	{regexp.MustCompile(`(?m) in [0-9.]+m?s$`), ` in DURATION`},
}

func steady(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return strings.TrimSpace(text)
}

// A step is one command of a transcript, and what the document says that it prints.
type step struct{ document, command, want string }

// transcripts returns the commands of all console blocks, in the order of the documents.
func transcripts(t *testing.T) []step {
	t.Helper()
	var steps []step
	for _, d := range documents(t) {
		for _, b := range d.blocks("console") {
			for line := range strings.Lines(b.text) {
				if command, ok := strings.CutPrefix(line, "$ "); ok {
					steps = append(steps, step{d.path, command, ""})
				} else if len(steps) > 0 {
					steps[len(steps)-1].want += line
				}
			}
		}
	}
	if len(steps) < 40 {
		t.Fatalf("the documents have %d commands in console blocks, want at least 40", len(steps))
	}
	return steps
}

// A workbench is a folder that has nothing but the larder command, where a person tries the documents out.
type workbench struct {
	dir, home, tmp string
	env            []string
}

// newWorkbench makes a folder for shells that find the tools on PATH, and the server where the documents say that it is.
func newWorkbench(t *testing.T, env ...string) *workbench {
	t.Helper()
	tools, err := filepath.Abs(filepath.Join(repoRoot, ".tmp", "bin"))
	if err != nil {
		t.Fatalf("Abs: %v", err)
	}
	if _, err := os.Stat(filepath.Join(tools, "grpcurl")); err != nil {
		t.Fatalf("%v, want grpcurl there: run `make test`, which builds it", err)
	}
	w := &workbench{dir: t.TempDir(), home: t.TempDir(), tmp: t.TempDir()}
	if err := os.Symlink(lardertest.Binary(t), filepath.Join(w.dir, "larder")); err != nil {
		t.Fatalf("Symlink: %v", err)
	}
	w.env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "HOME="+w.home, "TMPDIR="+w.tmp)
	w.env = append(w.env, env...)
	return w
}

// run runs a script of a document in bash and returns all that it prints. It fails the test if the script fails or leaves
// a file.
func (w *workbench) run(t *testing.T, document, script string) string {
	t.Helper()
	shell := exec.CommandContext(t.Context(), "bash")
	shell.Dir, shell.Env = w.dir, w.env
	shell.Stdin = strings.NewReader("exec 2>&1\n" + script)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v, want the commands to succeed\n%s", document, err, out)
	}
	for _, dir := range []string{w.dir, w.home, w.tmp} {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatalf("ReadDir: %v", err)
		}
		for _, file := range left {
			if dir != w.dir || file.Name() != "larder" {
				t.Errorf("%s leaves the file %s, want none", document, file.Name())
			}
		}
	}
	return string(out)
}

// The transcripts of all documents are entered one after the other in one shell, against a fresh server, as a newcomer
// would who reads README.md and then the tour. They leave no file behind.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	server := lardertest.Start(t, []string{"REDIS_URL=embedded://"}, "serve")
	server.Stdout.Await(t, "connected to redis")
	addr := server.Addr(t, "grpc")

	steps := transcripts(t)
	const mark = "== next =="
	var script strings.Builder
	for _, e := range steps {
		if *pause > 0 {
			fmt.Fprintf(&script, "sleep %g\n", pause.Seconds())
		}
		fmt.Fprintf(&script, "%s\necho %q\n", strings.ReplaceAll(e.command, "127.0.0.1:50051", addr), mark)
	}
	got := strings.Split(newWorkbench(t, "LARDER_GRPC_ADDR="+addr).run(t, "a transcript", script.String()), mark)
	for i, e := range steps {
		if i >= len(got)-1 {
			t.Errorf("%s: $ %s was not reached, want all %d commands run, but %d were", e.document, e.command, len(steps), len(got)-1)
		} else if diff := cmp.Diff(steady(e.want), steady(got[i])); diff != "" {
			t.Errorf("%s: $ %s prints (-want, from the document, +got)\n%s", e.document, e.command, diff)
		}
	}
}

// What a person enters must live until they have read the answer and entered the next commands. The pause of
// TestTranscripts tries it in earnest.
func TestTranscriptsLeaveTimeToRead(t *testing.T) {
	t.Parallel()
	least := map[string]time.Duration{"ttl": time.Hour, "lease_ttl": time.Minute}
	seen := 0
	for _, e := range transcripts(t) {
		for _, m := range regexp.MustCompile(`\\?"(ttl|lease_ttl)\\?": \\?"([0-9.]+)s\\?"`).FindAllStringSubmatch(e.command, -1) {
			seconds, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatalf("ParseFloat: %v", err)
			}
			if seen++; time.Duration(seconds*float64(time.Second)) < least[m[1]] {
				t.Errorf("%s: %s of %s s, want at least %v: $ %s", e.document, m[1], m[2], least[m[1]], e.command)
			}
		}
	}
	if seen < 5 {
		t.Errorf("the transcripts have %d times to live, want at least 5", seen)
	}
}

// The shell blocks of the pages work when they are pasted, in an empty folder, and leave no file behind. Those that speak
// to redis-cli are run in package store.
func TestShellBlocks(t *testing.T) {
	t.Parallel()
	ran := 0
	for _, d := range documents(t) {
		if !strings.HasPrefix(d.path, "docs/") {
			continue
		}
		for _, b := range d.blocks("sh") {
			if strings.Contains(b.text, "redis-cli") {
				continue
			}
			ran++
			if out := newWorkbench(t).run(t, d.path, "set -euo pipefail\n"+b.text); strings.TrimSpace(out) == "" {
				t.Errorf("%s: the block prints %q, want some text:\n%s", d.path, out, b.text)
			}
		}
	}
	if ran < 2 {
		t.Errorf("%d blocks were run, want at least 2", ran)
	}
}

// goRun runs a Go program of a document against a server and returns all that it prints.
func goRun(t *testing.T, program, addr string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(program, "127.0.0.1:50051", addr)), 0o600); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	run := exec.CommandContext(t.Context(), "go", "run", file)
	run.Dir = repoRoot
	out, err := run.CombinedOutput()
	return string(out), err
}

// The Go programs of the documents compile and run, and print what the comment at their end says.
func TestGoBlocks(t *testing.T) {
	t.Parallel()
	server := lardertest.Start(t, []string{"REDIS_URL=embedded://"}, "serve")
	server.Stdout.Await(t, "connected to redis")
	addr := server.Addr(t, "grpc")
	ran := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks("go") {
			ran++
			out, err := goRun(t, b.text, addr)
			if err != nil || strings.Contains(out, "larder: ") {
				t.Errorf("%s: go run: %v, want no error of it or of larder; it printed\n%s", d.path, err, out)
			}
			if _, want, ok := strings.Cut(b.text, "\n// Output:\n"); ok {
				if diff := cmp.Diff(strings.ReplaceAll(want, "// ", ""), out); diff != "" {
					t.Errorf("%s: the program prints (-want, from its end, +got)\n%s", d.path, diff)
				}
			}
		}
	}
	if ran < 2 {
		t.Errorf("%d programs were run, want at least 2", ran)
	}
}

// While Redis is away the recipes of docs/recipes.md let nobody log in, and serve the API without limits.
func TestRateLimitRecipesWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	server := lardertest.Start(t, []string{"REDIS_URL=" + redis.URL()}, "serve")
	server.Stdout.Await(t, "connected to redis")
	redis.Kill()
	for _, recipe := range []struct {
		namespace string
		answer    *regexp.Regexp
		want      string
		count     int
	}{
		{"recipe-login", regexp.MustCompile(`(?m)^\S+@example\.com from \S+: (.*)$`), "Nobody can log in at the moment.", 9},
		{"recipe-api", regexp.MustCompile(`(?m)^key-of-\S+ (.*)$`), "200", 4},
	} {
		for _, b := range (document{"docs/recipes.md", repoFile(t, "docs/recipes.md")}).blocks("go") {
			if !strings.Contains(b.text, strconv.Quote(recipe.namespace)) {
				continue
			}
			out, err := goRun(t, b.text, server.Addr(t, "grpc"))
			for _, m := range recipe.answer.FindAllStringSubmatch(out, -1) {
				if recipe.count--; m[1] != recipe.want {
					t.Errorf("%s: %q, want %q", recipe.namespace, m[0], recipe.want)
				}
			}
			if recipe.count != 0 {
				t.Errorf("%s has %d answers too few, want none; it ended with %v and printed\n%s", recipe.namespace, recipe.count, err, out)
			}
		}
	}
}
