package main

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/cmd/larder/setting"
)

var update = flag.Bool("update", false, "rewrite the table of settings in docs/operating.md")

// table is the Markdown between the two marks in docs/operating.md.
func table(t *testing.T) string {
	t.Helper()
	var all commands
	parser, err := kong.New(&all)
	if err != nil {
		t.Fatalf("kong.New: %v", err)
	}
	var text strings.Builder
	group := ""
	for _, flag := range parser.Model.Children[0].Flags {
		if len(flag.Envs) == 0 {
			continue
		}
		if flag.Group.Key != group {
			group = flag.Group.Key
			fmt.Fprintf(&text, "\n**%s**\n\n| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n", group)
		}
		name := "`--" + flag.Name + "`"
		if flag.Target.Type() == reflect.TypeFor[setting.Secret]() {
			name = "none: it is secret"
		}
		initial := ""
		if flag.Default != "" {
			initial = "`" + flag.Default + "`"
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s | %s |\n", flag.Envs[0], name, initial, flag.Help)
	}
	return text.String() + "\n"
}

// `go test ./cmd/larder -run TestDocsListEverySetting -update` writes the table.
func TestDocsListEverySetting(t *testing.T) {
	t.Parallel()
	const path, from, to = "../../docs/operating.md", "<!-- config -->\n", "<!-- /config -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	before, rest, begins := strings.Cut(string(text), from)
	got, after, ends := strings.Cut(rest, to)
	if !begins || !ends {
		t.Fatalf("%s has no block from %s to %s, want one", path, strings.TrimSpace(from), to)
	}
	want := table(t)
	for _, name := range variables(t) {
		if !strings.Contains(want, "| `"+name+"` |") {
			t.Errorf("the table has no row of %s, want one of each setting:\n%s", name, want)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+from+want+to+after), 0o644); err != nil {
			t.Fatalf("WriteFile: %v", err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is not current: run `make generate` (-want, from config.go, +got)\n%s", path, diff)
	}
}
