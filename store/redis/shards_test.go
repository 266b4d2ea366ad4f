package redis_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// keysOn returns keys of namespace n whose entries are on one node.
func keysOn(t *testing.T, cluster *redistest.Cluster, node *redistest.Server, number int) (keys []string) {
	t.Helper()
	for i := 0; len(keys) < number; i++ {
		key := fmt.Sprint("key-", i)
		if cluster.Owner(t, cluster.Slot(t, storetest.EntryKey("n", key))) == node {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestAHungShardCostsTheOthersNothing: calls that wait for it leave the others their place, and of a batch it fails its own items.
func TestAHungShardCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Args: []string{"cluster-require-full-coverage", "no"}})
	o := clusterOptions(cluster)
	o.MaxInFlight = 20
	s := storetest.Open(t, store.Options{Redis: o})
	hung, well := keysOn(t, cluster, cluster.Nodes[1], 20), keysOn(t, cluster, cluster.Nodes[0], 20)
	storetest.Fill(t, s, "n", append(hung[:20:20], well...))
	for _, key := range append(hung[:20:20], well...) { // and the invalidation of the namespace, which may be on that node
		storetest.Get(t, s, "n", key, true)
	}
	s.Redis.Near.Forget(entryKeys(hung)...)
	cluster.Nodes[1].Pause(t)

	var waiting sync.WaitGroup
	var refused atomic.Int64
	for i := range 200 {
		waiting.Go(func() {
			_, _, err := s.Cache.Set(t.Context(), "n", hung[i%len(hung)], cache.Write{}, cache.Condition{})
			if errors.Is(err, redis.ErrOverloaded) {
				refused.Add(1)
			}
		})
	}
	storetest.Eventually(t, "calls wait for the shard that hangs", func() bool { return s.Redis.InFlight() == int64(o.MaxInFlight) })
	for range 10 {
		for _, key := range well {
			if err := trySet(t, s, key, "2"); err != nil {
				t.Fatalf("Set on a shard that is well = %v (%s), want no error", err, redis.Cause(err))
			}
		}
	}
	waiting.Wait()
	if got := refused.Load(); got == 0 {
		t.Error("no call to the shard that hangs was refused, want those beyond its share to be")
	}

	begin := time.Now()
	found, err := s.Cache.BatchGet(t.Context(), "n", []string{well[0], hung[0], well[1]}, true)
	if err != nil {
		t.Fatalf("BatchGet = %v (%s), want no error", err, redis.Cause(err))
	}
	for i, wrong := range []bool{found[0].Err != nil || found[0].Entry == nil, !errors.Is(found[1].Err, redis.ErrUnavailable), found[2].Err != nil || found[2].Entry == nil} {
		if wrong {
			t.Errorf("BatchGet: item %d = %v, error %v; want an error of the one on the shard that hangs alone", i, found[i].Entry, found[i].Err)
		}
	}
	t.Logf("BatchGet took %v", time.Since(begin))
	cluster.Nodes[1].Resume(t)
}

func entryKeys(keys []string) []string {
	redisKeys := make([]string, len(keys))
	for i, key := range keys {
		redisKeys[i] = storetest.EntryKey("n", key)
	}
	return redisKeys
}

// TestOneTagsShardHangs: entries whose validity does not depend on it are read.
func TestOneTagsShardHangs(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Args: []string{"cluster-require-full-coverage", "no"}})
	o := clusterOptions(cluster)
	o.CommandTimeout = 500 * time.Millisecond
	s := storetest.Open(t, store.Options{Redis: o})
	owner := func(redisKey string) *redistest.Server { return cluster.Owner(t, cluster.Slot(t, redisKey)) }
	hung, tag := 0, ""
	for i := 0; tag == ""; i++ { // with the invalidation of the namespace on another node
		name := fmt.Sprint("tag-", i)
		if o := owner("ld:t:{n:" + name + "}"); o != owner("ld:n:{n}") {
			hung, tag = slices.Index(cluster.Nodes, o), name
		}
	}
	keys := keysOn(t, cluster, owner("ld:n:{n}"), 2)
	storetest.Set(t, s, "n", keys[0], cache.Write{Value: []byte("1")})
	storetest.Set(t, s, "n", keys[1], cache.Write{Value: []byte("1"), Fresh: time.Hour, Tags: []string{tag}})
	cluster.Nodes[hung].Pause(t)
	found, err := s.Cache.BatchGet(t.Context(), "n", keys, false)
	cluster.Nodes[hung].Resume(t)
	if err != nil {
		t.Fatalf("BatchGet = %v (%s), want no error", err, redis.Cause(err))
	}
	if found[0].Err != nil || found[0].Entry == nil || !errors.Is(found[1].Err, redis.ErrUnavailable) {
		t.Errorf("BatchGet: errors %v and %v, want none and %v of the entry with the tag", found[0].Err, found[1].Err, redis.ErrUnavailable)
	}
}
