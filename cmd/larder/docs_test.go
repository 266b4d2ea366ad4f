package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berthcare/larder/cmd/larder/lardertest"
)

// repoRoot is the folder of the repository.
var repoRoot = filepath.Join("..", "..")

// A document is a Markdown file of the repository.
type document struct {
	path string // from repoRoot, with slashes
	text string
}

// documents returns every document of the repository, in the order in which a newcomer reads them.
func documents(t *testing.T) []document {
	t.Helper()
	paths := []string{"README.md", "docs/tour.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "deploy/README.md"}
	pages, err := filepath.Glob(filepath.Join(repoRoot, "docs", "*.md"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("docs/*.md = %q, %v, want at least 5 pages", pages, err)
	}
	for _, page := range pages {
		if path := "docs/" + filepath.Base(page); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	all := make([]document, len(paths))
	for i, path := range paths {
		all[i] = document{path, repoFile(t, path)}
	}
	return all
}

// repoFile returns a file of the repository.
func repoFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repoRoot, filepath.FromSlash(path)))
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	return string(text)
}

// A block is a fenced block of a document.
type block struct {
	language string
	text     string
}

var fenced = regexp.MustCompile("(?s)(?:^|\n)```([a-z]*)\n(.*?)```(?:\n|$)")

// blocks returns the fenced blocks of a document, all of them or those of one language.
func (d document) blocks(language string) []block {
	var found []block
	for _, m := range fenced.FindAllStringSubmatch(d.text, -1) {
		if language == "" || m[1] == language {
			found = append(found, block{m[1], m[2]})
		}
	}
	return found
}

// prose returns a document without its fenced blocks.
func (d document) prose() string { return fenced.ReplaceAllString(d.text, "") }

func TestDocumentsAreShort(t *testing.T) {
	t.Parallel()
	for path, most := range map[string]int{"README.md": 200, "ARCHITECTURE.md": 250} {
		if got := strings.Count(repoFile(t, path), "\n"); got > most {
			t.Errorf("%s has %d lines, want at most %d", path, got, most)
		}
	}
}

// A block in a language that no test knows is a block that nobody has tried.
func TestBlocksOfDocumentsAreInKnownLanguages(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		for _, b := range d.blocks("") {
			switch {
			case b.language == "console", b.language == "go", b.language == "json": // entered, run, and shown
			case b.language == "sh" && strings.HasPrefix(d.path, "docs/"): // run
			case b.language == "sh": // about building and deploying, which TestDocumentsNameTargetsThatExist looks at
			case b.language == "yaml" && d.path == "docs/envoy.md": // compared with deploy/envoy
			case b.language == "" && d.path == "ARCHITECTURE.md": // a picture
			default:
				t.Errorf("%s has a block in %q, want console, go, sh or json", d.path, b.language)
			}
		}
	}
}

// What docs/envoy.md shows is in the files that the tests of deploy/envoy run.
func TestDocsShowTheFilesOfEnvoy(t *testing.T) {
	t.Parallel()
	var files []string
	for _, path := range []string{"deploy/envoy/envoy.yaml", "deploy/envoy/ratelimit/gateway.yaml", "deploy/envoy/ratelimit/larder.yaml"} {
		files = append(files, repoFile(t, path))
	}
	seen := 0
	for _, b := range (document{"docs/envoy.md", repoFile(t, "docs/envoy.md")}).blocks("yaml") {
		seen++
		found := false
		for indent := range 40 { // a block may be a part of a file
			part := strings.ReplaceAll("\n"+b.text, "\n", "\n"+strings.Repeat(" ", indent))
			part = strings.TrimRight(part, " ")
			found = found || slices.ContainsFunc(files, func(file string) bool { return strings.Contains(file, part) })
		}
		if !found {
			t.Errorf("docs/envoy.md shows this, want a part of a file in deploy/envoy:\n%s", b.text)
		}
	}
	if seen < 4 {
		t.Errorf("docs/envoy.md has %d blocks of files, want at least 4", seen)
	}
}

var (
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	noSlug    = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors returns what a link can point to in a document, as GitHub names it.
func (d document) anchors() []string {
	var names []string
	for _, m := range mdHeading.FindAllStringSubmatch(d.prose(), -1) {
		names = append(names, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return names
}

func TestLinksOfDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := documents(t)
	for _, d := range all {
		for _, m := range mdLink.FindAllStringSubmatch(d.prose(), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			path := d.path
			if file != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(d.path), file))
			}
			if _, err := os.Stat(filepath.Join(repoRoot, path)); err != nil {
				t.Errorf("%s links to %s: %v, want a file that exists", d.path, m[1], err)
				continue
			}
			if anchor == "" {
				continue
			}
			i := slices.IndexFunc(all, func(d document) bool { return d.path == path })
			if i < 0 || !slices.Contains(all[i].anchors(), anchor) {
				t.Errorf("%s links to %s, want a heading of that name", d.path, m[1])
			}
		}
	}
}

