package service

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/code"
)

var update = flag.Bool("update", false, "rewrite the tables in ARCHITECTURE.md")

// `go test ./service -run ARCHITECTURE -update` writes the table.
func TestARCHITECTUREListsEveryError(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("\n| Code | Reason | Message | Retry after |\n|---|---|---|---|\n")
	for _, row := range errorTable {
		retry := ""
		if row.retryAfter > 0 {
			retry = row.retryAfter.String()
		}
		fmt.Fprintf(&table, "| %s | `%s` | %s | %s |\n", code.Code(row.code), row.reason, row.err, retry)
	}
	table.WriteString("\n")

	checkBlock(t, "errors", table.String())
}

// checkBlock compares a table with what stands between its marks in ARCHITECTURE.md, or writes it there.
func checkBlock(t *testing.T, name, table string) {
	t.Helper()
	updating.Lock()
	defer updating.Unlock()
	path, from, to := "../ARCHITECTURE.md", "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile = %v, want nil", err)
	}
	before, rest, begins := strings.Cut(string(text), from)
	got, after, ends := strings.Cut(rest, to)
	if !begins || !ends {
		t.Fatalf("%s has no block from %s to %s, want one", path, strings.TrimSpace(from), to)
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+from+table+to+after), 0o644); err != nil { //nolint:gosec // it is to be read
			t.Fatalf("WriteFile = %v, want nil", err)
		}
		return
	}
	if diff := cmp.Diff(table, got); diff != "" {
		t.Errorf("%s differs from the table (-want +got):\n%s", path, diff)
	}
}

// updating keeps the tests that update the document one after the other.
var updating sync.Mutex

var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

// What ARCHITECTURE.md says that a test shows, a test shows.
func TestARCHITECTURENamesTestsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatalf("ReadFile = %v, want nil", err)
	}
	tests := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path) //nolint:gosec // a file of this repository
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatalf("WalkDir = %v, want nil", err)
	}
	names := testName.FindAllString(string(text), -1)
	if len(names) < 20 {
		t.Errorf("ARCHITECTURE.md names %d tests, want at least 20", len(names))
	}
	for _, name := range names {
		if !tests[name] {
			t.Errorf("ARCHITECTURE.md names %s, want a test that exists", name)
		}
	}
}
