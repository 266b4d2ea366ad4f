// Package lardertest runs the compiled larder command for tests, as package redistest runs redis-server. The TestMain of a
// package that uses it must call [Main].
package lardertest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	// Version is what the compiled command reports as its version.
	Version = "v1.2.3-test"

	command = "github.com/berthcare/larder/cmd/larder"
)

// build compiles the command, once for all tests of a process, into a new folder that it returns.
var build = sync.OnceValues(func() (dir string, err error) {
	if err := readSources(); err != nil {
		return "", fmt.Errorf("read the sources of %s: %w", command, err)
	}
	if dir, err = os.MkdirTemp("", "larder-binary-"); err != nil {
		return "", err
	}
	compile := exec.Command("go", "build", "-ldflags", "-X main.version="+Version, "-o", filepath.Join(dir, "larder"), command)
	if out, err := compile.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("compile %s: %w\n%s", command, err, out)
	}
	return dir, nil
})

// readSources lists the folders of the module. `go test` caches the result of a test until a file or folder that the test
// process itself has read changes; what the compiler reads on its behalf does not count.
func readSources() error {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return err
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
}

// Main runs the tests, removes the compiled command and ends the process.
func Main(m *testing.M) {
	code := m.Run()
	if dir, _ := build(); dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// Binary returns the path of the compiled command. It fails the test if the command does not compile.
func Binary(tb testing.TB) string {
	tb.Helper()
	dir, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "larder")
}