// A variable that is misspelt is ignored in silence.
func TestDocumentsNameSettingsThatExist(t *testing.T) {
	t.Parallel()
	known, seen := variables(t), 0
	for _, d := range documents(t) {
		for _, name := range regexp.MustCompile(`\b(?:LARDER|REDIS)_[A-Z0-9_]+\b`).FindAllString(d.text, -1) {
			reason := strings.Contains(repoFile(t, "docs/errors.md"), "| `"+name+"` |")
			if seen++; !reason && !slices.Contains(known, name) {
				t.Errorf("%s names %s, want a setting or a reason of an error", d.path, name)
			}
		}
	}
	if seen < 50 {
		t.Errorf("the documents name %d settings, want at least 50", seen)
	}
}

// Every metric is in docs/operating.md, and every metric that a document names is served.
func TestDocumentsNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	metric := regexp.MustCompile(`\b(?:larder|grpc_server)_[a-z_]+[a-z]\b`)
	admin := lardertest.Start(t, []string{"REDIS_URL=embedded://"}, "serve").Addr(t, "admin")
	reply, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatalf("get /metrics: %v", err)
	}
	defer reply.Body.Close()
	page, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatalf("read /metrics: %v", err)
	}
	var served []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(string(page), -1) {
		served = append(served, m[1])
	}
	sources, err := filepath.Glob(filepath.Join(repoRoot, "service", "*.go"))
	if err != nil {
		t.Fatalf("Glob: %v", err)
	}
	for _, source := range sources { // those that are served once there is something to count
		if !strings.HasSuffix(source, "_test.go") {
			for _, m := range regexp.MustCompile(`"(larder_[a-z_]+)"`).FindAllStringSubmatch(repoFile(t, "service/"+filepath.Base(source)), -1) {
				served = append(served, m[1])
			}
		}
	}
	operating := repoFile(t, "docs/operating.md")
	for _, name := range served {
		if strings.HasPrefix(name, "larder_") && !strings.Contains(operating, name+"`") {
			t.Errorf("docs/operating.md does not name %s, want every metric that is served", name)
		}
	}
	for _, d := range documents(t) {
		for _, name := range metric.FindAllString(d.prose(), -1) {
			if !slices.Contains(served, name) {
				t.Errorf("%s names %s, want a metric that is served", d.path, name)
			}
		}
	}
}

// The targets of make and the files that documents name are there.
func TestDocumentsNameTargetsThatExist(t *testing.T) {
	t.Parallel()
	makefile := repoFile(t, "Makefile")
	file := regexp.MustCompile("`((?:client|cmd|deploy|docs|proto|service|store|\\.ci)/[a-z0-9_./-]+)`")
	for _, d := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)(?:^|`|; |&& |[A-Z_]+=\\S+ )make ([a-z][a-z-]+)").FindAllStringSubmatch(d.text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s says make %s, want a target of the Makefile", d.path, m[1])
			}
		}
		for _, m := range file.FindAllStringSubmatch(d.text, -1) {
			if _, err := os.Stat(filepath.Join(repoRoot, m[1])); err != nil && d.path != "CHANGELOG.md" {
				t.Errorf("%s names %s: %v, want a file that exists", d.path, m[1], err)
			}
		}
	}
}

// Every direct dependency has its reason in ARCHITECTURE.md.
func TestArchitectureNamesEveryDependency(t *testing.T) {
	t.Parallel()
	architecture := repoFile(t, "ARCHITECTURE.md")
	direct := regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(repoFile(t, "go.mod"), -1)
	if len(direct) < 10 {
		t.Fatalf("go.mod has %d direct dependencies, want at least 10", len(direct))
	}
	for _, m := range direct {
		if !strings.Contains(architecture, m[1]) {
			t.Errorf("ARCHITECTURE.md does not name %s, want every direct dependency of go.mod", m[1])
		}
	}
}

// Every package has its row in ARCHITECTURE.md, by its path in the module.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	t.Parallel()
	var named []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z/, ]+) \|`).FindAllStringSubmatch(repoFile(t, "ARCHITECTURE.md"), -1) {
		named = append(named, strings.Split(m[1], ", ")...)
	}
	for _, s := range sources(t) {
		if !slices.Contains(named, s.path()) && !under(s.path(), "gen") {
			t.Errorf("ARCHITECTURE.md has rows of %q, want one of %s", named, s.path())
		}
	}
}
