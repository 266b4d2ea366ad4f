package warm

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

// exportPage is the number of keys that are listed, and read, in one request.
const exportPage = 500

// ExportCommand writes the entries of a namespace as lines that [Command] reads.
type ExportCommand struct {
	Addr      string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. An address that means every interface, such as :50051, is dialled on loopback."`
	Namespace string        `default:"default" help:"Namespace to export."`
	Pattern   string        `placeholder:"GLOB" help:"Glob pattern of the keys to export: * matches any bytes, ? one byte, [a-c] and [^a] a class of bytes; \\ escapes the next character. Default: every key."`
	Output    string        `default:"-" placeholder:"FILE" help:"File to write, which is replaced when the export is complete; - is standard output, the default."`
	Attempts  uint          `default:"8" help:"Maximum attempts for each request while the server is unavailable."`
	Timeout   time.Duration `default:"30s" help:"Maximum time for each request, all attempts included."`

	stderr io.Writer // os.Stderr if nil
}

// Help returns the text that `larder export --help` shows above the flags.
func (*ExportCommand) Help() string {
	return `Each line is one entry without its namespace, in the format that larder warm --help describes:

  larder export --namespace a | larder warm --namespace b -

An entry keeps its value, tags, content type and negative flag, and the times at which it becomes stale and expires, by the clock of the machine that runs export. Counters and plain values become entries with the same value. Keys that are not UTF-8 are skipped. Entries that are written during the export may be missing, and an entry may be exported twice. A stale entry that has an expiry is exported as stale; one that never expires is exported, but warm skips it.

The exit code is 0 if every entry was exported, else 1.`
}

// Run exports the namespace to stdout, or to the file of --output, and writes a summary to standard error. It returns an
// error unless every entry was exported.
func (c *ExportCommand) Run(ctx context.Context, stdout io.Writer) error {
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
	e := &export{ExportCommand: c, api: api.Cache, progress: newProgress(c.stderr, -1, 0)}
	err = e.to(ctx, stdout)
	e.progress.end()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return fmt.Errorf("%s; the export is incomplete after %d entries", cause(err), e.entries)
	}
	_, _ = fmt.Fprintf(c.stderr, "%s exported in %v\n", english.Plural(int(e.entries), "entry", "entries"), time.Since(start).Round(time.Millisecond))
	return nil
}

// An export is one run of [ExportCommand].
type export struct {
	*ExportCommand

	api      *client.Cache
	progress *progress
	out      *bufio.Writer
	entries  int64 // written so far
	bytes    int64 // written so far
}

// to exports to stdout, to a regular file, which it replaces, or into a pipe or device.
func (e *export) to(ctx context.Context, stdout io.Writer) error {
	all := func(w io.Writer) error { return e.all(ctx, w) }
	if e.Output == "-" {
		return all(stdout)
	}
	info, err := os.Stat(e.Output)
	if err != nil || info.Mode().IsRegular() {
		return replaceFile(e.Output, all)
	}
	file, err := os.OpenFile(e.Output, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(all(file), file.Close())
}

// all writes every entry of the namespace that matches the pattern.
func (e *export) all(ctx context.Context, w io.Writer) error {
	e.out = bufio.NewWriterSize(w, 1<<16)
	keys := make([]string, 0, exportPage)
	for key, err := range e.api.ListKeys(ctx, e.Pattern, client.ListKeysOptions{PageSize: exportPage}) {
		if err != nil {
			return err
		}
		if keys = append(keys, key); len(keys) == exportPage {
			if err := e.page(ctx, keys); err != nil {
				return err
			}
			keys = keys[:0]
		}
	}
	return errors.Join(e.page(ctx, keys), e.out.Flush())
}

// page reads the entries of keys and writes them. It reads from the Redis primary, so that the export does not evict from
// the near cache what other callers read.
func (e *export) page(ctx context.Context, keys []string) error {
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
				if err := e.write(entryOf(entry, now)); err != nil {
					return err
				}
			}
		}
		e.progress.set(e.bytes, e.entries)
		keys = again
	}
	return nil
}

// write writes one line. Line is nil for an entry that has gone since its key was listed.
func (e *export) write(line *entry) error {
	if line == nil {
		return nil
	}
	encoder := json.NewEncoder(countingWriter{e.out, &e.bytes})
	encoder.SetEscapeHTML(false)
	e.entries++
	return encoder.Encode(line)
}

// A countingWriter adds the number of bytes written to n.
type countingWriter struct {
	io.Writer

	n *int64
}

// Write writes p and counts it.
func (w countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	*w.n += int64(n)
	return n, err
}
