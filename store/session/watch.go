package session

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Watch delivers the events of a namespace that the filter selects: it calls tell for each, in order for each subject.
// Token, if not empty, resumes the watch after this event. Tell is also called without an event, but with a token, at the
// beginning, at least once per interval, and soon after events that came without a token.
//
// With an empty token the watch delivers what happens after the first call of tell; otherwise it resumes after the token. It
// fails with [ErrEventsTrimmed] if some of those events are gone, and ends when ctx ends or tell fails. Events stay in Redis
// until they are delivered, so a slow caller costs no memory. Redis wakes the watch by invalidating the streams that it has
// read.
func (s *Sessions) Watch(ctx context.Context, namespace string, f EventFilter, token string, interval time.Duration,
	tell func(e *Event, token string) error,
) error {
	w := &watch{sessions: s, namespace: namespace, filter: f, changed: make(chan struct{}, 1), tell: tell, interval: interval}
	var ok bool
	if w.at, ok = parseResume(namespace, f.Subject, token); !ok {
		return redis.ErrPageToken
	}
	keys := make([]string, len(w.at))
	for i := range w.at {
		keys[i] = eventsKey(w.partition(i))
	}
	w.dirty = make([]bool, len(w.at))
	defer s.redis.OnChange(w.wake, keys...)()
	if token == "" {
		for i := 0; i < len(w.at); i += partitionsRead {
			if err := w.read(ctx, redis.Items(len(w.at))[i:min(i+partitionsRead, len(w.at))], 0); err != nil {
				return err
			}
		}
	} else {
		w.wakeAll()
	}
	if err := w.send(nil); err != nil {
		return err
	}
	return w.run(ctx)
}

// watch is one call of Watch. It reads the subject's partition, or all.
type watch struct {
	sessions  *Sessions
	namespace string
	filter    EventFilter
	tell      func(*Event, string) error
	interval  time.Duration

	at      []streamPosition // position in each stream, up to which events were delivered
	sent    time.Time        // when tell was last called
	saved   time.Time        // when tell last got a token
	unsaved int              // events delivered since
	mu      sync.Mutex
	dirty   []bool // for each stream, whether it may have new events
	from    int    // the stream to look at next, so that each has its turn
	changed chan struct{}
}

// partition returns the partition of the position with index i.
func (w *watch) partition(i int) partition {
	if w.filter.Subject == "" {
		return partition(i)
	}
	p, _ := subjectHash(w.namespace, w.filter.Subject)
	return p
}

// wake notes that a stream has changed, or may have.
func (w *watch) wake(key string) {
	p, _ := partitionOf(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[int(p)%len(w.dirty)] = true
	redis.Signal(w.changed)
}

func (w *watch) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.dirty {
		w.dirty[i] = true
	}
	redis.Signal(w.changed)
}

// take returns up to partitionsRead partitions that may have new events. Changes from here on are noted again.
func (w *watch) take() (some []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.dirty {
		i := w.from % len(w.dirty)
		if w.dirty[i] {
			if len(some) == partitionsRead {
				break
			}
			w.dirty[i] = false
			some = append(some, i)
		}
		w.from = i + 1
	}
	return some
}

func (w *watch) run(ctx context.Context) error {
	every := eventsCheck
	if w.sessions.redis.Near == nil && w.sessions.redis.Mode() != redis.Embedded {
		every = eventsCheckUntracked
	}
	check := time.NewTicker(every)
	defer check.Stop()
	for {
		some := w.take()
		if len(some) > 0 {
			if err := w.read(ctx, some, eventsRead); err != nil {
				return err
			}
		}
		due := w.sent.Add(w.interval)
		if saving := w.saved.Add(checkpointAfter); w.unsaved > 0 && saving.Before(due) {
			due = saving
		}
		wait := time.Until(due)
		if wait <= 0 {
			if err := w.send(nil); err != nil {
				return err
			}
			continue
		}
		if len(some) > 0 {
			continue
		}
		heartbeat := time.NewTimer(wait)
		select {
		case <-w.changed:
		case <-heartbeat.C:
		case <-check.C:
			w.wakeAll()
		case <-ctx.Done():
		case <-w.sessions.redis.Lifetime().Done():
		}
		heartbeat.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.sessions.redis.Lifetime().Err() != nil {
			return redis.ErrUnavailable
		}
	}
}

// send calls tell with an event, or with nil, and adds a token when one is due.
func (w *watch) send(e *Event) error {
	now := time.Now()
	w.unsaved++
	token := ""
	if e == nil || len(w.at) == 1 || w.unsaved >= checkpointEvery || now.Sub(w.saved) >= checkpointAfter {
		token = resumeToken(w.namespace, w.filter.Subject, w.at)
		w.saved, w.unsaved = now, 0
	}
	w.sent = now
	return w.tell(e, token)
}

// read reads up to most events from each of some partitions and delivers those that pass the filter. If most is zero it only
// moves the positions to the ends of the streams.
func (w *watch) read(ctx context.Context, some []int, most int) error {
	answers := make([]rueidis.RedisMessage, len(some))
	var failed error
	err := w.sessions.redis.RunBatch(ctx, redis.Items(len(some)), redis.Batch{
		Name: eventsScript.Name(), Effect: redis.Reads, Tracked: true,
		Command: func(b rueidis.Builder, n int) rueidis.Completed {
			key, after, count := eventsKey(w.partition(some[n])), w.at[some[n]].id(), strconv.Itoa(most)
			if w.sessions.redis.Mode() == redis.Embedded { // miniredis refuses the script as a read-only one
				return b.Eval().Script(eventsScript.Text()).Numkeys(1).Key(key).Arg(after, count).Build()
			}
			return b.EvalRo().Script(eventsScript.Text()).Numkeys(1).Key(key).Arg(after, count).Build()
		},
		Read: func(n int, r rueidis.RedisResult) (err error) {
			answers[n], err = r.ToMessage()
			return err
		},
		Fail: func(_ int, err error) { failed = err },
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	for n, i := range some {
		r, err := parseStream(answers[n])
		if err != nil {
			return err
		}
		if most == 0 {
			w.at[i] = r.last
			continue
		}
		if r.gap(w.at[i], most) {
			return ErrEventsTrimmed
		}
		if err := w.tellAll(i, r.events); err != nil {
			return err
		}
		if len(r.events) == most {
			w.wake(eventsKey(w.partition(i)))
		}
	}
	return nil
}

func (w *watch) tellAll(i int, events []streamEvent) error {
	for _, e := range events {
		w.at[i].ms, w.at[i].seq, w.at[i].added = e.at.ms, e.at.seq, w.at[i].added+1
		if e.namespace != w.namespace || !w.filter.passes(&e.Event) {
			continue
		}
		e.ID = strconv.Itoa(int(w.partition(i))) + "-" + e.at.id()
		if err := w.send(&e.Event); err != nil {
			return err
		}
	}
	return nil
}

const (
	// At most so many events of at most so many partitions are read at a time, which bounds the memory of a watch.
	eventsRead      = 64
	partitionsRead  = 16
	checkpointEvery = 100 // events
	checkpointAfter = time.Second
	// eventsCheck is how often a watch reads all streams without being woken, in case a push is lost. Without a near cache
	// there are no pushes.
	eventsCheck          = 30 * time.Second
	eventsCheckUntracked = time.Second
)
