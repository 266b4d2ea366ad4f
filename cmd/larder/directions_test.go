package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module  = "github.com/berthcare/larder"
	rueidis = "github.com/redis/rueidis"
	rpc     = "google.golang.org/grpc"
)

// directions are who may know whom. They keep one thing in one place: Redis can be replaced under store, and the API
// above service, without touching the rest.
var directions = []struct {
	rule, why string
	within    string   // the packages that it is for, by the beginning of their path in the module
	except    string   // packages of those that it is not for
	forbidden []string // import paths, and all below them
	allowed   []string // of those
	deep      bool     // also through other packages
	tests     bool     // in tests too
	files     []string // files that may nevertheless
}{
	{
		rule: "store knows neither gRPC nor the API", why: "the same store must serve any API, and what it costs must not depend on one",
		within: "store", forbidden: []string{rpc, module + "/gen", module + "/service", module + "/client", module + "/cmd"}, deep: true,
	},
	{
		rule: "rueidis is under store alone", why: "a second place that speaks to Redis would not share its limits, its keys and its near cache",
		within: "", except: "store", forbidden: []string{rueidis}, tests: true,
	},
	{
		rule: "service knows the API and the store", why: "what a client or a command does is not its business",
		within: "service", forbidden: []string{module}, allowed: []string{module + "/service", module + "/gen", module + "/store"},
	},
	{
		rule: "client knows the API alone", why: "whoever imports the client must not get a server with it",
		within: "client", forbidden: []string{module, rueidis, "github.com/prometheus"}, allowed: []string{module + "/client", module + "/gen"}, deep: true,
	},
	{
		rule: "gen knows no other package", why: "every other package may import it",
		within: "gen", forbidden: []string{module}, allowed: []string{module + "/gen"}, deep: true,
	},
	{
		rule: "status codes are made in one table", why: "callers act on codes and reasons, so equal failures must look equal whatever handler met them",
		within: "", except: "client", forbidden: []string{rpc + "/codes", rpc + "/status", "google.golang.org/genproto"},
		files: []string{
			"service/errors.go", "service/interceptors.go",
			"service/metrics.go",  // labels calls with the code that the table gave them
			"cmd/larder/probe.go", // reads the status of another process
		},
	},
	{
		rule: "flags are under cmd alone", why: "a setting that a package reads by itself is in no help and in no test",
		within: "", except: "cmd", forbidden: []string{"flag", "github.com/alecthomas/kong"},
	},
}

// A source is one package of the module.
type source struct {
	ImportPath, Dir                    string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Deps                               []string
}

// path is where the package is in the module, such as "service".
func (s source) path() string { return strings.Trim(strings.TrimPrefix(s.ImportPath, module), "/") }

// sources lists the packages of the module with all that they depend on.
func sources(t *testing.T) []source {
	t.Helper()
	// What go list reads is unknown to the cache of test results; what the test itself reads is not.
	err := filepath.WalkDir(filepath.Join("..", ".."), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && strings.Trim(entry.Name(), ".") != "" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Deps", "./...")
	list.Dir = filepath.Join("..", "..")
	text, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	for decoder := json.NewDecoder(strings.NewReader(string(text))); ; {
		var one source
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// under reports whether a path is one of roots or below one. An empty root is above everything.
func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return root == "" || path == root || strings.HasPrefix(path, root+"/")
	})
}

// parsed calls visit with each file of a package and its path in the module.
func (s source) parsed(t *testing.T, tests bool, visit func(name string, file *ast.File)) {
	t.Helper()
	names := s.GoFiles
	if tests {
		names = slices.Concat(s.GoFiles, s.TestGoFiles, s.XTestGoFiles)
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(s.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		visit(s.path()+"/"+name, file)
	}
}

func TestDirections(t *testing.T) {
	t.Parallel()
	all := sources(t)
	if len(all) < 5 {
		t.Fatalf("found %d packages", len(all))
	}
	for _, d := range directions {
		broken := func(path string) bool { return under(path, d.forbidden...) && !under(path, d.allowed...) }
		for _, s := range all {
			if !under(s.path(), d.within) || d.except != "" && under(s.path(), d.except) || under(s.path(), "gen") && d.within != "gen" {
				continue
			}
			if d.deep {
				for _, dep := range s.Deps {
					if broken(dep) {
						t.Errorf("%s depends on %s: %s, because %s", s.path(), dep, d.rule, d.why)
					}
				}
			}
			s.parsed(t, d.tests, func(name string, file *ast.File) {
				for _, imported := range file.Imports {
					if path, _ := strconv.Unquote(imported.Path.Value); broken(path) && !slices.Contains(d.files, name) {
						t.Errorf("%s imports %s: %s, because %s", name, path, d.rule, d.why)
					}
				}
			})
		}
	}
}

// The environment is read where the settings are, so that each one is in the help and can be set by a test.
func TestEnvironmentIsReadUnderCmdAlone(t *testing.T) {
	t.Parallel()
	readers := []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}
	seen := false
	for _, s := range sources(t) {
		s.parsed(t, false, func(name string, file *ast.File) {
			ast.Inspect(file, func(node ast.Node) bool {
				call, ok := node.(*ast.SelectorExpr)
				if !ok || !slices.Contains(readers, call.Sel.Name) || fmt.Sprint(call.X) != "os" {
					return true
				}
				seen = true
				if !under(s.path(), "cmd", "store/redistest") {
					t.Errorf("%s uses os.%s", name, call.Sel.Name)
				}
				return true
			})
		})
	}
	if !seen {
		t.Error("nothing reads the environment: this test is blind")
	}
}
