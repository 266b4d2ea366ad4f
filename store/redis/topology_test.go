package redis_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func clusterOptions(cluster *redistest.Cluster) redis.Options {
	return redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs(), NearCacheBytes: 1 << 20}
}

// TestSlotMovesBetweenPrimaries: what its former owner was asked is not answered from memory for longer than the bound, whether
// it was there or not, and whether the keys move with the slot or are left behind. The former owner tells nothing of keys that
// it does not have.
func TestSlotMovesBetweenPrimaries(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(t *testing.T, c *redistest.Cluster, slot int){
		"with its keys": func(t *testing.T, c *redistest.Cluster, slot int) {
			t.Helper()
			c.MoveSlot(t, slot, c.Another(t, slot))
		},
		"without its keys": func(t *testing.T, c *redistest.Cluster, slot int) {
			t.Helper()
			c.HandOver(t, slot, c.Another(t, slot))
		},
		"half-way": func(t *testing.T, c *redistest.Cluster, slot int) {
			t.Helper()
			to := c.Another(t, slot)
			c.BeginMove(t, slot, to)
			c.MoveKeys(t, slot, to)
		},
		"half-way and back": func(t *testing.T, c *redistest.Cluster, slot int) {
			t.Helper()
			owner := c.Owner(t, slot)
			c.MoveSlot(t, slot, c.Another(t, slot))
			c.BeginMove(t, slot, owner)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
			o := clusterOptions(cluster)
			o.NearCacheTTL = 2 * time.Second
			s, other := storetest.Open(t, store.Options{Redis: o}), storetest.Open(t, store.Options{Redis: o})
			created, err := s.Sessions.Create(t.Context(), "n", session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
			if err != nil {
				t.Fatalf("Create = %v, want no error", err)
			}
			validate := func() session.Verdict {
				v, err := s.Sessions.Validate(t.Context(), "n", session.Validation{Token: created.Token, Near: true, Touch: session.TouchNever})
				if err != nil {
					t.Fatalf("Validate = %v (%s), want no error", err, storetest.Cause(err))
				}
				return v
			}
			storetest.Set(t, s, "n", "there", cache.Write{Value: []byte("1"), Fresh: time.Hour, Tags: []string{"tag"}})
			storetest.Set(t, s, "n", "tagged", cache.Write{Value: []byte("1"), Fresh: time.Hour, Tags: []string{"tag"}})
			storetest.Set(t, s, "cleared", "key", cache.Write{Value: []byte("1"), Fresh: time.Hour})
			near := func(key string) bool { return storetest.Get(t, s, "n", key, true).Near }
			storetest.Eventually(t, "all is held, also what is absent", func() bool {
				v := validate()
				return near("there") && near("absent") && near("tagged") && v.Session != nil && storetest.Get(t, s, "cleared", "key", true).Near
			})
			changed, done := s.Redis.Wait(storetest.EntryKey("n", "absent"))
			defer done()
			partition, err := base64.RawURLEncoding.DecodeString(created.Session.ID)
			if err != nil {
				t.Fatalf("session id %q: %v, want base64", created.Session.ID, err)
			}
			moving := []string{storetest.EntryKey("n", "there"), storetest.EntryKey("n", "absent"), "ld:t:{n:tag}", "ld:n:{cleared}"}
			if !strings.HasPrefix(name, "half-way") { // while it lasts nothing can be revoked
				moving = append(moving, fmt.Sprintf("ld:u:{p%d}", partition[0]))
			}
			for _, redisKey := range moving {
				move(t, cluster, cluster.Slot(t, redisKey))
			}
			for _, key := range []string{"there", "absent"} {
				storetest.Eventually(t, "a write succeeds", func() bool { return trySet(t, other, key, "2") == nil })
			}
			storetest.Eventually(t, "an invalidation succeeds", func() bool {
				return other.Cache.InvalidateTags(t.Context(), "n", []string{"tag"}, cache.InvalidateDelete) == nil
			})
			storetest.Eventually(t, "a namespace is cleared", func() bool {
				return other.Cache.ClearNamespace(t.Context(), "cleared", cache.InvalidateDelete) == nil
			})
			storetest.Eventually(t, "a revocation succeeds", func() bool {
				_, err := other.Sessions.RevokeSubject(t.Context(), "n", "ann", session.SubjectRevocation{})
				return err == nil
			})
			written := time.Now()
			const all = 5
			for right := 0; right < all; {
				right = 0
				asked := time.Now()
				for _, key := range []string{"there", "absent"} {
					if f, err := s.Cache.Get(t.Context(), "n", key, true); err == nil && storetest.Version(t, f) == 2 {
						right++
					}
				}
				if f, err := s.Cache.Get(t.Context(), "n", "tagged", true); err == nil && f.Entry == nil {
					right++
				}
				if f, err := s.Cache.Get(t.Context(), "cleared", "key", true); err == nil && f.Entry == nil {
					right++
				}
				if v := validate(); v.Session == nil {
					right++
				}
				if late := asked.Sub(written); right < all && late > o.NearCacheTTL+300*time.Millisecond {
					t.Fatalf("%d of %d answers are right %v after the writes, want all", right, all, late)
				}
			}
			select {
			case <-changed:
			case <-time.After(o.NearCacheTTL):
				t.Error("who waits for the absent key is told nothing, want to be woken")
			}
		})
	}
}

