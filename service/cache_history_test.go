package service

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// A cacheCall is what a caller asks of one key.
type cacheCall struct {
	Op string // of the ops below
	// Value is what a set stores; no other call stores the same.
	Value string
	// ETag is what the entry must have for a conditional one.
	ETag  string
	Delta int64
}

// The operations of cache histories.
const (
	opGet         = "get"
	opSet         = "set"
	opSetIfAbsent = "set if absent"
	opSetIfMatch  = "set if match"
	opDelete      = "delete"
	opDeleteMatch = "delete if match"
	opIncrement   = "increment"
)

// A cacheAnswer is what the caller is told.
type cacheAnswer struct {
	// Done says that a get found an entry, and that something else was done.
	Done        bool
	Value, ETag string
	// NotCounter says that an increment met something else.
	NotCounter bool
}

func cacheReads(c cacheCall) bool { return c.Op == opGet }

// make makes the call of a replica.
func (c cacheCall) make(ctx context.Context, t testing.TB, r *replica, ns, key string) (a cacheAnswer, err error) {
	switch c.Op {
	case opGet:
		got, err := r.cache.Get(ctx, &cachev1.GetRequest{Namespace: ns, Key: key, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
		return cacheAnswer{Done: got.GetOutcome() == cachev1.GetOutcome_GET_OUTCOME_HIT, Value: string(got.GetValue()), ETag: got.GetEtag()}, err
	case opSet, opSetIfAbsent, opSetIfMatch:
		req := &cachev1.SetRequest{Namespace: ns, Key: key, Value: []byte(c.Value)}
		switch c.Op {
		case opSetIfAbsent:
			req.Precondition = &cachev1.SetRequest_IfAbsent{IfAbsent: true}
		case opSetIfMatch:
			req.Precondition = &cachev1.SetRequest_IfMatch{IfMatch: c.ETag}
		}
		got, err := r.cache.Set(ctx, req)
		return cacheAnswer{Done: got.GetOutcome() == cachev1.SetOutcome_SET_OUTCOME_STORED, ETag: got.GetEtag()}, err
	case opDelete, opDeleteMatch:
		got, err := r.cache.Delete(ctx, &cachev1.DeleteRequest{Namespace: ns, Key: key, IfMatch: c.ETag})
		return cacheAnswer{Done: got.GetOutcome() == cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED, ETag: got.GetEtag()}, err
	default:
		got, err := r.cache.Increment(ctx, &cachev1.IncrementRequest{Namespace: ns, Key: key, Delta: &c.Delta})
		if err != nil && (answerOf(t, err) == answer{Code: codes.FailedPrecondition, Reason: "NOT_A_COUNTER"}) {
			return cacheAnswer{NotCounter: true}, nil
		}
		return cacheAnswer{Done: true, Value: strconv.FormatInt(got.GetValue(), 10)}, err
	}
}

// A cacheState is one key at one moment. The etag of a set whose answer was lost is empty until it has been seen.
type cacheState struct {
	There       bool
	Value, ETag string
	Counter     bool
}

// is returns the state if it can have the etag, with the etag known from then on.
func (s cacheState) is(etag string) (cacheState, bool) {
	if s.There && s.ETag == "" {
		s.ETag = etag
	}
	return s, s.There && s.ETag == etag
}

func counterState(n int64) cacheState {
	digits := strconv.FormatInt(n, 10)
	sum := sha1.Sum([]byte(digits))
	return cacheState{There: true, Value: digits, ETag: hex.EncodeToString(sum[:8]), Counter: true}
}

// step returns the states that a key can be in after a call that was answered so.
func (s cacheState) step(c cacheCall, out answered[cacheAnswer]) []cacheState {
	a := out.Out
	stored := cacheState{There: true, Value: c.Value, ETag: a.ETag}
	switch c.Op {
	case opGet:
		if !a.Done {
			return states(s, !s.There)
		}
		seen, ok := s.is(a.ETag)
		return states(seen, ok && s.Value == a.Value)
	case opSet:
		return states(stored, !out.Known || a.Done)
	case opSetIfAbsent:
		return s.conditional(!s.There, s.There, stored, out)
	case opSetIfMatch:
		_, may := s.is(c.ETag)
		return s.conditional(may, !may || s.ETag == "", stored, out)
	case opDelete:
		return states(cacheState{}, !out.Known || a.Done == s.There)
	case opDeleteMatch:
		_, may := s.is(c.ETag)
		return s.conditional(may, !may || s.ETag == "", cacheState{}, out)
	default:
		if s.There && !s.Counter {
			return states(s, !out.Known || a.NotCounter)
		}
		n, _ := strconv.ParseInt(s.Value, 10, 64)
		next := counterState(n + c.Delta)
		return states(next, !out.Known || a.Done && a.Value == next.Value)
	}
}

// conditional is a write that may have been done, or left undone and told the etag in its way.
func (s cacheState) conditional(mayHold, mayFail bool, next cacheState, out answered[cacheAnswer]) (after []cacheState) {
	if mayHold && (!out.Known || out.Out.Done) {
		after = append(after, next)
	}
	switch {
	case !mayFail || out.Known && out.Out.Done:
	case !out.Known || !s.There && out.Out.ETag == "":
		after = append(after, s)
	default:
		seen, ok := s.is(out.Out.ETag)
		after = append(after, states(seen, ok)...)
	}
	return after
}

func states(s cacheState, ok bool) []cacheState {
	if !ok {
		return nil
	}
	return []cacheState{s}
}

// cacheModel is the model of one key, which is empty to begin with.
func cacheModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{cacheState{}} },
		Step: func(state, in, out any) (after []any) {
			for _, s := range state.(cacheState).step(in.(cacheCall), out.(answered[cacheAnswer])) {
				after = append(after, s)
			}
			return after
		},
	}
	return m.ToModel()
}

