// Package lock keeps locks and semaphores in Redis: who has them and until when, with fencing tokens that only grow.
package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// The limits of locks.
const (
	// MinTTL and MaxTTL bound how long a lock is held unless it is renewed.
	MinTTL = 100 * time.Millisecond
	MaxTTL = 24 * time.Hour
	// MaxPermits is the maximum number of concurrent holders.
	MaxPermits = 1000
	// MaxShown is the maximum number of holders that are shown of one lock.
	MaxShown = 16
	// FenceMemory is how long the highest fencing token of a lock is kept after the time that it stands for. It is more than
	// any two clocks of servers differ.
	FenceMemory = 24 * time.Hour
)

const (
	// maxTickets is the maximum number of callers that wait fairly for one lock, on all replicas.
	maxTickets = 1000
	// ticketLife is how long a ticket is kept after a sign of life of the replica whose caller waits.
	ticketLife = 3 * time.Second
	// ticketEvery is the interval of these signs of life.
	ticketEvery = time.Second
	// takenMemory is how long it is remembered from whom a lock was taken.
	takenMemory = time.Minute
)

// The errors of locks, beside those of package redis.
var (
	// ErrNotHeld means that the caller does not have the lock: it has expired, or was released.
	ErrNotHeld = errors.New("the caller does not hold the lock")
	// ErrTooManyWaiters means that too many callers wait for the lock, or for locks altogether.
	ErrTooManyWaiters = errors.New("too many callers wait for locks")
)

// Options configures [Locks].
type Options struct {
	// MaxWaiters is the maximum number of callers of this process that wait; 0 means 2000.
	MaxWaiters int
	// MaxWaitersPerLock is the maximum number of those that wait for one lock; 0 means 500.
	MaxWaitersPerLock int
}

// Locks keeps locks in Redis. It is safe for concurrent use.
type Locks struct {
	redis   *redis.Client
	options Options

	mu        sync.Mutex
	gates     map[gateKey]*gate
	waiting   map[lockKey]int // waiters of each lock
	waiters   int             // of all locks
	observers map[lockKey]*observer
	broadcast *redis.Broadcast // while there are observers and Redis pushes nothing else

	counts counts
}

// counts are the counters of [Stats].
type counts struct {
	acquired, held, forced, holding, expired, taken, gone atomic.Int64
}

// New returns locks over a Redis client.
func New(c *redis.Client, o Options) *Locks {
	if o.MaxWaiters <= 0 {
		o.MaxWaiters = 2000
	}
	if o.MaxWaitersPerLock <= 0 {
		o.MaxWaitersPerLock = 500
	}
	return &Locks{
		redis: c, options: o,
		gates: make(map[gateKey]*gate), waiting: make(map[lockKey]int), observers: make(map[lockKey]*observer),
	}
}

// LimitWaiters lowers the maximum number of callers of this process that wait. It must be called before the first [Locks.Acquire].
func (l *Locks) LimitWaiters(most int) {
	l.options.MaxWaiters = min(l.options.MaxWaiters, max(most, 1))
}

// Stats are counters of [Locks] in this process.
type Stats struct {
	// Waiters is the number of callers that wait.
	Waiters int64
	// Holding is the number of locks that [Locks.Hold] holds.
	Holding int64
	// Acquired counts acquisitions, and Held the answers that others have the lock.
	Acquired, Held int64
	// Forced counts holders from whom a lock was taken.
	Forced int64
	// LostExpired, LostForced and LostGone count the locks that Hold has lost, by reason.
	LostExpired, LostForced, LostGone int64
}

// Stats returns the current counters.
func (l *Locks) Stats() Stats {
	l.mu.Lock()
	waiters := int64(l.waiters)
	l.mu.Unlock()
	return Stats{
		Waiters: waiters, Holding: l.counts.holding.Load(), Acquired: l.counts.acquired.Load(), Held: l.counts.held.Load(),
		Forced: l.counts.forced.Load(), LostExpired: l.counts.expired.Load(), LostForced: l.counts.taken.Load(),
		LostGone: l.counts.gone.Load(),
	}
}

type requestKey struct{}

// A named request has several attempts.
type named struct {
	id      string
	granted atomic.Bool // whether an attempt was told that it has the lock
}

// WithRequest returns a context whose calls of [Locks.Acquire] without a request id belong to one request: the attempts of a
// caller that repeats a call whose answer was lost. When the context ends, what they may have acquired is released, unless one of
// them has returned a grant.
func WithRequest(ctx context.Context) context.Context {
	return context.WithValue(ctx, requestKey{}, &named{id: rand.Text()})
}

// margin is what valid times are shortened by, for clocks that do not run equally fast.
func margin(d time.Duration) time.Duration { return d / 1000 }
