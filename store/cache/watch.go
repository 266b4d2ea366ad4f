package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/berthcare/larder/store/redis"
)

// WatchEvent is an event in a watched namespace.
type WatchEvent struct {
	// Kind is the kind of event.
	Kind WatchKind
	// Name is the key that was written or the tag that was invalidated; empty for the other kinds.
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
	// WatchReset means that events may have been lost or that all data was flushed: the watcher must drop all it holds.
	WatchReset
)

// watchQueueBytes is the maximum size of the events queued for one watcher. A watcher that falls further behind gets a
// WatchReset instead of the queued events.
const watchQueueBytes = 1 << 20

// Watch calls events with a [WatchReset], and then with every event of a namespace: of the keys that begin with one of the
// prefixes, none meaning all keys, of its tags and of the namespace itself. Each call gets the events that have queued since
// the last one, at least one, in their order. Watch calls idle whenever there was no event for the time every. It returns when
// ctx ends, or events or idle fails.
//
// Redis broadcasts the names of all keys written in the namespace over connections that are made for the namespace and shared
// by its watchers. All watchers get a WatchReset when one of these connections is lost, another one as soon as it is renewed,
// one when the primaries have changed or all data was flushed, and one when a slot was handed over without its keys. A watcher that is slower than the events gets one as well.
func (c *Cache) Watch(ctx context.Context, namespace string, prefixes []string, every time.Duration, events func([]WatchEvent) error, idle func() error) error {
	w := &watcher{prefixes: prefixes, ready: make(chan struct{}, 1)}
	leave, err := c.join(ctx, namespace, w)
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
		case <-c.redis.Lifetime().Done():
			return redis.ErrUnavailable
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

// add queues an event, unless it is of a key without the watcher's prefixes. A queue that would exceed watchQueueBytes is
// replaced by a WatchReset.
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
	redis.Signal(w.ready)
}

// take empties the queue.
func (w *watcher) take() []WatchEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.queue
	w.queue, w.queued = nil, 0
	return events
}

// watches are the namespaces that have watchers.
type watches struct {
	mu         sync.Mutex
	namespaces map[string]*namespaceWatch
}

// namespaceWatch is the broadcast of one namespace and the watchers that share it.
type namespaceWatch struct {
	cache     *Cache
	namespace string
	broadcast *redis.Broadcast

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// join adds a watcher to a namespace and waits until the broadcast has begun. The first watcher starts the broadcast, and the
// last one to leave ends it.
func (c *Cache) join(ctx context.Context, namespace string, w *watcher) (leave func(), err error) {
	ws := &c.watches
	ws.mu.Lock()
	n := ws.namespaces[namespace]
	if n == nil {
		n = c.watchNamespace(namespace)
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
		delete(n.watchers, w)
		last := len(n.watchers) == 0
		n.mu.Unlock() // before remove: the embedded store tells of writes under a lock that Close takes
		if last {
			ws.remove(n)
		}
	}
	select {
	case <-n.broadcast.Begun():
		if err = n.broadcast.Err(); err != nil {
			// The next watcher makes another attempt, even while others still wait for this one.
			ws.mu.Lock()
			ws.remove(n)
			ws.mu.Unlock()
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		leave()
		return nil, err
	}
	// From here on every write is told; the reset stands for those before.
	w.add(WatchEvent{Kind: WatchReset})
	return leave, nil
}

// remove ends the broadcast of a namespace. The caller holds ws.mu.
func (ws *watches) remove(n *namespaceWatch) {
	if ws.namespaces[n.namespace] == n {
		delete(ws.namespaces, n.namespace)
	}
	n.broadcast.Close()
}

// watchNamespace starts the broadcast of a namespace.
func (c *Cache) watchNamespace(namespace string) *namespaceWatch {
	n := &namespaceWatch{cache: c, namespace: namespace, watchers: make(map[*watcher]struct{})}
	var prefixes []string // none for the plain namespace, where any key may be an entry
	if before, _ := c.entryKeyParts(namespace); before != "" {
		tags := tagKey(namespace, "")
		prefixes = []string{before, tags[:len(tags)-1], clearKey(namespace)}
	}
	n.broadcast = c.redis.Broadcast(prefixes, n.written, func() { n.tell(WatchEvent{Kind: WatchReset}) })
	return n
}

// written tells the watchers that a Redis key was written.
func (n *namespaceWatch) written(redisKey string) {
	var e WatchEvent
	tags := tagKey(n.namespace, "")
	switch before := tags[:len(tags)-1]; {
	case redisKey == clearKey(n.namespace):
		e.Kind = NamespaceCleared
	case strings.HasPrefix(redisKey, before):
		e = WatchEvent{TagInvalidated, strings.TrimSuffix(redisKey[len(before):], "}")}
		if !utf8.ValidString(e.Name) { // nor has Larder written it
			return
		}
	default:
		key, ok := n.cache.toldKey(n.namespace, redisKey)
		if !ok {
			return
		}
		e.Name = key
	}
	n.tell(e)
}

// tell queues an event for every watcher.
func (n *namespaceWatch) tell(e WatchEvent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.watchers {
		w.add(e)
	}
}
