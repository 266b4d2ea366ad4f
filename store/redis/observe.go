package redis

import (
	"context"
	"sync/atomic"
	"time"
)

// Observer is told of round trips and connections. Its methods are called on the path of requests: they must be fast, must
// not block, and must be safe for concurrent use.
type Observer interface {
	// Command reports one round trip: the name of its command or script, its duration and its error. The name is one of a
	// small fixed set and never contains a key or a value.
	Command(name string, took time.Duration, err error)
	// Connection reports a change of the connections to Redis; attempt counts the failures in a row.
	Connection(event ConnectionEvent, attempt int, err error)
}

// ConnectionEvent is a change of the connections to Redis.
type ConnectionEvent string

// The connection events.
const (
	// Dialed means that the client opened one network connection.
	Dialed ConnectionEvent = "dialed"
	// DialFailed means that the client could not open one network connection.
	DialFailed ConnectionEvent = "dial_failed"
	// Closed means that one network connection ended.
	Closed ConnectionEvent = "closed"
	// Lost means that Redis no longer answers the health probes.
	Lost ConnectionEvent = "lost"
	// Restored means that Redis answers the health probes again.
	Restored ConnectionEvent = "restored"
)

type noObserver struct{}

func (noObserver) Command(string, time.Duration, error)   {}
func (noObserver) Connection(ConnectionEvent, int, error) {}

// A Timer sums the time that one request waits for Redis.
type Timer struct{ nanos, trips atomic.Int64 }

// Total returns the time waited so far.
func (t *Timer) Total() time.Duration { return time.Duration(t.nanos.Load()) }

// Trips returns the number of round trips so far.
func (t *Timer) Trips() int64 { return t.trips.Load() }

type timerKey struct{}

// WithTimer returns a context whose round trips are timed by the returned timer.
func WithTimer(ctx context.Context) (context.Context, *Timer) {
	t := new(Timer)
	return context.WithValue(ctx, timerKey{}, t), t
}

// observe reports a round trip that began at start.
func (c *Client) observe(ctx context.Context, name string, start time.Time, err error) {
	took := time.Since(start)
	if t, ok := ctx.Value(timerKey{}).(*Timer); ok {
		t.nanos.Add(int64(took))
		t.trips.Add(1)
	}
	c.options.Observer.Command(name, took, err)
}
