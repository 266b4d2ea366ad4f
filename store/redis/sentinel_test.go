package redis_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

func sentinelOptions(set *redistest.Sentinel) redis.Options {
	return redis.Options{Mode: redis.Sentinel, Addrs: set.Addrs(), SentinelMaster: set.MasterSet, NearCacheBytes: 1 << 20}
}

// TestSentinelNamesAReplica: the node that the sentinels take for the primary has come back as a replica, which they let be for
// some 20 s. It runs alone, as refused counts goroutines.
func TestSentinelNamesAReplica(t *testing.T) {
	set := redistest.StartSentinel(t)
	watched := new(watcher)
	o := sentinelOptions(set)
	o.Observer = watched
	s := storetest.Open(t, store.Options{Redis: o})
	host, port, _ := net.SplitHostPort(set.Replicas[0].Addr)
	set.Primary.Do(t, "REPLICAOF", host, port)
	refused(t, s, watched)
	set.Primary.Do(t, "REPLICAOF", "NO", "ONE")
	works(t, s, time.Now())
}

// TestSentinelPrimaryDies: writes work again soon after another primary is there.
func TestSentinelPrimaryDies(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t)
	s := storetest.Open(t, store.Options{Redis: sentinelOptions(set)})
	set.Primary.Kill()
	promotion(t, set.Replicas...)
	works(t, s, time.Now())
}

// promotion waits until one of some replicas has become a primary, and returns it.
func promotion(t *testing.T, replicas ...*redistest.Server) (promoted *redistest.Server) {
	t.Helper()
	storetest.Eventually(t, "a replica is promoted", func() bool {
		for _, r := range replicas {
			v, _ := r.TryDo("ROLE") // a promotion ends connections
			if role, _ := v.([]any); len(role) > 0 && role[0] == "master" {
				promoted = r
			}
		}
		return promoted != nil
	})
	return promoted
}

// TestSentinelFailoverLosesLittle: in a failover that was asked for, the former primary goes on for some 10 s, and the
// sentinels name it for some 2 s. What it acknowledges after the promotion is lost, so that hardly anything must be sent to it.
func TestSentinelFailoverLosesLittle(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t)
	s := storetest.Open(t, store.Options{Redis: sentinelOptions(set)})
	type write struct {
		key string
		at  time.Time
	}
	var mu sync.Mutex
	var acknowledged []write
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", w, i)
				if _, _, err := s.Cache.Set(t.Context(), "n", key, cache.Write{Value: []byte("v")}, cache.Condition{}); err == nil {
					mu.Lock()
					acknowledged = append(acknowledged, write{key, time.Now()})
					mu.Unlock()
				}
			}
		})
	}
	begin := time.Now()
	var failover sync.WaitGroup
	failover.Go(func() { set.Failover(t) })
	next := promotion(t, set.Replicas...)
	promoted := time.Now()
	storetest.Eventually(t, "the sentinels name the new primary", func() bool { return set.Current(t) != set.Primary })
	named := time.Now()
	close(stop)
	writers.Wait()
	works(t, s, promoted)
	failover.Wait()
	var lost []write
	for _, w := range acknowledged {
		if next.Do(t, "EXISTS", storetest.EntryKey("n", w.key)) == int64(0) {
			lost = append(lost, w)
		}
	}
	t.Logf("%d of %d acknowledged writes are lost; promoted after %v, named after %v", len(lost), len(acknowledged), promoted.Sub(begin), named.Sub(begin))
	if len(lost) > 0 {
		window := lost[len(lost)-1].at.Sub(lost[0].at)
		t.Logf("they were acknowledged within %v", window)
		// Without the check of delivery it is the time for which the sentinels name the former primary, 2.5 s. On a machine
		// that is idle it is less than 0.5 s; on a busy one the promotion itself takes longer.
		if most := 2 * time.Second; window > most {
			t.Errorf("the former primary acknowledged lost writes for %v, want %v at most", window, most)
		}
	}
}

// TestSentinelsAreToldOfAnotherPrimary: an operator promotes a replica by hand, and has the sentinels monitor it under the same
// name. The former primary goes on.
func TestSentinelsAreToldOfAnotherPrimary(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t)
	o := sentinelOptions(set)
	o.NearCacheTTL = 2 * time.Second
	cutOff(t, o, func() *redistest.Server {
		next := set.Replicas[0]
		next.Do(t, "REPLICAOF", "NO", "ONE")
		host, port, _ := net.SplitHostPort(next.Addr)
		for _, sentinel := range set.Sentinels {
			sentinel.Do(t, "SENTINEL", "REMOVE", set.MasterSet)
			sentinel.Do(t, "SENTINEL", "MONITOR", set.MasterSet, host, port, "2")
		}
		return next
	})
}

