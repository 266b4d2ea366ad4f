package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/setting"
)

// maxWarmBatch is the most entries that a BatchSet takes.
const maxWarmBatch = 1000

// warmCommand sends entries to a server, in batches of which each is acknowledged. What a run has sent is noted in a
// checkpoint, so that the same command goes on after an interruption.
type warmCommand struct {
	File        string        `arg:"" help:"Newline-delimited JSON, one entry a line; - is standard input."`
	Addr        string        `env:"LARDER_GRPC_ADDR" default:"127.0.0.1:50051" help:"Address of the server. One that means every interface, such as :50051, is asked on loopback."`
	Namespace   string        `default:"default" help:"Namespace of the lines that name none."`
	Rate        float64       `placeholder:"N" help:"Most entries to send in a second; without it there is no limit."`
	Concurrency int           `default:"4" help:"Most batches in flight at once."`
	Batch       int           `default:"200" help:"Most entries in a batch, up to 1000; 2 MiB fill one too."`
	Attempts    uint          `default:"8" help:"How often at most a batch is sent while the server is unavailable."`
	Timeout     time.Duration `default:"30s" help:"Longest time for a batch, all attempts included."`
	KeepGoing   bool          `help:"Leave out bad lines, instead of stopping at the first."`
	Checkpoint  string        `placeholder:"FILE" help:"Where to note how far it has come; without it in FILE.checkpoint, beside the file that is read. Standard input has none."`
	Restart     bool          `help:"Begin at the first line, whatever the checkpoint says."`

	stdin  *os.File
	stderr io.Writer
}

// Help is shown after the help of the flags.
func (*warmCommand) Help() string {
	return `A line is an object of

  key           the entry's key
  value         its value, if that is text; or
  value_base64  its value, whatever it is
  namespace     instead of --namespace
  ttl           "60s"; or expire_time "2026-11-23T12:00:00Z"; or never true; without any of them the server's default
  stale_ttl     "10m"
  negative      true instead of a value
  tags          ["a", "b"]
  content_type  "text/plain"

as the API knows them. An entry whose expire_time and stale_ttl are over is left out. Of lines with one key the last wins.

After Ctrl-C, or when the server could not be reached, the same command goes on behind the last line that is known to be stored. The checkpoint is removed at the end of the file.

The exit code is 0 if every line was stored or had expired, else 1: after a bad line, also with --keep-going, a failure or an interruption.`
}

func (c *warmCommand) check() error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{c.Rate >= 0, "--rate must not be negative"},
		{c.Concurrency >= 1, "--concurrency must be at least 1"},
		{c.Batch >= 1 && c.Batch <= maxWarmBatch, fmt.Sprintf("--batch must be 1 to %d", maxWarmBatch)},
		{c.Attempts >= 1, "--attempts must be at least 1"},
		{c.Timeout > 0, "--timeout must be above zero"},
		{c.Checkpoint == "" || c.File != "-", "--checkpoint is of use with a file alone"},
	} {
		if !rule.holds {
			faults = append(faults, errors.New(rule.fault))
		}
	}
	return errors.Join(faults...)
}

// Run sends what is in the file. It returns an error unless every line was stored or had expired.
func (c *warmCommand) Run(ctx context.Context, stdout io.Writer) error {
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
	w := &warming{warmCommand: c, in: in, at: checkpoint{Addr: addr, Namespace: c.Namespace}, busy: map[entryID]int{}}
	if err := w.resume(stdout); err != nil {
		return err
	}
	api, err := client.New(client.Options{Target: addr, Timeout: c.Timeout, MaxAttempts: c.Attempts})
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	w.api = api.Cache
	w.limit, w.most = rate.NewLimiter(rate.Inf, 0), c.Batch
	if c.Rate > 0 { // no batch is more than a second's worth
		w.most = min(w.most, max(int(c.Rate), 1))
		w.limit = rate.NewLimiter(rate.Limit(c.Rate), w.most)
	}
	start := time.Now()
	w.progress = newTransferProgress(c.stderr, in.size, in.offset)
	err = w.run(ctx)
	w.progress.end()
	_, _ = fmt.Fprintf(stdout, "%d stored, %d expired and %d bad lines in %v\n", w.at.Stored, w.at.Expired, w.at.Bad, time.Since(start).Round(time.Millisecond))
	return err
}

// resume goes to where the run before has ended, if there was one.
func (w *warming) resume(stdout io.Writer) error {
	if !w.in.regular {
		return nil
	}
	if w.path = w.Checkpoint; w.path == "" {
		w.path = w.File + ".checkpoint"
	}
	if !w.Restart {
		c, found, err := loadCheckpoint(w.path)
		switch {
		case err != nil:
			return err
		case found && (c.Addr != w.at.Addr || c.Namespace != w.at.Namespace):
			return fmt.Errorf("%s is of a run with --addr=%s --namespace=%s: name another with --checkpoint, or add --restart", w.path, c.Addr, c.Namespace)
		case found:
			if err := w.in.resume(c); err != nil {
				return err
			}
			w.at = c
			if c.Line > 0 {
				_, _ = fmt.Fprintf(stdout, "going on after line %d\n", c.Line)
			}
			return nil
		}
	}
	w.in.mark(&w.at)
	if err := w.at.save(w.path); err != nil { // now, not after hours
		return fmt.Errorf("%w: name a place that can be written with --checkpoint", err)
	}
	return nil
}
