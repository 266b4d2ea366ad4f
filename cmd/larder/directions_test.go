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

const module = "github.com/berthcare/larder"

// A room is one package of the module: what it may import, and why no more. Tests may import more; see guarded.
type room struct {
	path string
	// may are the packages of the module that it may import.
	may []string
	// outside are the guarded packages of other modules that it may import.
	outside []string
	why     string
}

// rooms are all packages of the module but those under gen. Imports run downward: a package may import what stands above
// it in this list and in its row, and nothing else of the module.
var rooms = []room{
	{path: "store/near", why: "server and client share one implementation of coherence, which must not depend on either"},
	{path: "store/keyring", why: "whatever is encrypted, the cipher is the same"},
	{path: "store/embedded", outside: []string{miniredis}, why: "it is one more Redis, and knows nothing of what is stored there"},
	{
		path: "store/redis", may: []string{"store/near", "store/embedded"}, outside: []string{rueidis},
		why: "it carries what all features share, and no feature's knowledge",
	},
	{
		path: "store/cache", may: []string{"store/redis", "store/near", "store/keyring"}, outside: []string{rueidis},
		why: "a feature that knew another one could not be understood or changed without it",
	},
	{
		path: "store/session", may: []string{"store/redis", "store/near", "store/keyring"}, outside: []string{rueidis},
		why: "a feature that knew another one could not be understood or changed without it",
	},
	{
		path: "store/ratelimit", may: []string{"store/redis"}, outside: []string{rueidis},
		why: "a feature that knew another one could not be understood or changed without it",
	},
	{
		path: "store/token", may: []string{"store/redis", "store/keyring", "store/session"}, outside: []string{rueidis},
		why: "its scripts end the sessions of a token's subject, and it knows no other feature",
	},
	{
		path: "store/lock", may: []string{"store/redis"}, outside: []string{rueidis},
		why: "a feature that knew another one could not be understood or changed without it",
	},
	{
		path: "store", may: []string{"store/redis", "store/near", "store/keyring", "store/cache", "store/session", "store/ratelimit", "store/token", "store/lock"},
		why: "it connects the features to one Redis, and does nothing by itself",
	},
	{path: "store/redistest", why: "it starts servers, for whichever package tests with them"},
	{
		path: "store/storetest", may: []string{"store", "store/redis", "store/cache", "store/redistest"}, outside: []string{rueidis},
		why: "tests of every package below store open stores alike",
	},
	{
		path: "service/policy", may: []string{"store/session", "store/ratelimit", "store/token", "store/lock"},
		why: "limits and policies are plain values, which a check of the file needs without a server",
	},
	{
		path: "service/edge/rls", outside: []string{envoyModule},
		why: "what Envoy's files and requests mean is one thing, and how it is counted another",
	},
	{
		path: "service", may: []string{"gen", "store", "store/redis", "store/keyring", "store/cache", "store/session", "store/ratelimit", "store/token", "store/lock", "service/policy", "service/edge/rls"},
		outside: []string{grpcModule, codesPkg, prometheus, envoyModule}, why: "it serves the store over the API, whatever a client or a command does",
	},
	{
		path: "client", may: []string{"gen"}, outside: []string{grpcModule, codesPkg},
		why: "whoever imports the client must not get a server with it",
	},
	{path: "cmd/larder/setting", why: "every command parses sizes, secrets and addresses alike"},
	{path: "cmd/larder/lardertest", outside: []string{grpcModule}, why: "it runs the compiled command, for whichever package tests with it"},
	{
		path: "cmd/larder/warm", may: []string{"client", "cmd/larder/setting"},
		why: "it moves entries through the API, as any other client could",
	},
	{
		path: "cmd/larder/bench", may: []string{"gen", "cmd/larder/setting"}, outside: []string{grpcModule, prometheus, envoyModule},
		why: "it compares servers over the wire, as a caller of either",
	},
	{
		path: "cmd/larder", may: []string{"cmd/larder/bench", "cmd/larder/warm", "service", "service/policy", "service/edge/rls", "store", "store/redis", "store/keyring", "store/session", "store/ratelimit", "cmd/larder/setting"},
		outside: []string{grpcModule, kongModule}, why: "it wires everything, and reads the settings",
	},
}

// The guarded packages of other modules, with all below them: a room needs a reason to import one.
const (
	rueidis    = "github.com/redis/rueidis"
	miniredis  = "github.com/alicebob/miniredis"
	grpcModule = "google.golang.org/grpc"
	codesPkg   = "google.golang.org/grpc/codes"
	prometheus = "github.com/prometheus"
	kongModule = "github.com/alecthomas/kong"

	envoyModule = "github.com/envoyproxy"
)

