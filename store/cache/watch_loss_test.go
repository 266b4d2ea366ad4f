package cache_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

var (
	reset   = cache.WatchEvent{Kind: cache.WatchReset}
	cleared = cache.WatchEvent{Kind: cache.NamespaceCleared}
)

func written(key string) cache.WatchEvent {
	return cache.WatchEvent{Kind: cache.KeyWritten, Name: key}
}

// resets returns how often the watcher was told to start over.
func (w *watching) resets() (n int) {
	for _, e := range w.seen() {
		if e == reset {
			n++
		}
	}
	return n
}

// tells waits until the watcher is told of an event, from the nth on, and returns whether it was told nothing of a loss.
func (w *watching) tells(t *testing.T, n int, want cache.WatchEvent) (whole bool) {
	t.Helper()
	whole = true
	storetest.Eventually(t, fmt.Sprintf("%+v, or a loss, is told", want), func() bool {
		for _, e := range w.after(n) {
			if e == reset {
				whole = false
			}
			if e == want || e == reset {
				return true
			}
		}
		return false
	})
	return whole
}

// checked waits until the connections of the only watch of a server have been looked after a few times more.
func checked(t *testing.T, server *redistest.Server) {
	t.Helper()
	pings := func() int64 { return server.CommandCalls(t)["ping"] }
	before := pings()
	storetest.Eventually(t, "the connections are looked after", func() bool { return pings() >= before+4 })
}

// put writes a key, over and over until it is acknowledged.
func put(t *testing.T, s *store.Store, namespace, key string) {
	t.Helper()
	storetest.Eventually(t, "a write succeeds", func() bool {
		_, _, err := s.Cache.Set(t.Context(), namespace, key, cache.Write{}, cache.Condition{})
		if err != nil && !errors.Is(err, redis.ErrUnavailable) && !errors.Is(err, redis.ErrOutcomeUnknown) {
			t.Errorf("Set: error %v, want none or one of an unavailable Redis: %s", err, redis.Cause(err))
		}
		return err == nil
	})
}

// TestWatchIsNotResetOnJoining: a client of a cluster makes more connections than it keeps, and what becomes of them is no
// loss.
func TestWatchIsNotResetOnJoining(t *testing.T) {
	storetest.Nearly(t, func(t *testing.T, s *store.Store, _ string) {
		watches := make(map[string]*watching)
		for range 20 {
			namespace := storetest.NewNamespace()
			watches[namespace] = watch(t, s, namespace, nil, nil)
		}
		for round := range 3 {
			for namespace, w := range watches {
				n, key := len(w.seen()), strconv.Itoa(round)
				storetest.Set(t, s, namespace, key, cache.Write{})
				w.tells(t, n, written(key))
			}
			after(redis.BroadcastCheck)
		}
		for _, w := range watches {
			if n := w.resets(); n != 1 {
				t.Errorf("%d resets, want 1", n)
			}
			w.end(t)
		}
	})
}

// TestWatchIsNotResetBySlowAnswers: on a connection that lasts nothing is missed, although every check runs out of time.
func TestWatchIsNotResetBySlowAnswers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, CommandTimeout: 300 * time.Millisecond}})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	proxy.Delay(600 * time.Millisecond)
	direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	for i := range 4 {
		key := fmt.Sprintf("slow-%d", i)
		storetest.Set(t, direct, "n", key, cache.Write{})
		storetest.Eventually(t, "the write is told late", w.has(written(key)))
	}
	proxy.Delay(0)
	checked(t, server)
	storetest.Set(t, direct, "n", "prompt", cache.Write{})
	storetest.Eventually(t, "the write is told", w.has(written("prompt")))
	if n := w.resets(); n != 1 {
		t.Errorf("%d resets, want 1", n)
	}
}

// TestWatchResetWhenTheNetworkIsSilent: in bounded time, and again when it speaks.
func TestWatchResetWhenTheNetworkIsSilent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	s, direct := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}}}), storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	for round := range 2 {
		before, began := w.resets(), time.Now()
		proxy.Blackhole(true)
		missed := fmt.Sprintf("missed-%d", round)
		storetest.Set(t, direct, "n", missed, cache.Write{})
		storetest.Eventually(t, "the silence is told", func() bool { return w.resets() > before })
		took := time.Since(began)
		// A second of silence and a second for an answer.
		if t.Logf("told after %v", took); took > 10*time.Second {
			t.Errorf("told of the loss after %v, want at most 10s", took)
		}
		before = w.resets()
		proxy.Blackhole(false)
		storetest.Eventually(t, "the end of the silence is told", func() bool { return w.resets() > before })
		n, key := len(w.seen()), fmt.Sprintf("heard-%d", round)
		storetest.Set(t, direct, "n", key, cache.Write{})
		w.tells(t, n, written(key))
	}
}

