package service

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// digestEvery is how often a digest writes a line of one kind.
const digestEvery = time.Second

// A digest keeps the log short when much goes wrong in the same way, as in an overload: of each kind one line is written, and
// then one a second that says how many there were since.
type digest struct {
	logger *slog.Logger
	every  time.Duration

	mu     sync.Mutex
	alike  map[lineKind]*repeats
	closed bool
}

// A lineKind is what lines have in common that are gathered. Each field has few values.
type lineKind struct {
	level   slog.Level
	message string // of the line that tells of the others, such as "calls failed"
	method  string // of calls
	command string // of Redis, of round trips
	code    string
	reason  string
}

// repeats are the lines of one kind that were not written since the last one.
type repeats struct {
	count   int
	longest time.Duration
	cause   string // of the last one
	timer   *time.Timer
}

func newDigest(logger *slog.Logger, every time.Duration) *digest {
	return &digest{logger: logger, every: every, alike: make(map[lineKind]*repeats)}
}

// first reports whether the line of what took a time is to be written. If not, it is counted. At debug level every line is
// written.
func (d *digest) first(kind lineKind, took time.Duration, cause string) bool {
	if d.logger.Enabled(context.Background(), slog.LevelDebug) {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.alike[kind]
	switch {
	case d.closed:
		return true
	case r == nil:
		d.alike[kind] = &repeats{timer: time.AfterFunc(d.every, func() { d.flush(kind) })}
		return true
	}
	r.count++
	r.longest, r.cause = max(r.longest, took), cause
	return false
}

// flush writes the line of a kind, and forgets the kind if there was nothing to write.
func (d *digest) flush(kind lineKind) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.alike[kind]
	if r == nil {
		return
	}
	if r.count == 0 {
		delete(d.alike, kind)
		return
	}
	d.write(kind, r)
	if !d.closed {
		r.timer.Reset(d.every)
	}
	r.count, r.longest, r.cause = 0, 0, ""
}

// write writes the line of a kind. The caller holds d.mu, so that a slow writer of the log delays no more than what it is about.
func (d *digest) write(kind lineKind, r *repeats) {
	attrs := []slog.Attr{slog.Int("count", r.count)}
	for _, a := range []struct{ name, value string }{{"method", kind.method}, {"command", kind.command}, {"code", kind.code}, {"reason", kind.reason}, {"cause", r.cause}} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, a.value))
		}
	}
	attrs = append(attrs, slog.Duration("longest", r.longest), slog.Duration("within", d.every))
	d.logger.LogAttrs(context.Background(), kind.level, kind.message, attrs...)
}

// close writes what is left. From then on every line is written.
func (d *digest) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for kind, r := range d.alike {
		r.timer.Stop()
		if r.count > 0 {
			d.write(kind, r)
		}
	}
	d.alike = nil
}
