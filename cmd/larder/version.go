package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = "dev"

// versionCommand is `larder version`.
type versionCommand struct{}

// Run prints one line, such as "larder v1.2.3 (go1.26.0 linux/amd64)".
func (versionCommand) Run(_ context.Context, stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "larder %s (%s %s/%s)\n", release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// release returns the version of this build: that of the linker flag, or else of the module, which `go install
// module@version` records, or else "dev".
func release() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}
