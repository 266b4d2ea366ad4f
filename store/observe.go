package store

import (
	"context"
	"sync/atomic"
	"time"
)

// Observer is told what passes between the store and Redis. Its methods are called on the path of requests: they must be
// fast, must not block, and must be safe for concurrent use.
type Observer interface {
	// Command reports one round trip: the name of its command or script, how long it took and how it ended. The name
	// is one of a small fixed set; it never holds a key or a value.
	Command(name string, took time.Duration, err error)
	// Connection reports a change of the connections to Redis.
	Connection(event ConnectionEvent, attempt int, err error)
}

// ConnectionEvent is a change of the connections to Redis.
type ConnectionEvent string

// The changes of the connections to Redis.
const (
	// Dialed means that one network connection was opened.
	Dialed ConnectionEvent = "dialed"
	// DialFailed means that one network connection could not be opened.
	DialFailed ConnectionEvent = "dial_failed"
	// Closed means that one network connection ended.
	Closed ConnectionEvent = "closed"
	// Lost means that Redis ceased to answer.
	Lost ConnectionEvent = "lost"
	// Restored means that Redis answers again.
	Restored ConnectionEvent = "restored"
)

type nobody struct{}

func (nobody) Command(string, time.Duration, error)   {}
func (nobody) Connection(ConnectionEvent, int, error) {}

// A Timer adds up the time that one request spends waiting for Redis.
type Timer struct{ nanos, trips atomic.Int64 }

// Total returns the time spent waiting for Redis so far.
func (t *Timer) Total() time.Duration { return time.Duration(t.nanos.Load()) }

// Trips returns the number of round trips to Redis so far.
func (t *Timer) Trips() int64 { return t.trips.Load() }

type timerKey struct{}

// WithTimer returns a context whose operations add the time that they wait for Redis to the returned timer.
func WithTimer(ctx context.Context) (context.Context, *Timer) {
	t := new(Timer)
	return context.WithValue(ctx, timerKey{}, t), t
}

// observe reports a round trip that began at start.
func (s *Store) observe(ctx context.Context, name string, start time.Time, err error) {
	took := time.Since(start)
	if t, ok := ctx.Value(timerKey{}).(*Timer); ok {
		t.nanos.Add(int64(took))
		t.trips.Add(1)
	}
	s.options.Observer.Command(name, took, err)
}
