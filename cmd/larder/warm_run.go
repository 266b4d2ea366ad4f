package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berthcare/larder/client"
)

const (
	// warmBatchBytes fill a batch, well below the 4 MiB that every server takes.
	warmBatchBytes = 2 << 20
	// saveEvery is the least time between two checkpoints.
	saveEvery = time.Second
	// maxReported is how many bad lines are shown.
	maxReported = 100
)

// A warming is one run of warm. Batches are in flight side by side and are taken note of in the order of their lines.
type warming struct {
	*warmCommand

	in       *warmInput
	api      *client.Cache
	limit    *rate.Limiter
	most     int // entries of a batch
	progress *transferProgress

	held     *warmLine // was read and did not fit into the batch before
	queue    []*warmBatch
	busy     map[entryID]int // how many batches of the queue hold an entry
	reported int

	at    checkpoint
	path  string // where that is kept; empty for nowhere
	saved time.Time
}

// An entryID names an entry.
type entryID struct{ namespace, key string }

// A warmLine is an entry and the number of its line.
type warmLine struct {
	*entryLine

	number int64
}

func (l *warmLine) id() entryID { return entryID{l.Namespace, l.Key} }

// A warmBatch is what one request, or one for each namespace, sends.
type warmBatch struct {
	lines []*warmLine
	bytes int
	end   checkpoint // behind the last line, as to its place
	bad   int64      // lines that were left out

	done   chan error // has the end of it
	faults []lineFault
	stored int64
}

// A lineFault says what is wrong with a line.
type lineFault struct {
	number int64
	what   string
}

var errBadLines = errors.New("stopped at a bad line: mend it and run the same command again, or add --keep-going")

// run sends everything. What was acknowledged when it returns is in the checkpoint.
func (w *warming) run(ctx context.Context) error {
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	var senders sync.WaitGroup
	err := w.sendAll(calls, &senders)
	for len(w.queue) > 0 { // what is in flight may yet succeed
		if late := w.commit(); late != nil {
			if err == nil || ctx.Err() == nil && !errors.Is(err, errBadLines) {
				err = late
			}
			break
		}
	}
	cancel()
	senders.Wait()
	again := ""
	if w.path != "" {
		again = ": run the same command again to go on"
	}
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("interrupted after line %d%s", w.at.Line, again)
	case err == nil && w.path != "":
		err = os.Remove(w.path)
	case err != nil && !errors.Is(err, errBadLines):
		err = fmt.Errorf("%s; stopped after line %d%s", cause(err), w.at.Line, again)
	}
	if err != nil && w.path != "" {
		err = errors.Join(err, w.save())
	}
	if err == nil && w.at.Bad > 0 {
		err = fmt.Errorf("%d bad lines were left out", w.at.Bad)
	}
	return err
}

func (w *warming) sendAll(ctx context.Context, senders *sync.WaitGroup) error {
	for {
		b, end := w.next(ctx)
		if end != nil && !errors.Is(end, io.EOF) {
			return end
		}
		for len(w.queue) >= w.Concurrency {
			if err := w.commit(); err != nil {
				return err
			}
		}
		if err := w.limit.WaitN(ctx, len(b.lines)); err != nil {
			return err
		}
		for _, l := range b.lines {
			w.busy[l.id()]++
		}
		b.done = make(chan error, 1)
		w.queue = append(w.queue, b)
		senders.Go(func() { b.done <- w.send(ctx, b) })
		if end != nil {
			return nil //nolint:nilerr // the end of the file is none
		}
	}
}

// next reads a batch. Its error is io.EOF with the last one.
func (w *warming) next(ctx context.Context) (*warmBatch, error) {
	b := &warmBatch{}
	defer func() { w.in.mark(&b.end) }()
	for len(b.lines) < w.most {
		l := w.held
		if w.held = nil; l == nil {
			var err error
			if l, err = w.read(b); err != nil {
				return b, err
			}
			if l == nil {
				continue
			}
		}
		if len(b.lines) > 0 && b.bytes+l.size() > warmBatchBytes {
			w.held = l
			return b, nil
		}
		for w.busy[l.id()] > 0 { // one that is in flight could overtake this one
			if err := w.commit(); err != nil {
				return b, err
			}
		}
		if err := ctx.Err(); err != nil {
			return b, err
		}
		w.in.accept()
		b.lines = append(b.lines, l)
		b.bytes += l.size()
	}
	return b, nil
}

// read reads one line; nil for one that is to be left out.
func (w *warming) read(b *warmBatch) (*warmLine, error) {
	text, err := w.in.next()
	if err != nil {
		return nil, err
	}
	number := w.in.line + 1
	if len(text) == 0 {
		w.in.accept()
		return nil, nil
	}
	entry, err := readLine(text)
	if err != nil {
		w.report(lineFault{number, err.Error()})
		if !w.KeepGoing {
			return nil, errBadLines
		}
		b.bad++
		w.in.accept()
		return nil, nil
	}
	if entry.Namespace == "" {
		entry.Namespace = w.Namespace
	}
	return &warmLine{entry, number}, nil
}

