package service

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// opGetNear reads at NEAR consistency.
const opGetNear = "get near"

// staleReads returns what is wrong with the NEAR reads of one key, whose values are numbers that one writer counts up: a
// read must show what its own replica had acknowledged before it began, and what any other had acknowledged longer ago
// than the bound. It also returns how many reads were allowed to be behind, and were.
//
// A write that was repeated, or whose outcome is unknown, may be applied again at any later time: a read that shows its
// value says nothing. One that was acknowledged counts all the same as a write that others must not be behind.
func staleReads(calls []recorded[cacheCall, cacheAnswer], bound time.Duration) (wrong []string, behind int) {
	var writes []recorded[cacheCall, cacheAnswer]
	number := make(map[string]int) // by value, its place in writes
	for _, r := range calls {
		if r.In.Op == opSet {
			number[r.In.Value] = len(writes)
			writes = append(writes, r)
		}
	}
	for _, r := range calls {
		if r.In.Op != opGetNear {
			continue
		}
		shown := -1
		if r.Out.Done {
			n, known := number[r.Out.Value]
			if !known || writes[n].Begin > r.End {
				wrong = append(wrong, fmt.Sprintf("%+v shows what nobody had written", r))
				continue
			}
			if shown = n; writes[n].Unknown || writes[n].Attempts > 0 {
				continue
			}
		}
		late := false
		for _, w := range writes[shown+1:] {
			if w.Unknown || w.End >= r.Begin {
				continue
			}
			late = true
			if w.Replica == r.Replica {
				wrong = append(wrong, fmt.Sprintf("%+v is behind a write of its own replica: %+v", r, w))
				break
			}
			if age := r.Begin - w.End; age > bound {
				wrong = append(wrong, fmt.Sprintf("%+v is %v behind %+v", r, age, w))
				break
			}
		}
		if late {
			behind++
		}
	}
	return wrong, behind
}

// TestNearReadsAreBehindByTheBoundAtMost: whatever happens to the connections of two replicas, a NEAR read is never older
// than the bound, and never behind what its own replica has acknowledged.
func TestNearReadsAreBehindByTheBoundAtMost(t *testing.T) {
	t.Parallel()
	const bound, lasts = 400 * time.Millisecond, 4 * time.Second
	replicas := startReplicas(t, store.Options{Redis: redis.Options{Mode: redis.Standalone, NearCacheTTL: bound, CommandTimeout: 200 * time.Millisecond}}, 2)
	h := newHistory[cacheCall, cacheAnswer]()
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	var all sync.WaitGroup
	// A write that fails makes its own replica ask Redis again, so that only what others write is not heard of for long.
	writers := map[string][]*replica{"a": replicas[:1], "b": replicas[1:], "c": replicas}
	keys := slices.Sorted(maps.Keys(writers))
	read := func(c caller, key string) {
		h.record(t.Context(), t, c, key, cacheCall{Op: opGetNear}, true, func(ctx context.Context) (cacheAnswer, error) {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond) // what is not near may hang
			defer cancel()
			got, err := c.replica.cache.Get(ctx, &cachev1.GetRequest{Key: key})
			return cacheAnswer{Done: got.GetOutcome() == cachev1.GetOutcome_GET_OUTCOME_HIT, Value: string(got.GetValue())}, err
		})
	}
	for i, key := range keys {
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				c := caller{i, writers[key][rand.N(len(writers[key]))]}
				in := cacheCall{Op: opSet, Value: strconv.Itoa(n)}
				h.record(t.Context(), t, c, key, in, false, func(ctx context.Context) (cacheAnswer, error) {
					return in.make(ctx, t, c.replica, "", key)
				})
				read(c, key)
				<-time.After(rand.N(10 * time.Millisecond))
			}
		})
	}
	near := 0
	for i, r := range replicas {
		for _, key := range keys {
			all.Go(func() {
				for ctx.Err() == nil {
					read(caller{len(keys) + i, r}, key)
					<-time.After(time.Millisecond)
				}
			})
		}
	}
	all.Go(func() {
		for first := true; ctx.Err() == nil; first = false {
			// Everything works, and much is near.
			for _, r := range replicas {
				for r.read(ctx) != nil && ctx.Err() == nil {
					<-time.After(time.Millisecond)
				}
			}
			<-time.After(bound / 4)
			r := replicas[rand.N(len(replicas))]
			if !first && rand.N(2) == 0 {
				r.cut()
				continue
			}
			r.proxies[0].Blackhole(true)
			<-time.After(bound + rand.N(bound))
			r.proxies[0].Blackhole(false)
		}
	})
	all.Wait()
	for _, r := range replicas {
		near += int(r.store.Stats().Near.Hits)
	}
	behind := 0
	for key, calls := range h.byKey() {
		wrong, allowed := staleReads(calls, bound)
		behind += allowed
		if len(wrong) > 0 {
			t.Errorf("%s: %d reads are wrong, want none; the first: %s", key, len(wrong), wrong[0])
		}
	}
	t.Logf("%d calls, %d answered near, %d reads behind", len(h.calls), near, behind)
	if near == 0 {
		t.Error("reads answered by the near cache = 0, want some")
	}
}
