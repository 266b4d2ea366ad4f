package cache_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// waiting is a GetOrLease under way that waits for somebody else's load.
type waiting struct {
	key    string
	leased cache.Leased
	err    error
	took   time.Duration
}

// waitFor begins to wait for a load in each of the stores, and returns when all do.
func waitFor(t *testing.T, namespace, key string, o cache.LeaseOptions, stores ...*store.Store) <-chan waiting {
	t.Helper()
	done := make(chan waiting, len(stores))
	for _, s := range stores {
		go func() {
			began := time.Now()
			l, err := s.Cache.GetOrLease(t.Context(), namespace, key, o)
			done <- waiting{key, l, err, time.Since(began)}
		}()
	}
	for _, s := range stores {
		storetest.Eventually(t, "somebody waits", func() bool { return s.Cache.Waits(namespace, key) })
	}
	return done
}

// TestLeaseWaitersDoNotPoll: while they wait Redis hears nothing of them, and its push wakes them long before the lease
// ends.
func TestLeaseWaitersDoNotPoll(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	o := store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}}
	stores := []*store.Store{storetest.Open(t, o), storetest.Open(t, o)}
	writer := storetest.Open(t, o)
	for name, write := range map[string]func(key, token string){
		"fill": func(key, token string) {
			fillLease(t, writer, "n", key, token, cache.Write{Value: []byte("value"), Fresh: time.Hour})
		},
		"set": func(key, _ string) {
			storetest.Set(t, writer, "n", key, cache.Write{Value: []byte("value"), Fresh: time.Hour})
		},
		"another client": func(key, _ string) { server.Do(t, "SET", writer.Cache.RedisKey("n", key), "value") },
	} {
		token := lease(t, writer, "n", name, cache.LeaseOptions{TTL: cache.MaxLease})
		var done []<-chan waiting
		for range 20 {
			done = append(done, waitFor(t, "n", name, cache.LeaseOptions{TTL: time.Second, Wait: cache.MaxLease}, stores...))
		}
		asked := func() (n int64) {
			for name, calls := range server.CommandCalls(t) {
				switch name {
				case "get", "pttl", "evalsha", "eval", "exists":
					n += calls
				}
			}
			return n
		}
		last := int64(-1)
		storetest.Eventually(t, "all have asked", func() bool {
			before := last
			last = asked()
			return last == before
		})
		after(time.Second)
		if now := asked(); now != last {
			t.Errorf("%s: %d commands within a second of waiting, want none", name, now-last)
		}
		began := time.Now()
		write(name, token)
		for _, ends := range done {
			for range stores {
				if w := <-ends; w.err != nil || w.leased.Entry == nil || string(w.leased.Value) != "value" {
					t.Errorf("%s: GetOrLease = %+v, %v, want the value", name, w.leased, w.err)
				}
			}
		}
		if took := time.Since(began); took > cache.MaxLease/3 {
			t.Errorf("%s: woken after %v, want at most %v", name, took, cache.MaxLease/3)
		}
	}
}

// TestLeaseTakeoverAfterTheLoadersReplicaIsKilled: exactly one of those who wait loads instead, when the lease has run out.
func TestLeaseTakeoverAfterTheLoadersReplicaIsKilled(t *testing.T) {
	storetest.Nearly(t, func(t *testing.T, s *store.Store, namespace string) {
		const ttl = time.Second
		both, loader := storetest.Replicas(t, s), storetest.Open(t, storetest.Options(t, s.Redis.Mode()))
		began := time.Now()
		lease(t, loader, namespace, "key", cache.LeaseOptions{TTL: ttl})
		var loads int64
		var herds sync.WaitGroup
		herds.Go(func() {
			loads = herd(t, both, namespace, 200, cache.LeaseOptions{TTL: 20 * time.Second, Wait: 20 * time.Second}, 300*time.Millisecond)
		})
		for _, s := range both {
			storetest.Eventually(t, "somebody waits", func() bool { return s.Cache.Waits(namespace, "key") })
		}
		loader.Close()
		herds.Wait()
		if took := time.Since(began); loads != 1 || took < ttl-5*time.Millisecond {
			t.Errorf("%d loads after %v, want 1 after %v", loads, took, ttl)
		}
	})
}

