package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
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
	// WatchReset means that events may have been lost.
	WatchReset
)

const (
	// watchQueueBytes bounds what waits for one watcher; one that falls further behind is told to start over.
	watchQueueBytes = 1 << 20
	// watchCheck is how often the connections of watches are looked after.
	watchCheck = 250 * time.Millisecond
)

// Watch calls event for everything that happens to the keys of a namespace that begin with one of the prefixes, to its
// tags and to the namespace, beginning with a WatchReset. It returns when ctx ends or event fails. Idle is called when
// nothing has happened for the given time.
//
// Redis broadcasts the names of all keys written in the namespace over connections that are made for it and shared by its
// watchers. When one of them is lost, or the primaries change, all watchers get a WatchReset, and another as soon as
// nothing is missed any more. A watcher that is slower than the events gets one, too.
func (s *Store) Watch(ctx context.Context, namespace string, prefixes []string, every time.Duration, event func(WatchEvent) error, idle func() error) error {
	w := &watcher{prefixes: prefixes, ready: make(chan struct{}, 1)}
	leave, err := s.watches.join(s, namespace, w)
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
			for _, e := range w.take() {
				if err := event(e); err != nil {
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

// namespaceWatch is one watched namespace: its watchers, and the connections over which Redis broadcasts.
type namespaceWatch struct {
	store     *Store
	namespace string
	client    rueidis.Client // nil on the embedded store, which has no other writer than this process
	stop      context.CancelFunc
	stopped   chan struct{}

	mu       sync.Mutex
	watchers map[*watcher]struct{}
	// lost is set while events may be missed, until the connections have been found whole again.
	lost bool
}

// join adds a watcher to its namespace, of which the first makes the connections and the last ends them.
func (ws *watches) join(s *Store, namespace string, w *watcher) (leave func(), err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	n := ws.namespaces[namespace]
	if n == nil {
		if n, err = s.watchNamespace(namespace); err != nil {
			return nil, err
		}
		if ws.namespaces == nil {
			ws.namespaces = make(map[string]*namespaceWatch)
		}
		ws.namespaces[namespace] = n
	}
	n.mu.Lock()
	n.watchers[w] = struct{}{}
	n.mu.Unlock()
	// After it was added: whatever comes now is not missed, and what came before is covered.
	w.add(WatchEvent{Kind: WatchReset})
	return func() {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		n.mu.Lock()
		delete(n.watchers, w)
		last := len(n.watchers) == 0
		n.mu.Unlock()
		if last {
			delete(ws.namespaces, namespace)
			n.close()
		}
	}, nil
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

func (s *Store) watchNamespace(namespace string) (*namespaceWatch, error) {
	ctx, cancel := context.WithCancel(s.lifetime)
	n := &namespaceWatch{
		store: s, namespace: namespace, watchers: make(map[*watcher]struct{}), stop: cancel, stopped: make(chan struct{}),
	}
	if s.options.Mode == Embedded {
		close(n.stopped)
		return n, nil
	}
	if s.clients.Load() == nil {
		cancel()
		return nil, &opError{kind: ErrUnavailable, cause: errors.New("not connected yet")}
	}
	before, _ := s.cacheKeyParts(namespace)
	tracking := []string{"BCAST"}
	if before != "" { // in the plain namespace every key may be one of it
		tracking = append(tracking, "PREFIX", before, "PREFIX", tagKey(namespace, "")[:len(tagKey(namespace, ""))-1], "PREFIX", clearKey(namespace))
	}
	client, err := s.newClient(&tracker{options: tracking, told: n.told})
	if err != nil {
		cancel()
		return nil, s.opening(err)
	}
	n.client = client
	primaries, err := n.check(ctx)
	if err != nil {
		cancel()
		client.Close()
		return nil, err
	}
	go n.look(ctx, primaries)
	return n, nil
}

func (n *namespaceWatch) close() {
	n.stop()
	<-n.stopped
	if n.client != nil {
		// Closing can take a second where Redis is stalled, and nobody waits for it.
		go n.client.Close()
	}
}

// told is called by rueidis with the keys that Redis says were written; nil means that a connection was lost or that all
// data was flushed.
func (n *namespaceWatch) told(keys []rueidis.RedisMessage) {
	if keys == nil {
		n.mu.Lock()
		n.lost = true
		n.mu.Unlock()
		n.reset()
		return
	}
	for _, k := range keys {
		if key, err := k.ToString(); err == nil {
			n.written(key)
		}
	}
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
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.watchers {
		w.add(e)
	}
}

// reset tells the watchers to start over.
func (n *namespaceWatch) reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.watchers {
		w.add(WatchEvent{Kind: WatchReset})
	}
}

// look keeps a connection to every primary, since one is made only when something is asked over it, and notices when
// events may have been missed.
func (n *namespaceWatch) look(ctx context.Context, primaries []uint64) {
	defer close(n.stopped)
	tick := time.NewTicker(watchCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.mu.Lock()
		lost := n.lost
		n.lost = false // what is lost from here on is noticed by the next round
		n.mu.Unlock()
		now, err := n.check(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			n.mu.Lock()
			n.lost = true
			n.mu.Unlock()
		case lost || !slices.Equal(now, primaries):
			primaries = now
			n.reset()
		}
	}
}

// check asks every primary for a sign of life, which makes the connections that are missing, and returns which they are.
func (n *namespaceWatch) check(ctx context.Context) (primaries []uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.store.options.CommandTimeout)
	defer cancel()
	ids, nodes, err := n.store.primaries(ctx, &clients{primary: n.client})
	if err != nil {
		return nil, classify(ctx, err, reads)
	}
	for _, node := range nodes {
		if err := node.Do(ctx, node.B().Ping().Build()).Error(); err != nil {
			return nil, classify(ctx, err, reads)
		}
	}
	return ids, nil
}
