package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// varying is what differs from run to run in a transcript, and what stands for it in the comparison.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`ls1_[A-Za-z0-9_-]{66}`), "TOKEN"},
	{regexp.MustCompile(`"sessionId": "[A-Za-z0-9_-]{23}"`), `"sessionId": "ID"`},
	{regexp.MustCompile(`"subjectEpoch": "\d+"`), `"subjectEpoch": "EPOCH"`},
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

// The transcripts of README.md are run one after the other in one shell against a fresh server, as a newcomer would.
func TestREADMETranscripts(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	tools, err := filepath.Abs("../../.tmp/bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tools, "grpcurl")); err != nil {
		t.Fatal("grpcurl is not built: run `make test`")
	}
	_, stdout, _, _ := start(t, []string{"REDIS_URL=embedded://"}, "serve")
	stdout.await(t, "connected to redis")
	addr, _ := stdout.await(t, "listening")["grpc"].(string)
	built, err := larder()
	if err != nil {
		t.Fatal(err)
	}

	var commands, want []string
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for _, line := range strings.SplitAfter(block[1], "\n") {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands = append(commands, command)
				want = append(want, "")
			} else if len(want) > 0 {
				want[len(want)-1] += line
			}
		}
	}
	if len(commands) < 10 {
		t.Fatalf("README.md has %d commands in its console blocks", len(commands))
	}
	const mark = "== next =="
	var script strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&script, "%s\necho %q\n", strings.ReplaceAll(c, "127.0.0.1:50051", addr), mark)
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(built, "larder"), filepath.Join(dir, "larder")); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "bash")
	shell.Dir = dir
	shell.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "LARDER_GRPC_ADDR="+addr)
	shell.Stdin = strings.NewReader("exec 2>&1\n" + script.String())
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Split(string(out), mark)
	for i, c := range commands {
		if diff := cmp.Diff(steady(want[i]), steady(got[i])); diff != "" {
			t.Errorf("$ %s (-README +now)\n%s", c, diff)
		}
	}
}