// TestWaitersHearOfASlotThatMoves also where there is no near cache, and where the slot moves before the owners were known.
func TestWaitersHearOfASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	for _, bytes := range []int64{0, 1 << 20} {
		o := clusterOptions(cluster)
		o.NearCacheBytes, o.NearCacheTTL = bytes, 2*time.Second
		s := storetest.Open(t, store.Options{Redis: o})
		key := storetest.EntryKey("n", "absent")
		slot := cluster.Slot(t, key)
		to := cluster.Another(t, slot)
		for step, move := range []func(){
			func() { cluster.BeginMove(t, slot, to) },
			func() { cluster.EndMove(t, slot, to) },
		} {
			changed, done := s.Redis.Wait(key)
			move()
			select {
			case <-changed:
			case <-time.After(10 * time.Second): // it takes a third of NearCacheTTL, and what a busy machine adds
				t.Errorf("near cache of %d bytes, step %d: who waits for a key is told nothing for 10 s, want to be woken", bytes, step)
			}
			done()
		}
	}
}

// TestClusterPrimaryCutOff: the others have replaced a primary that they do not reach, and to which the store is connected.
func TestClusterPrimaryCutOff(t *testing.T) {
	t.Parallel()
	for _, reads := range []string{"no", "yes"} {
		t.Run("cluster-allow-reads-when-down "+reads, func(t *testing.T) {
			t.Parallel()
			cluster := redistest.StartCluster(t, redistest.ClusterOptions{
				Replicas: 1, Severable: true, Args: []string{"cluster-allow-reads-when-down", reads},
			})
			o := clusterOptions(cluster)
			o.NearCacheTTL = 2 * time.Second
			cutOff(t, o, func() *redistest.Server {
				cluster.CutOff(t, cluster.Nodes[0])
				return promotion(t, cluster.Nodes[3])
			})
		})
	}
}

// TestClusterWithoutTheRightToSeeIt: a user who may not run CLUSTER NODES is served, the operator is told, and nothing is kept
// in memory for longer than the bound.
func TestClusterWithoutTheRightToSeeIt(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	for _, n := range cluster.Nodes {
		n.Do(t, "ACL", "SETUSER", "larder", "on", ">pass", "~*", "+@all", "-cluster|nodes")
	}
	logged := new(syncBuffer)
	o := clusterOptions(cluster)
	o.Username, o.Password, o.NearCacheTTL, o.Logger = "larder", "pass", time.Second, slog.New(slog.NewTextHandler(logged, nil))
	s := storetest.Open(t, store.Options{Redis: o})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("1")})
	storetest.Eventually(t, "it is held", func() bool { return storetest.Get(t, s, "n", "key", true).Near })
	held := time.Now()
	storetest.Eventually(t, "it is read again", func() bool { return !storetest.Get(t, s, "n", "key", true).Near })
	if kept := time.Since(held); kept > o.NearCacheTTL+200*time.Millisecond {
		t.Errorf("the entry is kept for %v, want %v at most", kept, o.NearCacheTTL)
	}
	if n := strings.Count(logged.String(), "CLUSTER NODES"); n != 1 {
		t.Errorf("log names CLUSTER NODES %d times, want once: %s", n, logged)
	}
}

// TestClusterThatDoesNotAnswer confirms nothing.
func TestClusterThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	o := clusterOptions(cluster)
	o.NearCacheTTL = time.Second
	s := storetest.Open(t, store.Options{Redis: o})
	storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("1")})
	get := func() cache.Found {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		f, _ := s.Cache.Get(ctx, "n", "key", true) // that it fails is expected
		return f
	}
	held := time.Now()
	storetest.Eventually(t, "it is held for longer than the bound", func() bool {
		if !get().Near {
			held = time.Now()
		}
		return time.Since(held) > 2*o.NearCacheTTL
	})
	for _, n := range cluster.Nodes {
		n.Pause(t)
	}
	paused := time.Now()
	storetest.Eventually(t, "it is held no longer", func() bool { return !get().Near })
	if kept := time.Since(paused); kept > o.NearCacheTTL+200*time.Millisecond {
		t.Errorf("the entry is kept for %v, want %v at most", kept, o.NearCacheTTL)
	}
	for _, n := range cluster.Nodes {
		n.Resume(t)
	}
	storetest.Eventually(t, "it is held again", func() bool { return get().Near })
}

// TestClusterPrimaryReplaced: writes work again soon after another node has taken over, whether the former one is dead or its
// replica now.
func TestClusterPrimaryReplaced(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, c *redistest.Cluster){
		"dead":    func(_ *testing.T, c *redistest.Cluster) { c.Nodes[0].Kill() },
		"hung":    func(t *testing.T, c *redistest.Cluster) { t.Helper(); c.Nodes[0].Pause(t) },
		"demoted": func(t *testing.T, c *redistest.Cluster) { t.Helper(); c.Nodes[3].Do(t, "CLUSTER", "FAILOVER") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1})
			watched := new(watcher)
			o := clusterOptions(cluster)
			o.Observer = watched
			s := storetest.Open(t, store.Options{Redis: o})
			keys := storetest.Keys(30)
			storetest.Fill(t, s, "n", keys)
			before := watched.seen(redis.Dialed) + watched.seen(redis.DialFailed)
			replace(t, cluster)
			promotion(t, cluster.Nodes[3])
			promoted := time.Now()
			for _, key := range keys {
				storetest.Eventually(t, "a write succeeds", func() bool { return trySet(t, s, key, "2") == nil })
			}
			storetest.Eventually(t, "it is ready", func() bool { return s.Redis.Ping(t.Context()) == nil })
			took := time.Since(promoted)
			t.Logf("all writes work after %v, %d attempts to connect", took, watched.seen(redis.Dialed)+watched.seen(redis.DialFailed)-before)
			if took > within {
				t.Errorf("all writes work and the store is ready after %v, want %v at most", took, within)
			}
			if got := watched.seen(redis.Dialed) + watched.seen(redis.DialFailed) - before; got > 30 {
				t.Errorf("%d attempts to connect, want 30 at most", got)
			}
			if name == "hung" {
				cluster.Nodes[0].Resume(t)
			}
		})
	}
}