// ETags that callers have seen are what conditional calls ask for.
func randomCacheCall(caller, n int, seen string) cacheCall {
	c := cacheCall{Value: fmt.Sprintf("%d-%d", caller, n), ETag: seen}
	ops := []string{opGet, opGet, opGet, opSet, opSet, opSetIfAbsent, opSetIfMatch, opSetIfMatch, opDelete, opDeleteMatch, opIncrement, opIncrement}
	c.Op = ops[rand.N(len(ops))]
	switch c.Op {
	case opSetIfMatch, opDeleteMatch:
		if seen == "" {
			return cacheCall{Op: opGet}
		}
		if c.Op == opDeleteMatch {
			c.Value = ""
		}
		return c
	case opIncrement:
		return cacheCall{Op: opIncrement, Delta: rand.N(int64(5)) + 1}
	case opGet, opDelete:
		c.Value = ""
	}
	c.ETag = ""
	return c
}

// TestCacheIsLinearizable: however calls of several callers through two replicas meet, and whatever connections to Redis
// break meanwhile, the answers at PRIMARY consistency are those of one order of the calls. Calls whose outcome is unknown
// may have been applied at any later time, and so may each attempt that the server has repeated.
func TestCacheIsLinearizable(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			replicas := startReplicas(t, store.Options{Redis: redis.Options{Mode: mode, CommandTimeout: time.Second}}, 2)
			h := newHistory[cacheCall, cacheAnswer]()
			const rounds, callers, calls, keys = 25, 6, 12, 3
			for round := range rounds {
				var all sync.WaitGroup
				for client := range callers {
					all.Go(func() {
						c := caller{client, replicas[client%len(replicas)]}
						seen := make(map[string]string)
						for n := range calls {
							key := fmt.Sprintf("%d-%d", round, rand.N(keys))
							in := randomCacheCall(client, n, seen[key])
							out, ok := h.record(t.Context(), t, c, key, in, cacheReads(in), func(ctx context.Context) (cacheAnswer, error) {
								return in.make(ctx, t, c.replica, "", key)
							})
							if ok && out.ETag != "" {
								seen[key] = out.ETag
							}
						}
					})
				}
				all.Go(func() {
					for range 2 {
						<-time.After(rand.N(4 * time.Millisecond))
						replicas[rand.N(len(replicas))].cut()
					}
				})
				all.Wait()
			}
			unknown, repeated := 0, 0
			for _, r := range h.calls {
				if r.Unknown {
					unknown++
				} else if r.Attempts > 0 {
					if repeated++; r.In.Op != opGet && r.In.Op != opSet && r.In.Op != opDelete {
						t.Errorf("%+v was repeated, want only Get, Set and Delete to be", r)
					}
				}
			}
			t.Logf("%d of %d calls are of unknown outcome, %d were repeated", unknown, len(h.calls), repeated)
			if unknown+repeated == 0 {
				t.Errorf("calls of unknown outcome = 0, repeated calls = 0, want some that met a fault")
			}
			linearizable(t, h, cacheModel(), cacheReads)
		})
	}
}

