package warm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize/english"
	"golang.org/x/time/rate"

	"github.com/berthcare/larder/client"
)

const (
	// saveInterval is the minimum time between two writes of the checkpoint.
	saveInterval = time.Second
	// maxReported is the maximum number of bad lines that are reported.
	maxReported = 100
)

// A run is one run of [Command]. One goroutine reads lines and builds batches, one goroutine for each batch in flight sends
// it, and the first one commits the batches in the order of their lines.
type run struct {
	*Command

	in         *input
	api        *client.Cache
	limit      *rate.Limiter
	maxEntries int // of a batch
	progress   *progress

	held     *numberedEntry  // was read and did not fit into the previous batch; nil for none
	queue    []*batch        // in flight, in the order of their lines
	busy     map[entryID]int // number of batches in the queue that hold the entry
	reported int             // bad lines
	stopped  int64           // bad lines at which the run has stopped; the next run reads them again, so at.Bad excludes them
	started  int             // batches that were handed to a sender

	at    checkpoint
	path  string    // of the checkpoint; empty for none
	saved time.Time // when the checkpoint was last written
}

var errBadLine = errors.New("stopped at a bad line")

// send sends the whole input. When it returns, every acknowledged batch is in the checkpoint.
func (r *run) send(ctx context.Context) error {
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	var senders sync.WaitGroup
	err := r.sendAll(calls, &senders)
	for len(r.queue) > 0 { // batches in flight can still succeed
		if late := r.commit(); late != nil {
			if err == nil || ctx.Err() == nil && !errors.Is(err, errBadLine) {
				err = late
			}
			break
		}
	}
	cancel()
	senders.Wait()
	again := ""
	if r.path != "" && r.at.Line > 0 {
		again = ": run the same command again to resume"
	}
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("interrupted; %s%s", r.reached(), again)
	case errors.Is(err, errBadLine):
		err = fmt.Errorf("%w; %s: correct the line and run the same command again, or add --keep-going", err, r.reached())
	case err != nil:
		err = fmt.Errorf("%s; %s%s", cause(err), r.reached(), again)
	}
	if r.path != "" {
		if err == nil || r.at.Line == 0 { // there is nothing to resume
			err = errors.Join(err, os.Remove(r.path))
		} else {
			err = errors.Join(err, r.save())
		}
	}
	if err == nil && r.at.Bad > 0 {
		err = fmt.Errorf("%s skipped", english.Plural(int(r.at.Bad), "bad line was", "bad lines were"))
	}
	return err
}

// reached says how far the run has got.
func (r *run) reached() string {
	switch {
	case r.at.Line > 0:
		return fmt.Sprintf("stopped after line %d, the last line that the server has acknowledged", r.at.Line)
	case r.started > 0:
		return "the server has acknowledged nothing"
	}
	return "nothing was sent"
}

// sendAll reads the input and starts a sender for each batch. It returns when the last batch is in flight.
func (r *run) sendAll(ctx context.Context, senders *sync.WaitGroup) error {
	for {
		b, end := r.nextBatch(ctx)
		if end != nil && !errors.Is(end, io.EOF) {
			return end
		}
		for len(r.queue) >= r.Concurrency {
			if err := r.commit(); err != nil {
				return err
			}
		}
		if err := r.limit.WaitN(ctx, len(b.entries)); err != nil {
			return err
		}
		for _, e := range b.entries {
			r.busy[e.id()]++
		}
		b.done = make(chan error, 1)
		r.queue = append(r.queue, b)
		if len(b.entries) > 0 {
			r.started++
		}
		senders.Go(func() { b.done <- r.sendBatch(ctx, b) })
		if end != nil {
			return nil //nolint:nilerr // end is io.EOF, which is no failure
		}
	}
}

// nextBatch reads a batch. Its error is io.EOF if the batch is the last one.
func (r *run) nextBatch(ctx context.Context) (*batch, error) {
	b := &batch{}
	defer func() { r.in.mark(&b.end) }()
	for len(b.entries) < r.maxEntries {
		e := r.held
		if r.held = nil; e == nil {
			var err error
			if e, err = r.read(b); err != nil {
				return b, err
			}
			if e == nil {
				continue
			}
		}
		if len(b.entries) > 0 && b.bytes+e.size() > maxBatchBytes {
			r.held = e
			return b, nil
		}
		for r.busy[e.id()] > 0 { // an earlier line with this key is in flight and must be written first
			if err := r.commit(); err != nil {
				return b, err
			}
		}
		if err := ctx.Err(); err != nil {
			return b, err
		}
		r.in.accept()
		b.entries = append(b.entries, e)
		b.bytes += e.size()
	}
	return b, nil
}

// read reads one line. It returns nil for an empty line, and for a bad line that is skipped and counted in b.
func (r *run) read(b *batch) (*numberedEntry, error) {
	text, err := r.in.next()
	if err != nil {
		return nil, err
	}
	number := r.in.line + 1
	if len(text) == 0 {
		r.in.accept()
		return nil, nil
	}
	e, err := parseEntry(text)
	if err != nil {
		r.report(fault{number, err.Error()})
		if !r.KeepGoing {
			r.stopped++
			return nil, errBadLine
		}
		b.bad++
		r.in.accept()
		return nil, nil
	}
	if e.Namespace == "" {
		e.Namespace = r.Namespace
	}
	return &numberedEntry{e, number}, nil
}

// report writes a bad line to standard error.
func (r *run) report(f fault) {
	if r.reported++; r.reported <= maxReported {
		r.progress.hide()
		_, _ = fmt.Fprintf(r.stderr, "larder: line %d: %s\n", f.number, f.what)
	}
}

// commit waits for the first batch of the queue, removes it and moves the checkpoint behind it. A batch that has failed
// stays in the queue, so that nothing behind it is committed.
func (r *run) commit() error {
	b := r.queue[0]
	err := <-b.done
	for _, f := range b.faults {
		r.report(f)
	}
	if err == nil && len(b.faults) > 0 && !r.KeepGoing {
		r.stopped += int64(len(b.faults))
		err = errBadLine
	}
	if err != nil {
		b.faults = nil
		b.done <- err
		return err
	}
	r.queue = r.queue[1:]
	for _, e := range b.entries {
		if r.busy[e.id()]--; r.busy[e.id()] == 0 {
			delete(r.busy, e.id())
		}
	}
	r.at.Offset, r.at.Line, r.at.SHA256 = b.end.Offset, b.end.Line, b.end.SHA256
	r.at.Stored += b.stored
	r.at.Bad += b.bad + int64(len(b.faults))
	r.at.Expired += int64(len(b.entries)-len(b.faults)) - b.stored
	r.progress.set(r.at.Offset, r.at.Stored)
	if r.path == "" || time.Since(r.saved) < saveInterval {
		return nil
	}
	return r.save()
}

// save writes the checkpoint.
func (r *run) save() error {
	r.saved = time.Now()
	return r.at.save(r.path)
}
