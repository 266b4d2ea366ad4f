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

var update = flag.Bool("update", false, "rewrite the tables of errors and costs in the documents")

// blocks are the tables that tests write, and the documents that have them.
var blocks = map[string]string{"errors": "../docs/errors.md", "costs": "../docs/redis.md", "envoy-costs": "../docs/envoy.md"}

// `go test ./service -run Docs -update` writes the table.
func TestDocsListEveryError(t *testing.T) {
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

// checkBlock compares a table with what is between its marks in its document, or writes it there.
func checkBlock(t *testing.T, name, table string) {
	t.Helper()
	updating.Lock()
	defer updating.Unlock()
	path, from, to := blocks[name], "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	before, rest, begins := strings.Cut(string(text), from)
	got, after, ends := strings.Cut(rest, to)
	if !begins || !ends {
		t.Fatalf("%s has no block from %s to %s, want one", path, strings.TrimSpace(from), to)
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+from+table+to+after), 0o644); err != nil { //nolint:gosec // it is to be read
			t.Fatalf("WriteFile: %v", err)
		}
		return
	}
	if diff := cmp.Diff(table, got); diff != "" {
		t.Errorf("%s is not current: run `go test ./service -run Docs -update` (-want, from the code, +got)\n%s", path, diff)
	}
}

// updating keeps the tests that update documents one after the other.
var updating sync.Mutex

var testName = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)

// What a document says that a test shows, a test shows.
func TestDocsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	documents := []string{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != "..":
			return fs.SkipDir
		case strings.HasSuffix(path, ".md"):
			documents = append(documents, path)
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path) //nolint:gosec // a file of this repository
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
				tests[string(m[1])] = true
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatalf("WalkDir: %v", err)
	}
	named := 0
	for _, path := range documents {
		text, err := os.ReadFile(path) //nolint:gosec // a file of this repository
		if err != nil {
			t.Fatalf("ReadFile: %v", err)
		}
		for _, name := range testName.FindAllString(string(text), -1) {
			if named++; !tests[name] {
				t.Errorf("%s names %s, want a test that exists", path, name)
			}
		}
	}
	if named < 20 {
		t.Errorf("the documents name %d tests, want at least 20", named)
	}
}
