package service

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// standstill is how long a slot is left half moved.
const standstill = 10 * time.Second

// TestSlotsMoveUnderLoad moves every slot of a cluster once, key by key where there are keys, and leaves two of them half moved
// for a while. Two replicas serve sessions and entries meanwhile. Every call is answered as if no slot moved, or fails as
// UNAVAILABLE with a time to come back and has changed nothing.
func TestSlotsMoveUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	l := &movingLoad{namespace: "moving", slots: newSlotTable(t, cluster), failures: map[string]int{}}
	for i := range l.apis {
		l.apis[i] = serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}}, policy.Limits{})
	}
	for n := range 6 {
		c := newMovingCaller(l, n)
		for _, key := range c.redisKeys() {
			c.keySlots = append(c.keySlots, cluster.Slot(t, key))
		}
		l.callers = append(l.callers, c)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	watching, unwatch := context.WithCancel(t.Context())
	defer unwatch()
	var watches sync.WaitGroup
	for _, c := range l.callers {
		begun := make(chan struct{})
		watches.Go(func() { c.watch(watching, t, sync.OnceFunc(func() { close(begun) })) })
		wait(t, "watch", begun)
		running.Go(func() { c.run(t, stop) })
	}
	halt := func() {
		close(stop)
		running.Wait()
	}

	// The slots that have keys, or may have some at any time.
	used := map[int]bool{}
	for _, slot := range l.slots.partitions {
		used[slot] = true
	}
	for _, c := range l.callers {
		for _, slot := range c.keySlots {
			used[slot] = true
		}
	}
	begin := time.Now()
	owners := make(map[int]*redistest.Server)
	for slot := range redistest.Slots {
		owners[slot] = cluster.Nodes[slot*3/redistest.Slots]
	}
	next := func(slot int) *redistest.Server {
		return cluster.Nodes[(slices.Index(cluster.Nodes, owners[slot])+1)%len(cluster.Nodes)]
	}
	still := []int{l.callers[0].subjectSlot, l.callers[1].keySlots[0]}
	var empty []int
	for slot := range redistest.Slots {
		switch {
		case slices.Contains(still, slot):
		case used[slot]:
			cluster.BeginMove(t, slot, next(slot))
			for keys := cluster.KeysInSlot(t, owners[slot], slot); len(keys) > 0; keys = cluster.KeysInSlot(t, owners[slot], slot) {
				for _, key := range keys {
					cluster.Migrate(t, owners[slot], next(slot), key)
				}
			}
			cluster.EndMove(t, slot, next(slot))
		default:
			empty = append(empty, slot)
		}
		if len(empty) == 256 || slot == redistest.Slots-1 {
			cluster.MoveEmpty(t, empty, next)
			empty = nil
		}
	}
	t.Logf("%d slots, %d of them used, have moved in %v", redistest.Slots-len(still), len(used), time.Since(begin))
	l.report(t, "while slots moved")

	// The slot of a subject's sessions and that of an entry stand still, with half of their keys moved.
	for _, slot := range still {
		l.still.Store(slot, true)
		cluster.BeginMove(t, slot, next(slot))
		keys := cluster.KeysInSlot(t, owners[slot], slot)
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		if half := keys[:(len(keys)+1)/2]; len(half) > 0 {
			cluster.MoveKeys(t, slot, next(slot), half...)
		}
	}
	<-time.After(standstill)
	l.report(t, "while slots stood still")
	for _, slot := range still {
		cluster.MoveKeys(t, slot, next(slot))
		cluster.EndMove(t, slot, next(slot))
	}
	eventually(t, "answering for the slots that stood still", func() bool {
		return l.callers[0].reads(t) && l.callers[1].reads(t)
	})
	for _, slot := range still {
		l.still.Delete(slot)
	}
	<-time.After(time.Second)
	halt()
	l.report(t, "after the moves")
	for _, c := range l.callers {
		c.review(t)
		eventually(t, "told of every session that was created", c.allTold)
	}
	unwatch()
	watches.Wait()
}

// report checks how many calls have failed since the last report: 1 in 1,000 at most, outside the slots that stand still.
func (l *movingLoad) report(t *testing.T, when string) {
	t.Helper()
	calls, failed, inside, insideFailed := l.calls.Swap(0), l.failed.Swap(0), l.inside.Swap(0), l.insideFailed.Swap(0)
	l.mu.Lock()
	failures := fmt.Sprint(l.failures)
	clear(l.failures)
	l.mu.Unlock()
	t.Logf("%s: %d of %d calls failed, %s; of the slots that stand still %d of %d", when, failed, calls, failures, insideFailed, inside)
	if failed*1000 > calls {
		t.Errorf("%s: %d of %d calls failed, %s, want 1 in 1,000 at most", when, failed, calls, failures)
	}
	if calls == 0 {
		t.Errorf("%s: no calls, want some", when)
	}
}