// The checker tells a history that makes sense from one that does not.
func TestTheCheckerFindsBrokenHistories(t *testing.T) {
	t.Parallel()
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	call := func(begin, end int, in cacheCall, out cacheAnswer) recorded[cacheCall, cacheAnswer] {
		return recorded[cacheCall, cacheAnswer]{In: in, Out: out, Begin: ms(begin), End: ms(end)}
	}
	set := func(begin, end int, v string) recorded[cacheCall, cacheAnswer] {
		return call(begin, end, cacheCall{Op: opSet, Value: v}, cacheAnswer{Done: true, ETag: "e" + v})
	}
	get := func(begin, end int, v string) recorded[cacheCall, cacheAnswer] {
		return call(begin, end, cacheCall{Op: opGet}, cacheAnswer{Done: v != "", Value: v, ETag: "e" + v})
	}
	match := func(begin, end int, etag, v string) recorded[cacheCall, cacheAnswer] {
		return call(begin, end, cacheCall{Op: opSetIfMatch, ETag: etag, Value: v}, cacheAnswer{Done: true, ETag: "e" + v})
	}
	lost := func(r recorded[cacheCall, cacheAnswer]) recorded[cacheCall, cacheAnswer] {
		r.Unknown, r.Attempts, r.Out = true, 1, cacheAnswer{}
		return r
	}
	remove := call(2, 3, cacheCall{Op: opDelete}, cacheAnswer{Done: true})
	add := func(begin, end int, sum string) recorded[cacheCall, cacheAnswer] {
		return call(begin, end, cacheCall{Op: opIncrement, Delta: 1}, cacheAnswer{Done: true, Value: sum})
	}
	for name, h := range map[string]struct {
		calls []recorded[cacheCall, cacheAnswer]
		want  porcupine.CheckResult
	}{
		"a read of what was written":          {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), get(2, 3, "a")}, porcupine.Ok},
		"a stale read":                        {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), set(2, 3, "b"), get(4, 5, "a")}, porcupine.Illegal},
		"an old read beside the write":        {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), set(2, 5, "b"), get(3, 4, "a")}, porcupine.Ok},
		"a value that goes back":              {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), set(2, 9, "b"), get(3, 4, "b"), get(5, 6, "a")}, porcupine.Illegal},
		"two who replaced the same version":   {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), match(2, 5, "ea", "b"), match(2, 5, "ea", "c")}, porcupine.Illegal},
		"a lost write that is seen later":     {[]recorded[cacheCall, cacheAnswer]{lost(set(0, 1, "a")), get(2, 3, ""), get(4, 5, "a")}, porcupine.Ok},
		"a lost write that is never seen":     {[]recorded[cacheCall, cacheAnswer]{lost(set(0, 1, "a")), get(2, 3, ""), get(4, 5, "")}, porcupine.Ok},
		"a lost write that goes by itself":    {[]recorded[cacheCall, cacheAnswer]{lost(set(0, 1, "a")), get(2, 3, "a"), get(4, 5, "")}, porcupine.Illegal},
		"a read of what was removed":          {[]recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), remove, get(4, 5, "a")}, porcupine.Illegal},
		"a counter that two have raised once": {[]recorded[cacheCall, cacheAnswer]{add(0, 3, "1"), add(0, 3, "1")}, porcupine.Illegal},
		"a lost increment that counted twice": {[]recorded[cacheCall, cacheAnswer]{lost(add(0, 1, "")), add(2, 3, "3")}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(cacheModel(), operations(h.calls, cacheReads), time.Minute); got != h.want {
			t.Errorf("%s: linearizable = %v, want %v", name, got, h.want)
		}
	}
	near := func(replica, begin, end int, v string) recorded[cacheCall, cacheAnswer] {
		r := get(begin, end, v)
		r.In.Op, r.Replica = opGetNear, replica
		return r
	}
	writes := []recorded[cacheCall, cacheAnswer]{set(0, 1, "a"), set(2, 3, "b")}
	for name, n := range map[string]struct {
		read          recorded[cacheCall, cacheAnswer]
		wrong, behind int
	}{
		"up to date":              {near(1, 4, 5, "b"), 0, 0},
		"behind within the bound": {near(1, 10, 11, "a"), 0, 1},
		"behind by more":          {near(1, 14, 15, "a"), 1, 1},
		"behind its own replica":  {near(0, 4, 5, "a"), 1, 1},
		"of nothing":              {near(1, 14, 15, ""), 1, 1},
		"of what nobody wrote":    {near(1, 4, 5, "c"), 1, 0},
	} {
		wrong, behind := staleReads(append(writes, n.read), ms(10))
		if len(wrong) != n.wrong || behind != n.behind {
			t.Errorf("%s: wrong = %v, behind = %d, want %d and %d", name, wrong, behind, n.wrong, n.behind)
		}
	}
}
