// Command larder is a shared cache and session store over gRPC that keeps its data in Redis.
//
// It exits with 0 if it did what was asked, else with 1 and the reason on standard error. The first SIGINT or SIGTERM lets
// the server finish its calls. The second one ends the process at once, with the exit code 130 or 143.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/berthcare/larder/cmd/larder/bench"
	"github.com/berthcare/larder/cmd/larder/warm"
)

func main() {
	setMemoryLimit()
	setBuffers(os.Args[1:])
	os.Exit(run(untilSignal(), os.Args[1:], environmentOf(os.Environ()), os.Stdout, os.Stderr))
}

// commands are the commands of larder. Their help begins with their line here.
type commands struct {
	Serve   serveCommand       `cmd:"" default:"withargs" help:"Serve until a signal stops the process (the default command)."`
	Probe   probeCommand       `cmd:"" help:"Check the health of a server: exit with 0 if it is SERVING, else with 1."`
	Version versionCommand     `cmd:"" help:"Print the version."`
	Bench   bench.Command      `cmd:"" help:"Measure the server side by side with the floor, a bare gRPC handler."`
	Warm    warm.Command       `cmd:"" help:"Send cache entries from a file or from standard input to a server."`
	Export  warm.ExportCommand `cmd:"" help:"Write the cache entries of a namespace as lines that warm reads."`

	BenchFloor bench.FloorCommand `cmd:"" hidden:"" help:"Serve the floor that bench compares with."`
}

// A command is one of commands, with its flags set. Its error is shown to the operator line by line.
type command interface {
	Run(ctx context.Context, stdout io.Writer) error
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, env environment, stdout, stderr io.Writer) int {
	chosen, err := parse(args, env, stdout)
	if err == nil && chosen != nil {
		err = chosen.Run(ctx, stdout)
	}
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "larder: %s\n", strings.TrimSuffix(line, "\n"))
	}
	return 1
}
