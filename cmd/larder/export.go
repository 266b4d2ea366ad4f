package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize/english"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/setting"
)

// exportPage is how many keys are listed and read at a time.
const exportPage = 500

// exportCommand writes the entries of a namespace so that warm makes the same ones of them again.
type exportCommand struct {
	Addr      string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. One that means every interface, such as :50051, is asked on loopback."`
	Namespace string        `default:"default" help:"Namespace of the entries."`
	Pattern   string        `placeholder:"GLOB" help:"Export the keys that match: * for any run, ? for one byte, [a-c] and [^a] for classes, \\ before what is meant literally; without it every key."`
	Output    string        `default:"-" placeholder:"FILE" help:"File to write, which is there when it is whole; - is standard output."`
	Attempts  uint          `default:"8" help:"How often at most a call is made while the server is unavailable."`
	Timeout   time.Duration `default:"30s" help:"Longest time for a call, all attempts included."`

	stderr io.Writer
}

// Help is shown after the help of the flags.
func (*exportCommand) Help() string {
	return `Each line is one entry, as larder warm --help tells, without its namespace:

  larder export --namespace a | larder warm --namespace b -

Entries keep their value, tags, content type, negative mark and the time at which they cease to be fresh and at which they are gone, by the clock of the machine that runs export. Counters and plain values come back as entries with that value. Keys that are not UTF-8 are left out. Entries written meanwhile may or may not be exported, and one may be exported twice. What is stale is exported as stale, but that without end is left out by warm.

The exit code is 0 if everything was exported, else 1.`
}

// Run exports the namespace. It returns an error unless everything was exported.
func (c *exportCommand) Run(ctx context.Context, stdout io.Writer) error {
	if c.stderr == nil {
		c.stderr = os.Stderr
	}
	if c.Attempts < 1 || c.Timeout <= 0 {
		return errors.New("--attempts must be at least 1 and --timeout above zero")
	}
	addr, err := setting.DialAddr(c.Addr)
	if err != nil {
		return err
	}
	api, err := client.New(client.Options{Target: addr, Namespace: c.Namespace, Timeout: c.Timeout, MaxAttempts: c.Attempts})
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	start := time.Now()
	e := &exporting{exportCommand: c, api: api.Cache, progress: newTransferProgress(c.stderr, -1, 0)}
	err = e.to(ctx, stdout)
	e.progress.end()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return fmt.Errorf("%s; after %d entries the export is not whole", cause(err), e.entries)
	}
	_, _ = fmt.Fprintf(c.stderr, "%s exported in %v\n", english.Plural(int(e.entries), "entry", "entries"), time.Since(start).Round(time.Millisecond))
	return nil
}

// An exporting is one run of export.
type exporting struct {
	*exportCommand

	api      *client.Cache
	progress *transferProgress
	out      *bufio.Writer
	entries  int64
	bytes    int64
}

// to writes to standard output, to a new file in one step, or into what is no file, such as a pipe.
func (e *exporting) to(ctx context.Context, stdout io.Writer) error {
	export := func(w io.Writer) error { return e.all(ctx, w) }
	if e.Output == "-" {
		return export(stdout)
	}
	info, err := os.Stat(e.Output)
	if err != nil || info.Mode().IsRegular() {
		return writeWhole(e.Output, export)
	}
	file, err := os.OpenFile(e.Output, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(export(file), file.Close())
}

func (e *exporting) all(ctx context.Context, w io.Writer) error {
	e.out = bufio.NewWriterSize(w, 1<<16)
	keys := make([]string, 0, exportPage)
	for key, err := range e.api.ListKeys(ctx, e.Pattern, client.ListKeysOptions{PageSize: exportPage}) {
		if err != nil {
			return err
		}
		if keys = append(keys, key); len(keys) == exportPage {
			if err := e.entriesOf(ctx, keys); err != nil {
				return err
			}
			keys = keys[:0]
		}
	}
	return errors.Join(e.entriesOf(ctx, keys), e.out.Flush())
}

// entriesOf reads and writes the entries of keys. They are read from Redis, so as not to drive out of the near cache what
// others read.
func (e *exporting) entriesOf(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		found, err := e.api.BatchGet(ctx, keys, client.BatchGetOptions{Primary: true})
		if err != nil {
			return err
		}
		now := time.Now()
		var again []string
		for _, entry := range found {
			switch entry.Outcome {
			case client.Failed:
				return entry.Err
			case client.Unprocessed:
				again = append(again, entry.Key)
			default:
				if err := e.write(lineOf(entry, now)); err != nil {
					return err
				}
			}
		}
		e.progress.to(e.bytes, e.entries)
		keys = again
	}
	return nil
}

func (e *exporting) write(l *entryLine) error {
	if l == nil { // it has gone since it was listed
		return nil
	}
	encoder := json.NewEncoder(countingWriter{e.out, &e.bytes})
	encoder.SetEscapeHTML(false)
	e.entries++
	return encoder.Encode(l)
}

// A countingWriter adds up what is written.
type countingWriter struct {
	io.Writer

	n *int64
}

func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	*w.n += int64(n)
	return n, err
}