func (w *warming) report(f lineFault) {
	if w.reported++; w.reported <= maxReported {
		w.progress.pause()
		_, _ = fmt.Fprintf(w.stderr, "larder: line %d: %s\n", f.number, f.what)
	}
}

// commit waits for the first batch of the queue and takes note of it.
func (w *warming) commit() error {
	b := w.queue[0]
	err := <-b.done
	for _, f := range b.faults {
		w.report(f)
	}
	if err == nil && len(b.faults) > 0 && !w.KeepGoing {
		err = errBadLines
	}
	if err != nil {
		b.faults = nil
		b.done <- err // it stays at the head
		return err
	}
	w.queue = w.queue[1:]
	for _, l := range b.lines {
		if w.busy[l.id()]--; w.busy[l.id()] == 0 {
			delete(w.busy, l.id())
		}
	}
	w.at.Offset, w.at.Line, w.at.SHA256 = b.end.Offset, b.end.Line, b.end.SHA256
	w.at.Stored += b.stored
	w.at.Bad += b.bad + int64(len(b.faults))
	w.at.Expired += int64(len(b.lines)-len(b.faults)) - b.stored
	w.progress.to(w.at.Offset, w.at.Stored)
	if w.path == "" || time.Since(w.saved) < saveEvery {
		return nil
	}
	return w.save()
}

func (w *warming) save() error {
	w.saved = time.Now()
	return w.at.save(w.path)
}

// send writes the entries of a batch, namespace by namespace, and finds the lines that the server refuses.
func (w *warming) send(ctx context.Context, b *warmBatch) error {
	byNamespace := map[string][]*warmLine{}
	var order []string
	for _, l := range b.lines {
		if byNamespace[l.Namespace] == nil {
			order = append(order, l.Namespace)
		}
		byNamespace[l.Namespace] = append(byNamespace[l.Namespace], l)
	}
	for _, namespace := range order {
		lines := byNamespace[namespace]
		for len(lines) > 0 {
			rest, err := w.set(ctx, namespace, lines, b)
			if err != nil {
				return err
			}
			if len(b.faults) > 0 && !w.KeepGoing {
				return nil
			}
			lines = rest
		}
	}
	return nil
}

// set writes entries of one namespace. Where the server refuses some it writes none and returns the others.
func (w *warming) set(ctx context.Context, namespace string, lines []*warmLine, b *warmBatch) (again []*warmLine, err error) {
	now := time.Now()
	var items []client.SetItem
	var alive []*warmLine
	for _, l := range lines {
		if item, ok := l.item(now); ok {
			items, alive = append(items, item), append(alive, l)
		}
	}
	if len(items) == 0 {
		return nil, nil
	}
	written, err := w.api.In(namespace).BatchSet(ctx, items)
	if err != nil {
		refused := refusedLines(err, alive)
		if len(refused) == 0 {
			return nil, err
		}
		b.faults = append(b.faults, refused...)
		return slices.DeleteFunc(alive, func(l *warmLine) bool {
			return slices.ContainsFunc(refused, func(f lineFault) bool { return f.number == l.number })
		}), nil
	}
	for i, item := range written {
		if item.Err != nil {
			return nil, fmt.Errorf("line %d: %s", alive[i].number, cause(item.Err))
		}
	}
	b.stored += int64(len(written))
	return nil, nil
}

// cause is an error of the client without its first word, which the command writes before every line anyhow.
func cause(err error) string { return strings.TrimPrefix(err.Error(), "larder: ") }

// refusedLines are those that an error is about; none if it is about something else.
func refusedLines(err error, lines []*warmLine) (refused []lineFault) {
	var e *client.Error
	if !errors.As(err, &e) {
		return nil
	}
	if len(lines) == 1 && e.Reason == "" && e.Code.String() == "ResourceExhausted" { // gRPC's own word
		return []lineFault{{lines[0].number, "is longer than the server takes"}}
	}
	for _, v := range e.Violations {
		if v.Field == "namespace" {
			for _, l := range lines {
				refused = append(refused, lineFault{l.number, "namespace: " + v.Description})
			}
			return refused
		}
		index, field, ok := strings.Cut(strings.TrimPrefix(v.Field, "items["), "].")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i >= len(lines) {
			continue
		}
		if n := len(refused); n > 0 && refused[n-1].number == lines[i].number {
			refused[n-1].what += "; " + field + ": " + v.Description
			continue
		}
		refused = append(refused, lineFault{lines[i].number, field + ": " + v.Description})
	}
	return refused
}