// TestSentinelPrimaryCutOff: the sentinels have replaced a primary that they do not reach, and to which the store is connected.
func TestSentinelPrimaryCutOff(t *testing.T) {
	t.Parallel()
	set := redistest.StartSeverableSentinel(t)
	o := sentinelOptions(set)
	o.NearCacheTTL = 2 * time.Second
	cutOff(t, o, func() *redistest.Server {
		set.CutOff()
		return promotion(t, set.Replicas...)
	})
}

// TestSentinelsWithoutAMajority: a minority of the sentinels may not know that the others have replaced the primary. It is
// used on their word, and nothing is kept in memory for longer than the bound.
func TestSentinelsWithoutAMajority(t *testing.T) {
	t.Parallel()
	set := redistest.StartSentinel(t)
	o := sentinelOptions(set)
	o.NearCacheTTL = time.Second
	s := storetest.Open(t, store.Options{Redis: o})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("1")})
	keptFor := func(d time.Duration) bool {
		storetest.Eventually(t, "it is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
		for begin := time.Now(); time.Since(begin) < d; {
			if !storetest.Get(t, s, "n", "key", true).Near {
				return false
			}
		}
		return true
	}
	storetest.Eventually(t, "it is kept for longer than the bound", func() bool { return keptFor(2 * o.NearCacheTTL) })
	set.Sentinels[0].Kill()
	storetest.Eventually(t, "it is kept with a majority", func() bool { return keptFor(2 * o.NearCacheTTL) })
	set.Sentinels[1].Kill()
	if keptFor(o.NearCacheTTL + 200*time.Millisecond) {
		t.Errorf("an entry is kept for more than %v without a majority, want %v at most", o.NearCacheTTL+200*time.Millisecond, o.NearCacheTTL)
	}
	set.Primary.Do(t, "CLIENT", "KILL", "TYPE", "normal")
	works(t, s, time.Now())
}

// cutOff has a primary cut off from its peers and replaced by them, and checks that a store which still reaches it writes to
// the new one soon, and answers nothing from memory for longer than the bound that is not written there.
func cutOff(t *testing.T, o redis.Options, replace func() (promoted *redistest.Server)) {
	t.Helper()
	s, other := storetest.Open(t, store.Options{Redis: o}), storetest.Open(t, store.Options{Redis: o})
	keys := storetest.Keys(30)
	for _, key := range keys {
		storetest.Set(t, s, "n", key, cache.Write{Value: []byte("1")})
		storetest.Eventually(t, "it is held", func() bool { return storetest.Get(t, s, "n", key, true).Near })
	}
	next := replace()
	promoted := time.Now()
	written := make(map[string]time.Time)
	for _, key := range keys {
		// What the former one acknowledges until the others are told is lost.
		storetest.Eventually(t, "a write arrives where it belongs", func() bool {
			err := trySet(t, other, key, "2")
			v, refused := next.TryDo("GET", storetest.EntryKey("n", key))
			text, _ := v.(string)
			return err == nil && (strings.HasSuffix(text, "2") || refused != nil) // another primary's, in a cluster
		})
		written[key] = time.Now()
	}
	if took := time.Since(promoted); took > within {
		t.Errorf("all writes of another store work after %v, want %v at most", took, within)
	}
	for right := 0; right < len(keys); {
		right = 0
		for _, key := range keys {
			asked := time.Now()
			f, err := s.Cache.Get(t.Context(), "n", key, true)
			late := asked.Sub(written[key])
			switch {
			case err != nil && late > within:
				t.Fatalf("Get = %v (%s) %v after the write, want no error", err, storetest.Cause(err), late)
			case err == nil && storetest.Version(t, f) == 2:
				right++
			case err == nil && late > o.NearCacheTTL+200*time.Millisecond:
				t.Fatalf("Get = %d %v after the write of 2, want 2", storetest.Version(t, f), late)
			}
		}
	}
	for _, key := range keys {
		storetest.Eventually(t, "a write succeeds", func() bool { return trySet(t, s, key, "3") == nil })
		if got := storetest.Version(t, storetest.Get(t, other, "n", key, false)); got != 3 {
			t.Errorf("Get through another store = %d, want 3", got)
		}
	}
	if took := time.Since(promoted) - o.NearCacheTTL; took > within {
		t.Errorf("all writes of the store work after %v, want %v at most", took, within)
	}
	// The former primary goes on to claim what it had.
	for begin, version := time.Now(), 4; time.Since(begin) < 3*time.Second; version++ {
		key, value := keys[version%len(keys)], strconv.Itoa(version)
		if err := trySet(t, s, key, value); err != nil {
			t.Fatalf("Set %v later = %v (%s), want no error", time.Since(begin), err, storetest.Cause(err))
		}
		if got := storetest.Version(t, storetest.Get(t, other, "n", key, false)); got != int64(version) {
			t.Fatalf("Get through another store %v later = %d, want %d", time.Since(begin), got, version)
		}
		if got := storetest.Version(t, storetest.Get(t, s, "n", key, true)); got != int64(version) {
			t.Fatalf("Get %v later = %d, want %d", time.Since(begin), got, version)
		}
	}
}
