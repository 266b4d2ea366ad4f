// Package warm moves cache entries between files of JSON lines and a Larder server: [Command] is `larder warm`, which sends
// a file, and [ExportCommand] is `larder export`, which writes one.
package warm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/time/rate"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/setting"
)

// maxBatch is the maximum number of entries in a BatchSet.
const maxBatch = 1000

// Command sends the entries of a file to a server, in batches that the server acknowledges one by one. A checkpoint file
// records the acknowledged lines, so that the same command resumes after an interruption.
type Command struct {
	File        string        `arg:"" help:"File of newline-delimited JSON, one entry per line; - reads standard input."`
	Addr        string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. An address that means every interface, such as :50051, is dialled on loopback."`
	Namespace   string        `default:"default" help:"Namespace of the lines that have no namespace field."`
	Rate        float64       `placeholder:"N" help:"Maximum entries sent per second; 0, the default, means unlimited."`
	Concurrency int           `default:"4" help:"Maximum batches in flight."`
	Batch       int           `default:"200" help:"Maximum entries in a batch, 1 to 1000. A batch also ends at 2 MiB."`
	Attempts    uint          `default:"8" help:"Maximum attempts to send a batch while the server is unavailable."`
	Timeout     time.Duration `default:"30s" help:"Maximum time to send a batch, all attempts included."`
	KeepGoing   bool          `help:"Skip bad lines instead of stopping at the first one."`
	Checkpoint  string        `placeholder:"FILE" help:"File that records the progress, so that the command can resume. Default: FILE.checkpoint beside the input file; none for standard input."`
	Restart     bool          `help:"Ignore the checkpoint and begin at the first line."`

	stdin  *os.File  // os.Stdin if nil
	stderr io.Writer // os.Stderr if nil
}

// Help returns the text that `larder warm --help` shows above the flags.
func (*Command) Help() string {
	return `Each line is a JSON object with these fields:

  key           key of the entry; required
  value         value of the entry, if it is text; or
  value_base64  value of the entry, any bytes in base64
  namespace     namespace of the entry, instead of --namespace
  ttl           time to live, such as "60s"; or
  expire_time   time of expiry, such as "2026-11-23T12:00:00Z"; or
  never         true if the entry never expires;
                without any of the three, the default TTL of the server
  stale_ttl     time to serve the entry as stale after its expiry, such as "10m"
  negative      true, without a value, to record that there is no value
  tags          tags of the entry, such as ["a", "b"]
  content_type  content type of the value, such as "text/plain"

The fields mean the same as in larder.cache.v1.SetRequest. A line is skipped if its expire_time and stale_ttl have passed. If several lines have the same key, the last one wins.

After Ctrl-C or an outage, run the same command again: it resumes after the last line that the server has acknowledged. The checkpoint is removed when the whole file has been sent, or if nothing was.

The exit code is 0 if every line was stored or had expired. It is 1 after a bad line, also with --keep-going, after a failure and after an interruption.`
}

// check finds the mistakes in the flags that their types do not exclude.
func (c *Command) check() error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{c.Rate >= 0, "--rate must not be negative"},
		{c.Concurrency >= 1, "--concurrency must be at least 1"},
		{c.Batch >= 1 && c.Batch <= maxBatch, fmt.Sprintf("--batch must be 1 to %d", maxBatch)},
		{c.Attempts >= 1, "--attempts must be at least 1"},
		{c.Timeout > 0, "--timeout must be above zero"},
		{c.Checkpoint == "" || c.File != "-", "--checkpoint requires a file: standard input cannot be resumed"},
	} {
		if !rule.holds {
			faults = append(faults, errors.New(rule.fault))
		}
	}
	return errors.Join(faults...)
}

// Run sends the file and writes a summary to stdout. It returns an error unless every line was stored or had expired.
func (c *Command) Run(ctx context.Context, stdout io.Writer) error {
	if c.stdin == nil {
		c.stdin = os.Stdin
	}
	if c.stderr == nil {
		c.stderr = os.Stderr
	}
	if err := c.check(); err != nil {
		return err
	}
	addr, err := setting.DialAddr(c.Addr)
	if err != nil {
		return err
	}
	in, err := openInput(ctx, c.File, c.stdin)
	if err != nil {
		return err
	}
	defer in.file.Close()
	r := &run{Command: c, in: in, at: checkpoint{Addr: addr, Namespace: c.Namespace}, busy: map[entryID]int{}}
	if err := r.resume(stdout); err != nil {
		return err
	}
	api, err := client.New(client.Options{Target: addr, Timeout: c.Timeout, MaxAttempts: c.Attempts})
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	r.api = api.Cache
	r.limit, r.maxEntries = rate.NewLimiter(rate.Inf, 0), c.Batch
	if c.Rate > 0 { // a batch holds at most the entries of one second, which is the limiter's burst
		r.maxEntries = min(r.maxEntries, max(int(c.Rate), 1))
		r.limit = rate.NewLimiter(rate.Limit(c.Rate), r.maxEntries)
	}
	start := time.Now()
	r.progress = newProgress(c.stderr, in.size, in.offset)
	err = r.send(ctx)
	r.progress.end()
	bad := english.Plural(int(r.at.Bad+r.stopped), "bad line", "bad lines")
	_, _ = fmt.Fprintf(stdout, "%d stored, %d expired and %s in %v\n", r.at.Stored, r.at.Expired, bad, time.Since(start).Round(time.Millisecond))
	return err
}

// resume moves the input to the line at which the previous run stopped, if there is a checkpoint of it, and makes sure
// that the checkpoint can be written.
func (r *run) resume(stdout io.Writer) error {
	if !r.in.regular {
		return nil
	}
	if r.path = r.Checkpoint; r.path == "" {
		r.path = r.File + ".checkpoint"
	}
	if !r.Restart {
		c, found, err := loadCheckpoint(r.path)
		switch {
		case err != nil:
			return err
		case found && (c.Addr != r.at.Addr || c.Namespace != r.at.Namespace):
			return fmt.Errorf("%s belongs to a run with --addr=%s --namespace=%s: choose another --checkpoint, or add --restart", r.path, c.Addr, c.Namespace)
		case found:
			if err := r.in.resume(c); err != nil {
				return err
			}
			r.at = c
			if c.Line > 0 {
				_, _ = fmt.Fprintf(stdout, "resuming after line %d\n", c.Line)
			}
			return nil
		}
	}
	r.in.mark(&r.at)
	if err := r.at.save(r.path); err != nil { // fail now, not at the end of a long run
		return fmt.Errorf("%w: choose a file that can be written with --checkpoint", err)
	}
	return nil
}
