package service

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/code"
)

var update = flag.Bool("update", false, "rewrite the table of errors in ARCHITECTURE.md")

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

	const path, from, to = "../ARCHITECTURE.md", "<!-- errors -->\n", "<!-- /errors -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(text), from)
	got, after, ends := strings.Cut(rest, to)
	if !begins || !ends {
		t.Fatalf("%s has no block from %s to %s", path, strings.TrimSpace(from), to)
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+from+table.String()+to+after), 0o644); err != nil { //nolint:gosec // it is to be read
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table.String(), got); diff != "" {
		t.Errorf("%s is not current (-table +document):\n%s", path, diff)
	}
}