// TestWatchResetWhenAllIsFlushed: once, as nothing that comes after it is missed.
func TestWatchResetWhenAllIsFlushed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}})
	all, some := watch(t, s, "n", nil, nil), watch(t, s, "n", []string{"none"}, nil)
	for i, flush := range []string{"FLUSHALL", "FLUSHDB"} {
		storetest.Set(t, s, "n", "key", cache.Write{})
		server.Do(t, flush)
		for _, w := range []*watching{all, some} {
			storetest.Eventually(t, flush+" is told", func() bool { return w.resets() == i+2 })
		}
		n := len(all.seen())
		checked(t, server)
		storetest.Set(t, s, "n", flush, cache.Write{})
		if !all.tells(t, n, written(flush)) {
			t.Errorf("the reset by %s was followed by another one, want one", flush)
		}
	}
	all.end(t)
	some.end(t)
}

// TestWatchClusterFailover: a primary dies and its replica takes over.
func TestWatchClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	watchFailover(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}}, func() { cluster.Nodes[0].Kill() })
}

// TestWatchClusterPlannedFailover: the primary lives on as a replica, and so do the connections to it.
func TestWatchClusterPlannedFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	watchFailover(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}}, func() {
		cluster.Nodes[3].Do(t, "CLUSTER", "FAILOVER")
	})
}

// TestWatchSentinelFailover, where the former primary is demoted much later.
func TestWatchSentinelFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t)
	o := store.Options{Redis: redis.Options{Mode: redis.Sentinel, Addrs: sentinel.Addrs(), SentinelMaster: sentinel.MasterSet}}
	watchFailover(t, o, func() { sentinel.Failover(t) })
}

// watchFailover: what is written around a failover is told, or covered by a reset that comes after it, and then events go
// on.
func watchFailover(t *testing.T, o store.Options, change func()) {
	t.Helper()
	s, writer := storetest.Open(t, o), storetest.Open(t, o)
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	keys := storetest.Keys(30)
	for _, key := range keys {
		n := len(w.seen())
		storetest.Set(t, writer, "n", key, cache.Write{})
		if !w.tells(t, n, written(key)) {
			t.Errorf("%s: a reset came before the change, want the write told", key)
		}
	}
	change()
	for began, whole := time.Now(), false; !whole || w.resets() == 1; {
		if time.Since(began) > time.Minute {
			t.Fatalf("%d resets within a minute, and writes are still missed, want an end of losses", w.resets())
		}
		before, resets := len(w.seen()), w.resets()
		for _, key := range keys {
			put(t, writer, "n", key)
		}
		for _, key := range keys {
			w.tells(t, before, written(key))
		}
		whole = w.resets() == resets
	}
	t.Logf("%d resets", w.resets()-1)
}

// TestWatchResharding: the keys of a slot that moves from one primary to another are told without a loss, while it moves
// and afterwards.
func TestWatchResharding(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	for round := range 5 {
		key := fmt.Sprintf("key-%d", round)
		tell := func(when string) {
			t.Helper()
			n := len(w.seen())
			put(t, s, "n", key)
			if !w.tells(t, n, written(key)) {
				t.Errorf("%s: a reset, want the write of %s told", when, key)
			}
		}
		tell("before")
		reshard(t, cluster.Nodes, s.Cache.RedisKey("n", key), nil, func(when string) { tell(when) })
		tell("after")
	}
}

// TestWatchOfASlotThatMovesToANewPrimary: before it is known what is written there is missed, and a reset covers it.
func TestWatchOfASlotThatMovesToANewPrimary(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	fresh := cluster.Nodes[3]
	// A soft reset would leave it in the shard of its primary, by CLUSTER SHARDS; the others forget who it was.
	id := fresh.Do(t, "CLUSTER", "MYID").(string)
	fresh.Do(t, "CLUSTER", "RESET", "HARD")
	for _, node := range cluster.Nodes {
		if node != fresh {
			node.Do(t, "CLUSTER", "FORGET", id)
		}
	}
	fresh.Do(t, "CLUSTER", "MEET", "127.0.0.1", port(cluster.Nodes[0]))
	for _, node := range cluster.Nodes[:3] {
		storetest.Eventually(t, "it is nobody's replica", func() bool {
			return !strings.Contains(fmt.Sprint(node.Do(t, "CLUSTER", "SLOTS")), port(fresh))
		})
	}
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()[:3]}})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	n := len(w.seen())
	reshard(t, cluster.Nodes[:3], s.Cache.RedisKey("n", "key"), fresh, func(string) {})
	put(t, s, "n", "key")
	storetest.Eventually(t, "the change is told", func() bool { return w.resets() > 1 })
	for whole := false; !whole; n = len(w.seen()) {
		put(t, s, "n", "key")
		whole = w.tells(t, n, written("key"))
	}
}

func port(server *redistest.Server) string { return server.Addr[len("127.0.0.1:"):] }

