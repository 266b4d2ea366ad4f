// Command larder is a shared cache and session store over gRPC, kept in Redis.
//
// It exits 0 when it did what was asked, and otherwise 1 with the reason on standard error. The first SIGINT or SIGTERM
// lets the server finish its calls; a second one ends the process at once, with 130 or 143.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/berthcare/larder/cmd/larder/bench"
	"github.com/berthcare/larder/cmd/larder/warm"
)

func main() {
	setBuffers(os.Args[1:])
	os.Exit(run(untilTold(), os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// commands are what larder can be asked to do; each has its own file.
type commands struct {
	Serve   serveCommand       `cmd:"" default:"withargs" help:"Serve until told to stop (the default)."`
	Probe   probeCommand       `cmd:"" help:"Ask a server for its health: exit 0 if it is SERVING, otherwise 1."`
	Version versionCommand     `cmd:"" help:"Print the version."`
	Bench   bench.Command      `cmd:"" help:"Measure the server beside a bare gRPC handler."`
	Warm    warm.Command       `cmd:"" help:"Send entries from a file or from standard input to a server."`
	Export  warm.ExportCommand `cmd:"" help:"Write the entries of a namespace as lines that warm takes."`

	BenchFloor bench.FloorCommand `cmd:"" hidden:"" help:"Be the bare gRPC handler that bench compares with."`
}

// A command is one of commands with its flags set. What it returns is shown to the operator line by line.
type command interface {
	Run(ctx context.Context, stdout io.Writer) error
}

// run carries out one command line and returns the code to exit with.
func run(ctx context.Context, args []string, lookup lookupEnv, stdout, stderr io.Writer) int {
	asked, err := parse(args, lookup, stdout)
	if err == nil && asked != nil {
		err = asked.Run(ctx, stdout)
	}
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "larder: %s\n", strings.TrimSuffix(line, "\n"))
	}
	return 1
}

// untilTold returns a context that ends with the first signal to stop. The second does not wait for anything.
func untilTold() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		if second, ok := (<-signals).(syscall.Signal); ok {
			os.Exit(128 + int(second))
		}
	}()
	return ctx
}