// TestLeaseOfANegativeEntry: that the origin has nothing is known for as long as its own ttl, and then asked again.
func TestLeaseOfANegativeEntry(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const ttl = 300 * time.Millisecond
		began := time.Now()
		token := lease(t, s, namespace, "key", tenSeconds)
		if outcome := fillLease(t, s, namespace, "key", token, cache.Write{Negative: true, Fresh: ttl}); outcome != cache.Filled {
			t.Fatalf("Fill = %v, want %v", outcome, cache.Filled)
		}
		for _, other := range storetest.Replicas(t, s) {
			l := getOrLease(t, other, namespace, "key", tenSeconds)
			if time.Since(began) < ttl && (!l.Fresh || l.Entry == nil || !l.Negative || l.Token != "") {
				t.Errorf("GetOrLease while the absence is known = %+v, want a fresh negative entry", l)
			}
		}
		storetest.Eventually(t, "it is asked again", func() bool {
			l := getOrLease(t, s, namespace, "key", tenSeconds)
			return l.Token != "" && l.Entry == nil
		})
		if took := time.Since(began); took < ttl-5*time.Millisecond {
			t.Errorf("the absence was known for %v, want %v", took, ttl)
		}
	})
}

// TestLeaseWaitersSurviveASentinelFailover, after which nobody pushes what the old primary has promised.
func TestLeaseWaitersSurviveASentinelFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t)
	o := store.Options{Redis: redis.Options{Mode: redis.Sentinel, Addrs: sentinel.Addrs(), SentinelMaster: sentinel.MasterSet, NearCacheBytes: 1 << 20}}
	leaseFailover(t, o, func() { sentinel.Failover(t) })
}

// TestLeaseWaitersSurviveAClusterFailover is the same with a primary that dies.
func TestLeaseWaitersSurviveAClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
	o := store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}}
	leaseFailover(t, o, func() { cluster.Nodes[0].Kill() })
}

// leaseFailover: those who wait for a load while the primary changes get what there is, or hear of the outage, or have
// waited for as long as they wanted to. None is forgotten.
func leaseFailover(t *testing.T, o store.Options, change func()) {
	t.Helper()
	const wait = 10 * time.Second
	s, holder := storetest.Open(t, o), storetest.Open(t, o)
	keys := storetest.Keys(30)
	tokens := make(map[string]string)
	var done []<-chan waiting
	for _, key := range keys {
		tokens[key] = lease(t, holder, "n", key, cache.LeaseOptions{TTL: cache.MaxLease})
		done = append(done, waitFor(t, "n", key, cache.LeaseOptions{TTL: cache.MaxLease, Wait: wait}, s, holder))
	}
	change()
	for _, key := range keys {
		storetest.Eventually(t, "a fill is answered", func() bool {
			_, _, err := holder.Cache.Fill(t.Context(), "n", key, tokens[key], cache.Write{Value: []byte("loaded"), Fresh: time.Hour})
			return err == nil
		})
	}
	ends := make(map[string]int)
	for _, done := range done {
		for range 2 {
			w := <-done
			switch {
			case errors.Is(w.err, redis.ErrUnavailable), errors.Is(w.err, redis.ErrOutcomeUnknown):
				ends["away"]++
			case w.err != nil:
				t.Errorf("%s: GetOrLease: error %v, want none or one of an unavailable Redis: %s", w.key, w.err, redis.Cause(w.err))
			case w.leased.Entry != nil && string(w.leased.Value) == "loaded":
				ends["value"]++
			case w.leased.Token != "":
				ends["lease"]++ // the new primary had not heard of the old one
			case w.leased.Entry == nil && w.took >= wait:
				ends["timeout"]++
			default:
				t.Errorf("%s: GetOrLease after %v = %+v, want a value, a lease, or nothing after %v", w.key, w.took, w.leased, wait)
			}
			// The end of the wait may meet round trips that run out of their time.
			if w.took > wait+10*time.Second {
				t.Errorf("%s: GetOrLease took %v, want at most %v", w.key, w.took, wait+10*time.Second)
			}
		}
	}
	t.Log(fmt.Sprint(ends))
}