var guarded = []string{rueidis, miniredis, grpcModule, codesPkg, prometheus, kongModule, envoyModule, "flag"}

// statusFiles are the only files of the server that make or read codes and statuses: callers act on codes and reasons, so
// that equal failures must look equal whichever handler met them.
var statusFiles = []string{
	"service/errors.go", "service/interceptors.go",
	"service/metrics.go",  // labels calls with the code that the error table gave them
	"cmd/larder/probe.go", // reads the status of another process
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
		t.Fatalf("WalkDir: %v", err)
	}
	list := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Deps", "./...")
	list.Dir = filepath.Join("..", "..")
	text, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []source
	for decoder := json.NewDecoder(strings.NewReader(string(text))); ; {
		var one source
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("decode the output of go list: %v", err)
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
			t.Fatalf("ParseFile: %v", err)
		}
		visit(s.path()+"/"+name, file)
	}
}

func TestDirections(t *testing.T) {
	t.Parallel()
	all := sources(t)
	known := make(map[string]bool)
	for n, r := range rooms {
		known[r.path] = true
		for _, may := range r.may {
			above := slices.ContainsFunc(rooms[:n], func(other room) bool { return other.path == may })
			if may != "gen" && !above {
				t.Errorf("%s may import %s, want only packages that stand above it: imports run downward", r.path, may)
			}
		}
	}
	for _, s := range all {
		if under(s.path(), "gen") {
			s.parsed(t, false, func(name string, file *ast.File) {
				for _, path := range imports(file) {
					if under(path, module) {
						t.Errorf("%s imports %s, want nothing of the module: every other package may import gen", name, path)
					}
				}
			})
			continue
		}
		n := slices.IndexFunc(rooms, func(r room) bool { return r.path == s.path() })
		if n < 0 {
			t.Errorf("package %s has no row in rooms, want one that says what it may import and why", s.path())
			continue
		}
		delete(known, s.path())
		r := rooms[n]
		s.parsed(t, false, func(name string, file *ast.File) {
			for _, path := range imports(file) {
				if rest, own := strings.CutPrefix(path, module+"/"); own {
					if !slices.ContainsFunc(r.may, func(may string) bool { return rest == may || may == "gen" && under(rest, "gen") }) {
						t.Errorf("%s imports %s, want only %q of the module in %s: %s", name, rest, r.may, r.path, r.why)
					}
				} else if slices.ContainsFunc(guarded, func(g string) bool { return under(path, g) }) && !under(path, r.outside...) {
					t.Errorf("%s imports %s, want only %q of the guarded packages in %s: %s", name, path, r.outside, r.path, r.why)
				}
				if status := under(path, codesPkg, grpcModule+"/status", "google.golang.org/genproto"); status && !under(name, "client") && !slices.Contains(statusFiles, name) {
					t.Errorf("%s imports %s, want codes and statuses in %v only", name, path, statusFiles)
				}
			}
		})
		// A second place that speaks to Redis would not share its limits, its keys and its near cache.
		s.parsed(t, true, func(name string, file *ast.File) {
			for _, path := range imports(file) {
				if under(path, rueidis) && !under(name, "store") {
					t.Errorf("%s imports %s, want it below store only", name, path)
				}
			}
		})
	}
	for path := range known {
		t.Errorf("rooms has a row for %s, want rows of packages that exist only", path)
	}
}

// The client and the store depend on no server, not even through other packages.
func TestDependencies(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, dep := range s.Deps {
			if under(s.path(), "client") && under(dep, module+"/store", module+"/service", rueidis, prometheus) && dep != module+"/store/near" ||
				under(s.path(), "store") && under(dep, grpcModule, module+"/gen", module+"/service", module+"/client") {
				t.Errorf("%s depends on %s, want a client without the server, and a store without gRPC and the packages above it", s.path(), dep)
			}
		}
	}
}

// imports returns the paths that a file imports.
func imports(file *ast.File) (paths []string) {
	for _, imported := range file.Imports {
		path, _ := strconv.Unquote(imported.Path.Value)
		paths = append(paths, path)
	}
	return paths
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
					t.Errorf("%s uses os.%s, want settings to be read under cmd only", name, call.Sel.Name)
				}
				return true
			})
		})
	}
	if !seen {
		t.Errorf("no package uses os.%s, want at least one that does: otherwise this test finds nothing", strings.Join(readers, " or os."))
	}
}
