package check

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berthcare/larder/store/redistest"
)

var update = flag.Bool("update", false, "rewrite the table of the comparison in the documents")

// The table in README.md and docs/sessions.md states what this test measures, and `-update` writes it there.
func TestSessionsCompared(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatalf("ParseURL: %v", err)
	}
	r := redis.NewClient(options)
	t.Cleanup(func() { _ = r.Close() })
	blob := newWholeBlob(r)
	larder := fieldwise{startLarder(t, server.URL()).Sessions}

	var table strings.Builder
	fmt.Fprintf(&table, "\n| One session, from several requests | scs %s with its Redis store | Larder |\n|---|---|---|\n", version(t, "github.com/alexedwards/scs/v2"))
	row := func(what, got, want, gotLarder, wantLarder string) {
		t.Helper()
		if got != want || gotLarder != wantLarder {
			t.Errorf("%s: scs %s and Larder %s, want %s and %s", what, got, gotLarder, want, wantLarder)
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", what, got, gotLarder)
	}
	row("Four concurrent requests each write another field: fields kept", keptOf(t, blob), "1 of 4", keptOf(t, larder), "4 of 4")
	row("The user logs out while a slow request is running: the session at the end of that request",
		afterLogout(t, blob), "active again", afterLogout(t, larder), "ended")
	row("1,000 requests check the session: Redis commands", commandsOf(t, server, blob), "1,000", commandsOf(t, server, larder), "0")
	table.WriteString("\n")
	for _, path := range []string{"README.md", "docs/sessions.md"} {
		checkBlock(t, filepath.Join("..", "..", path), table.String())
	}
}

// commandsOf returns how many commands reach Redis because 1,000 requests check one session.
func commandsOf(t *testing.T, server *redistest.Server, s sessions) string {
	t.Helper()
	least := int64(-1)
	for range 3 { // a connection that breaks on a busy machine empties the near cache, which is read anew
		_, b := serve(t, s)
		b.fields()
		server.ResetCommandCalls(t)
		for range 1000 {
			if b.fields() == nil {
				t.Fatal("fields = nil, want a session")
			}
		}
		calls, sum := server.CommandCalls(t), int64(0)
		for _, name := range []string{"get", "set", "evalsha_ro", "eval_ro", "evalsha", "eval"} { // what reads and writes sessions
			sum += calls[name]
		}
		if least < 0 || sum < least {
			least = sum
		}
	}
	if least >= 1000 {
		return fmt.Sprintf("%d,%03d", least/1000, least%1000)
	}
	return fmt.Sprint(least)
}

// version returns the version of a module that go.mod requires, such as 2.9.0.
func version(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", module, err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
}

// checkBlock compares the table with what a document has between its marks, or writes it there.
func checkBlock(t *testing.T, path, table string) {
	t.Helper()
	const from, to = "<!-- comparison -->\n", "<!-- /comparison -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	before, rest, begins := strings.Cut(string(text), from)
	got, after, ends := strings.Cut(rest, to)
	switch {
	case !begins || !ends:
		t.Errorf("%s has no block from %s to %s, want one", path, strings.TrimSpace(from), to)
	case *update:
		if err := os.WriteFile(path, []byte(before+from+table+to+after), 0o644); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
	case got != table:
		t.Errorf("%s states\n%s\nwant, as measured,\n%s", path, got, table)
	}
}
