package redis_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
)

// well reports whether every kind of call would succeed, on every shard.
func well(d redis.Condition) bool {
	return d.Failures == redis.Condition{}.Failures && len(d.Problems) == 0
}

// TestFarAway: a Redis in another region is as well as the calls to it, from the start and when it becomes one.
func TestFarAway(t *testing.T) {
	t.Parallel()
	for roundTrip, most := range map[time.Duration]int{180 * time.Millisecond: 1, 400 * time.Millisecond: 1, 900 * time.Millisecond: 4} {
		t.Run(roundTrip.String(), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, redistest.Options{})
			proxy := redistest.StartProxy(t, server.Addr)
			o := store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20}}
			near := storetest.Open(t, o)
			if d := near.Redis.Check(t.Context()); !well(d) {
				t.Errorf("Check at no distance = %v, want all well", d)
			}
			proxy.Delay(roundTrip)
			for name, s := range map[string]*store.Store{"connected before": near, "connected from afar": storetest.Open(t, o)} {
				storetest.Set(t, s, "n", "key", cache.Write{Value: []byte("value")})
				failed := 0
				for failed <= most && !well(s.Redis.Check(t.Context())) {
					failed++
				}
				if failed > most {
					t.Errorf("%s: Check fails %d times in a row, want it to allow for the distance after %d", name, failed, most)
				}
				for range 3 {
					if d := s.Redis.Check(t.Context()); !well(d) {
						t.Errorf("%s: Check later = %v, want all well", name, d)
					}
				}
			}
		})
	}
}

// TestOneNodeHangs: what one node does not answer, the others still do, and that is known in time.
func TestOneNodeHangs(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{Replicas: 1, Args: []string{"cluster-require-full-coverage", "no", "cluster-replica-no-failover", "yes"}})
	s := storetest.Open(t, store.Options{Redis: clusterOptions(cluster)})
	for _, test := range []struct {
		name string
		node int
		want redis.Problem
	}{
		{"a replica", 4, redis.Problem{Kind: "nodes", Detail: "1 of 3 other nodes do not answer"}},
		{"a primary", 1, redis.Problem{Kind: "shards", Detail: "1 of 3 primaries do not answer"}},
	} {
		storetest.Eventually(t, "all is well", func() bool { return well(s.Redis.Check(t.Context())) })
		cluster.Nodes[test.node].Pause(t)
		for range 5 {
			begin := time.Now()
			got := s.Redis.Check(t.Context())
			if diff := cmp.Diff(redis.Condition{Problems: []redis.Problem{test.want}}.Problems, got.Problems); diff != "" {
				t.Errorf("%s hangs: problems (-want +got):\n%s", test.name, diff)
			}
			if got.Failures != (redis.Condition{}).Failures {
				t.Errorf("%s hangs: failures = %v, want none", test.name, got.Failures)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("%s hangs: Check took %v, want 1 s at most", test.name, took)
			}
		}
		late, err := store.New(store.Options{Redis: clusterOptions(cluster)})
		if err != nil {
			t.Fatalf("New = %v, want no error", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		if err := late.Redis.Connect(ctx); err != nil {
			t.Errorf("%s hangs: Connect = %v (%s), want no error", test.name, err, redis.Cause(err))
		}
		cancel()
		late.Close()
		cluster.Nodes[test.node].Resume(t)
	}
	storetest.Eventually(t, "all is well again", func() bool { return well(s.Redis.Check(t.Context())) })
	for _, n := range cluster.Nodes {
		n.Pause(t)
	}
	if d := s.Redis.Check(t.Context()); !errors.Is(d.Failures[redis.ToRead], redis.ErrUnavailable) || !errors.Is(d.Failures[redis.ToWrite], redis.ErrUnavailable) {
		t.Errorf("Check with all nodes hung = %v, want %v", d, redis.ErrUnavailable)
	}
	for _, n := range cluster.Nodes {
		n.Resume(t)
	}
}

// TestRightsLost: scripts that a user may not run are the calls that fail.
func TestRightsLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{ACL: []string{"user default on nopass ~* &* +@all"}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
	for right, want := range map[string]redis.Ability{"evalsha": redis.ToWrite, "evalsha_ro": redis.ToReadByScript, "get": redis.ToRead} {
		server.Do(t, "ACL", "SETUSER", "default", "-"+right)
		got := s.Redis.Check(t.Context())
		for ability, err := range got.Failures {
			if errors.Is(err, redis.ErrRefused) != (redis.Ability(ability) == want) {
				t.Errorf("without %s: failures = %v, want one of ability %d", right, got.Failures, want)
			}
		}
		server.Do(t, "ACL", "SETUSER", "default", "+"+right)
	}
}