// A slotTable knows the slots of the partitions of sessions.
type slotTable struct{ partitions [256]int }

func newSlotTable(t *testing.T, cluster *redistest.Cluster) *slotTable {
	t.Helper()
	s := new(slotTable)
	for p := range s.partitions {
		s.partitions[p] = cluster.Slot(t, fmt.Sprintf("ld:x:{p%d}", p))
	}
	return s
}

// stillSlots yields the slots that stand still.
func (l *movingLoad) stillSlots(yield func(slot int) bool) {
	l.still.Range(func(slot, _ any) bool { return yield(slot.(int)) })
}

// TestCallsAreRepeatedWhileASlotMoves: calls that must not be repeated after a lost answer are repeated where Redis refuses them
// because of a slot that is half moved, since they have written nothing.
func TestCallsAreRepeatedWhileASlotMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	a := serveStore(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: cluster.Addrs()}}, policy.Limits{})
	ctx := t.Context()
	created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	a.set(t, &cachev1.SetRequest{Key: "k}1", Value: []byte("v")})
	leased := func() string {
		return must[*cachev1.GetOrLeaseResponse](t)(a.cache.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{Key: "k}2"})).LeaseToken
	}()
	token := created.SessionToken
	for _, c := range []struct {
		method, key string
		call        func() error
	}{
		{sessionv1.SessionService_CreateSession_FullMethodName, "", func() error {
			_, err := a.session.CreateSession(ctx, &sessionv1.CreateSessionRequest{Subject: "ann"})
			return err
		}},
		{sessionv1.SessionService_UpdateSession_FullMethodName, "", func() error {
			resp, err := a.session.UpdateSession(ctx, &sessionv1.UpdateSessionRequest{
				Target: &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: token}, IncrementAttributes: map[string]int64{"n": 1},
			})
			if n := resp.GetIncrementedAttributes()["n"]; err == nil && n != 1 {
				t.Errorf("UpdateSession = %d, want 1", n)
			}
			return err
		}},
		{sessionv1.SessionService_ReauthenticateSession_FullMethodName, "", func() error {
			resp, err := a.session.ReauthenticateSession(ctx, &sessionv1.ReauthenticateSessionRequest{SessionToken: token, Aal: 2, Amr: []string{"otp"}})
			if err == nil && resp.SessionToken == "" {
				t.Errorf("ReauthenticateSession = %v, want a token", resp.Outcome)
			}
			return err
		}},
		{cachev1.CacheService_Increment_FullMethodName, "ld:c:{default:k}", func() error {
			resp, err := a.cache.Increment(ctx, &cachev1.IncrementRequest{Key: "k}3"})
			if err == nil && resp.Value != 1 {
				t.Errorf("Increment = %d, want 1", resp.Value)
			}
			return err
		}},
		{cachev1.CacheService_Fill_FullMethodName, "ld:c:{default:k}", func() error {
			resp, err := a.cache.Fill(ctx, &cachev1.FillRequest{Key: "k}2", LeaseToken: leased, Value: []byte("v")})
			if err == nil && resp.Outcome != cachev1.FillOutcome_FILL_OUTCOME_STORED {
				t.Errorf("Fill = %v, want stored", resp.Outcome)
			}
			return err
		}},
	} {
		if c.key == "" {
			c.key = fmt.Sprintf("ld:x:{p%d}", tokenPartition(t, token))
		}
		slot := cluster.Slot(t, c.key)
		from, to := cluster.Owner(t, slot), cluster.Another(t, slot)
		retries := func() float64 { return metric(t, a.Server, "larder_retries_total", "method", c.method) }
		before := retries()
		cluster.BeginMove(t, slot, to)
		keys := cluster.KeysInSlot(t, from, slot)
		cluster.Migrate(t, from, to, keys[:(len(keys)+1)/2]...)
		done := make(chan error, 1)
		go func() { done <- c.call() }()
		eventually(t, "repeated", func() bool { return retries() > before || len(done) > 0 })
		cluster.MoveKeys(t, slot, to)
		cluster.EndMove(t, slot, to)
		if err := wait(t, "answer", done); err != nil {
			t.Errorf("%s = %v, want nil", c.method, err)
		}
		if retries() == before {
			t.Logf("%s was not refused", c.method)
		}
	}
}
