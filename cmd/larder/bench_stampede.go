package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// benchOrigin is how long it takes to load a value that no cache has.
const benchOrigin = 50 * time.Millisecond

// stampede asks for the key of its wave, and loads it if told to.
func stampede(ctx context.Context, w *benchWorker) (int, error) {
	key := "stampede:" + strconv.Itoa(w.wave)
	for {
		r, err := w.cache.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{Namespace: w.namespace, Key: key, WaitTimeout: durationpb.New(benchPatience)})
		switch {
		case err != nil:
			return 0, err
		case r.GetLeaseToken() != "":
			w.load(ctx)
			_, err := w.cache.Fill(ctx, &cachev1.FillRequest{Namespace: w.namespace, Key: key, LeaseToken: r.GetLeaseToken(), Value: w.value})
			return 1, err
		case r.GetOutcome() == cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_HIT:
			return 1, nil
		case r.GetOutcome() != cachev1.GetOrLeaseOutcome_GET_OR_LEASE_OUTCOME_PENDING:
			return 0, fmt.Errorf("GetOrLease: %v", r.GetOutcome())
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(r.GetRetryAfter().AsDuration()):
		}
	}
}

// stampedeWithoutLeases does what callers of a plain cache do: who misses loads.
func stampedeWithoutLeases(ctx context.Context, w *benchWorker) (int, error) {
	key := "stampede:" + strconv.Itoa(w.wave)
	r, err := w.cache.Get(ctx, &cachev1.GetRequest{Namespace: w.namespace, Key: key})
	if err != nil || r.GetOutcome() == cachev1.GetOutcome_GET_OUTCOME_HIT {
		return 1, err
	}
	w.load(ctx)
	return 1, w.set(ctx, key)
}

// load stands for an origin.
func (w *benchWorker) load(ctx context.Context) {
	w.loads.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(benchOrigin):
	}
}