// reshard moves the slot of a key from the primary that has it to another, the next one unless it is given, and calls
// during in the middle of it.
func reshard(t *testing.T, primaries []*redistest.Server, key string, to *redistest.Server, during func(when string)) {
	t.Helper()
	slot := strconv.FormatInt(primaries[0].Do(t, "CLUSTER", "KEYSLOT", key).(int64), 10)
	from := -1
	for i, node := range primaries {
		if _, err := node.TryDo("GET", key); err == nil {
			from = i
		}
	}
	if from < 0 {
		t.Fatalf("no primary serves slot %s, want one", slot)
	}
	source := primaries[from]
	if to == nil {
		to = primaries[(from+1)%len(primaries)]
	}
	id := func(node *redistest.Server) string { return node.Do(t, "CLUSTER", "MYID").(string) }
	storetest.Eventually(t, "they know each other", func() bool {
		_, err1 := to.TryDo("CLUSTER", "SETSLOT", slot, "IMPORTING", id(source))
		_, err2 := source.TryDo("CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
		return err1 == nil && err2 == nil
	})
	during("while the key has not moved")
	source.Do(t, "MIGRATE", "127.0.0.1", port(to), key, "0", "5000")
	during("while the slot is half moved")
	to.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	source.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
}

// TestWatchPlainNamespace: keys of other clients are told as they are, and nothing of Larder's own.
func TestWatchPlainNamespace(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}, Cache: cache.Options{PlainNamespace: "plain"}})
	all, some := watch(t, s, "plain", nil, nil), watch(t, s, "plain", []string{"user:"}, nil)
	tell := func(e cache.WatchEvent, byPrefix bool, do func()) {
		t.Helper()
		n, m := len(all.seen()), len(some.seen())
		do()
		if !all.tells(t, n, e) || byPrefix && !some.tells(t, m, e) {
			t.Errorf("a reset, want %+v told", e)
		}
	}
	command := func(args ...string) func() { return func() { server.Do(t, args...) } }
	tell(written("user:1"), true, command("SETEX", "user:1", "100", "value"))
	tell(written("user:1"), true, command("EXPIRE", "user:1", "50"))
	tell(written("user:1"), true, command("DEL", "user:1"))
	tell(written("{order}:1"), false, command("HSET", "{order}:1", "f", "v"))
	tell(written("user:2"), true, func() { storetest.Set(t, s, "plain", "user:2", cache.Write{}) })
	tell(written("user:3"), true, func() {
		fillLease(t, s, "plain", "user:3", lease(t, s, "plain", "user:3", tenSeconds), cache.Write{})
	})
	storetest.Set(t, s, "other", "user:4", tagged("value", "tag"))
	tell(cache.WatchEvent{Kind: cache.TagInvalidated, Name: "tag"}, true, func() {
		if err := s.Cache.InvalidateTags(t.Context(), "plain", []string{"tag"}, cache.InvalidateDelete); err != nil {
			t.Fatalf("InvalidateTags: error %v, want none", err)
		}
	})
	tell(cleared, true, func() {
		if err := s.Cache.ClearNamespace(t.Context(), "plain", cache.InvalidateDelete); err != nil {
			t.Fatalf("ClearNamespace: error %v, want none", err)
		}
	})
	for _, e := range all.seen() {
		switch e.Name {
		case "", "tag", "user:1", "user:2", "user:3", "{order}:1":
		default:
			t.Errorf("told of %+v, want events of the plain namespace alone", e)
		}
	}
	for _, e := range some.seen() {
		if e.Name == "{order}:1" {
			t.Errorf("told of %+v, want keys with the prefix alone", e)
		}
	}
	all.end(t)
	some.end(t)
}

// TestWatchOfASlotThatIsHandedOver: its former owner drops the keys and tells nothing, so that a reset tells watchers to drop
// theirs. Slots that move with their keys need none.
func TestWatchOfASlotThatIsHandedOver(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheTTL: time.Second}})
	w := watch(t, s, "n", nil, nil)
	defer w.end(t)
	surveys := func() int64 { return cluster.CommandCalls(t)["cluster|nodes"] }
	surveyed := func() { // each asks the three nodes
		t.Helper()
		before := surveys()
		storetest.Eventually(t, "the owners of slots are known", func() bool { return surveys() >= before+9 })
		after(3 * redis.BroadcastCheck)
	}
	for round := range 3 {
		key := fmt.Sprintf("key-%d", round)
		put(t, s, "n", key)
		slot := cluster.Slot(t, s.Cache.RedisKey("n", key))
		surveyed()
		before := w.resets()
		cluster.MoveSlot(t, slot, cluster.Another(t, slot))
		surveyed()
		if n := w.resets() - before; n != 0 {
			t.Errorf("%d resets after the slot has moved with its keys, want none", n)
		}
		before = w.resets()
		cluster.HandOver(t, slot, cluster.Another(t, slot))
		handed := time.Now()
		storetest.Eventually(t, "a reset is told", func() bool { return w.resets() > before })
		t.Logf("reset %v after the slot was handed over", time.Since(handed))
	}
}
