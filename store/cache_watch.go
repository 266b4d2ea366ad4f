package store

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// WatchEvent is what happened in a watched namespace.
type WatchEvent struct {
	// Kind says what happened.
	Kind WatchKind
	// Name is the key that was written, or the tag that was invalidated.
	Name string
}

// WatchKind is a kind of event.
type WatchKind int

// The kinds of events.
const (
	// KeyWritten means that a key was written, deleted or has expired.
	KeyWritten WatchKind = iota
	// TagInvalidated means that a tag was invalidated.
	TagInvalidated
	// NamespaceCleared means that the namespace was cleared.
	NamespaceCleared
	// WatchReset means that events may have been lost, or that all data was flushed.
	WatchReset
)

const (
	// watchQueueBytes bounds what waits for one watcher; one that falls further behind is told to start over.
	watchQueueBytes = 1 << 20
)

// Watch calls events for everything that happens to the keys of a namespace that begin with one of the prefixes, to its
// tags and to the namespace, beginning with a WatchReset. Each call gets the events that have queued since the last one, in
// their order and at least one. It returns when ctx ends or events fails. Idle is called when nothing has happened for the
// given time.
//
// Redis broadcasts the names of all keys written in the namespace over connections that are made for it and shared by its
// watchers. When one of them is lost all watchers get a WatchReset, and another as soon as nothing is missed any more; and
// one when the primaries have changed or all data was flushed. A watcher that is slower than the events gets one, too.
func (s *Store) Watch(ctx context.Context, namespace string, prefixes []string, every time.Duration, events func([]WatchEvent) error, idle func() error) error {
	w := &watcher{prefixes: prefixes, ready: make(chan struct{}, 1)}
	leave, err := s.watches.join(ctx, s, namespace, w)
	if err != nil {
		return err
	}
	defer leave()
	quiet := time.NewTimer(every)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.lifetime.Done():
			return ErrUnavailable
		case <-quiet.C:
			if err := idle(); err != nil {
				return err
			}
		case <-w.ready:
			if queued := w.take(); len(queued) > 0 {
				if err := events(queued); err != nil {
					return err
				}
			}
		}
		quiet.Reset(every)
	}
}

// watcher is one caller of Watch.
type watcher struct {
	prefixes []string
	ready    chan struct{}

	mu     sync.Mutex
	queue  []WatchEvent
	queued int // bytes
}

// add queues an event that concerns the watcher, and what is queued is dropped for a reset when it becomes too much.
func (w *watcher) add(e WatchEvent) {
	if e.Kind == KeyWritten && len(w.prefixes) > 0 &&
		!slices.ContainsFunc(w.prefixes, func(p string) bool { return strings.HasPrefix(e.Name, p) }) {
		return
	}
	w.mu.Lock()
	size := len(e.Name) + 32
	if e.Kind == WatchReset || w.queued+size > watchQueueBytes {
		w.queue, w.queued, e = nil, 0, WatchEvent{Kind: WatchReset}
	}
	w.queue = append(w.queue, e)
	w.queued += size
	w.mu.Unlock()
	signal(w.ready)
}

func (w *watcher) take() []WatchEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.queue
	w.queue, w.queued = nil, 0
	return events
}

// watches are the namespaces that are watched.
type watches struct {
	mu         sync.Mutex
	namespaces map[string]*namespaceWatch
}

// join adds a watcher to its namespace, of which the first makes the connections and the last ends them.
func (ws *watches) join(ctx context.Context, s *Store, namespace string, w *watcher) (leave func(), err error) {
	ws.mu.Lock()
	n := ws.namespaces[namespace]
	if n == nil {
		n = s.watchNamespace(namespace)
		if ws.namespaces == nil {
			ws.namespaces = make(map[string]*namespaceWatch)
		}
		ws.namespaces[namespace] = n
	}
	n.mu.Lock()
	n.watchers[w] = struct{}{}
	n.mu.Unlock()
	ws.mu.Unlock()
	leave = func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if delete(n.watchers, w); len(n.watchers) == 0 {
			ws.remove(n)
		}
	}
	select {
	case <-n.begun:
		err = n.failed
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		leave()
		return nil, err
	}
	// After all is connected: whatever comes now is not missed, and what came before is covered.
	w.add(WatchEvent{Kind: WatchReset})
	return leave, nil
}

// remove ends a watched namespace; ws is locked.
func (ws *watches) remove(n *namespaceWatch) {
	if ws.namespaces[n.namespace] == n {
		delete(ws.namespaces, n.namespace)
	}
	n.stop()
}

// tell passes keys that this process has written to the watches of the embedded store, where Redis would.
func (ws *watches) tell(keys []string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, n := range ws.namespaces {
		for _, key := range keys {
			n.written(key)
		}
	}
}

// namespaceWatch is one watched namespace: its watchers, and the connections over which Redis broadcasts.
type namespaceWatch struct {
	store     *Store
	namespace string
	stop      context.CancelFunc
	// dialer is apart from that of requests, which must not wait for what becomes of these connections.
	dialer *dialer
	// conns are the connections by address, used by one goroutine.
	conns map[string]*watchConn
	// begun is closed when they were made, or could not be: then failed says why.
	begun  chan struct{}
	failed error

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// written tells the watchers of a Redis key that was written.
func (n *namespaceWatch) written(redisKey string) {
	var e WatchEvent
	tags := tagKey(n.namespace, "")
	switch before := tags[:len(tags)-1]; {
	case redisKey == clearKey(n.namespace):
		e.Kind = NamespaceCleared
	case strings.HasPrefix(redisKey, before):
		e = WatchEvent{TagInvalidated, strings.TrimSuffix(redisKey[len(before):], "}")}
	default:
		key, ok := n.store.userKey(n.namespace, redisKey)
		if !ok {
			return
		}
		e.Name = key
	}
	n.tell(e)
}

func (n *namespaceWatch) tell(e WatchEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.watchers {
		w.add(e)
	}
}
