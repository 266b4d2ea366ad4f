package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
)

// TestAcquire: every option reaches the server, and every field of the answer the caller.
func TestAcquire(t *testing.T) {
	t.Parallel()
	resp := &lockv1.AcquireLockResponse{
		Outcome: lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED, LockToken: "t", FencingToken: 7,
		ValidFor: durationpb.New(time.Hour), ValidUntilElapsed: durationpb.New(time.Minute), AcquiredAt: timestamppb.New(noon),
	}
	b := serve(t, func(context.Context, any) (any, error) { return resp, nil })
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	o := client.AcquireOptions{
		TTL: time.Second, WaitTimeout: 2 * time.Second, Permits: 3, Fair: true, Owner: "host", Metadata: "text", RequestID: "a-request-id-of-this-test",
	}
	before := time.Now()
	l, err := c.Locks.Acquire(t.Context(), "n", o)
	if d := l.ValidUntil.Sub(before); err != nil || d < time.Minute || d > time.Minute+20*time.Second {
		t.Errorf("Acquire = valid for %v, %v, want a minute from before the call", d, err)
	}
	l.ValidUntil = time.Time{}
	if diff := cmp.Diff(client.Lock{Outcome: client.Acquired, Token: "t", FencingToken: 7, AcquiredAt: noon}, l); diff != "" {
		t.Errorf("Acquire (-want +got):\n%s", diff)
	}
	want := &lockv1.AcquireLockRequest{
		Namespace: "shop", Name: "n", Ttl: durationpb.New(time.Second), WaitTimeout: durationpb.New(2 * time.Second), Permits: 3, Fair: true,
		Owner: "host", Metadata: "text", RequestId: "a-request-id-of-this-test",
	}
	if diff := cmp.Diff(want, b.last(t), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	resp = &lockv1.AcquireLockResponse{
		Outcome: lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_HELD, RetryAfter: durationpb.New(time.Second),
		Holder: &lockv1.LockHolder{Owner: "o", Metadata: "m", FencingToken: 6, AcquiredAt: timestamppb.New(noon), Ttl: durationpb.New(time.Second)},
	}
	var ids []string
	for range 2 {
		l, err = c.Locks.In("other").Acquire(t.Context(), "n", client.AcquireOptions{})
		held := client.Lock{
			Outcome: client.Held, RetryAfter: time.Second,
			Holder: &client.LockHolder{Owner: "o", Metadata: "m", FencingToken: 6, AcquiredAt: noon, TTL: time.Second},
		}
		if diff := cmp.Diff(held, l); diff != "" || err != nil {
			t.Errorf("Acquire = error %v, want none; (-want +got):\n%s", err, diff)
		}
		ids = append(ids, b.last(t).(*lockv1.AcquireLockRequest).GetRequestId())
	}
	if len(ids[0]) < 16 || ids[0] == ids[1] || b.last(t).(*lockv1.AcquireLockRequest).GetNamespace() != "other" {
		t.Errorf("request ids = %q, want random ones, and the namespace of In", ids)
	}
}

// TestAFailedAcquireLeavesNothingBehind: what may have been acquired is released by its request.
func TestAFailedAcquireLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	released := make(chan *lockv1.ReleaseLockRequest, 1)
	asked := make(chan string, 1)
	b := serve(t, func(ctx context.Context, req any) (any, error) {
		switch r := req.(type) {
		case *lockv1.AcquireLockRequest:
			asked <- r.GetRequestId()
			<-ctx.Done()
			return nil, ctx.Err()
		case *lockv1.ReleaseLockRequest:
			released <- r
		}
		return &lockv1.ReleaseLockResponse{}, nil
	})
	c := connect(t, client.Options{Target: b.addr})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		id := <-asked
		asked <- id
		cancel()
	}()
	if _, err := c.Locks.Acquire(ctx, "n", client.AcquireOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire = error %v, want %v", err, context.Canceled)
	}
	id := <-asked
	if r := <-released; r.GetRequestId() != id || r.GetName() != "n" || r.GetLockToken() != "" {
		t.Errorf("ReleaseLock(%v), want the request %q", r, id)
	}
}

// TestLockCalls: the other calls and their answers.
func TestLockCalls(t *testing.T) {
	t.Parallel()
	state := &lockv1.LockState{
		Name: "n", HolderCount: 2, WaiterCount: 3, FencingToken: 9,
		Holders: []*lockv1.LockHolder{{Owner: "a", FencingToken: 8}, {Owner: "b", FencingToken: 9}},
	}
	wantState := client.LockState{
		Name: "n", HolderCount: 2, WaiterCount: 3, FencingToken: 9,
		Holders: []client.LockHolder{{Owner: "a", FencingToken: 8}, {Owner: "b", FencingToken: 9}},
	}
	b := serve(t, func(_ context.Context, req any) (any, error) {
		switch r := req.(type) {
		case *lockv1.RenewLockRequest:
			return &lockv1.RenewLockResponse{ValidFor: durationpb.New(time.Minute), FencingToken: 9}, nil
		case *lockv1.ReleaseLockRequest:
			return &lockv1.ReleaseLockResponse{Outcome: lockv1.ReleaseLockOutcome_RELEASE_LOCK_OUTCOME_RELEASED}, nil
		case *lockv1.GetLockRequest:
			return &lockv1.GetLockResponse{Lock: state}, nil
		case *lockv1.ListLocksRequest:
			if r.GetPageToken() == "" {
				return &lockv1.ListLocksResponse{Locks: []*lockv1.LockState{state}, NextPageToken: "next"}, nil
			}
			return &lockv1.ListLocksResponse{Locks: []*lockv1.LockState{state}}, nil
		case *lockv1.ForceReleaseLockRequest:
			return &lockv1.ForceReleaseLockResponse{ReleasedCount: 2}, nil
		}
		return nil, larderError(12, "METHOD_UNKNOWN")
	})
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	wants := func(req proto.Message) {
		t.Helper()
		if diff := cmp.Diff(req, b.last(t), protocmp.Transform()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
	before := time.Now()
	if until, err := c.Locks.Renew(t.Context(), "n", "t", time.Hour); err != nil || until.Sub(before) < time.Minute || until.Sub(before) > 80*time.Second {
		t.Errorf("Renew = %v, %v, want a minute", until, err)
	}
	wants(&lockv1.RenewLockRequest{Namespace: "shop", Name: "n", LockToken: "t", Ttl: durationpb.New(time.Hour)})
	if held, err := c.Locks.Release(t.Context(), "n", "t"); err != nil || !held {
		t.Errorf("Release = %v, %v, want held", held, err)
	}
	wants(&lockv1.ReleaseLockRequest{Namespace: "shop", Name: "n", LockToken: "t"})
	if held, err := c.Locks.ReleaseRequest(t.Context(), "n", "r"); err != nil || !held {
		t.Errorf("ReleaseRequest = %v, %v, want held", held, err)
	}
	wants(&lockv1.ReleaseLockRequest{Namespace: "shop", Name: "n", RequestId: "r"})
	got, err := c.Locks.Get(t.Context(), "n")
	if diff := cmp.Diff(wantState, got); err != nil || diff != "" {
		t.Errorf("Get = error %v, want none; (-want +got):\n%s", err, diff)
	}
	n := 0
	for got, err := range c.Locks.List(t.Context(), client.ListLocksOptions{Pattern: "p*", PageSize: 5}) {
		if diff := cmp.Diff(wantState, got); err != nil || diff != "" {
			t.Errorf("List = error %v, want none; (-want +got):\n%s", err, diff)
		}
		n++
	}
	if n != 2 {
		t.Errorf("List yields %d locks, want 2", n)
	}
	wants(&lockv1.ListLocksRequest{Namespace: "shop", Pattern: "p*", PageSize: 5, PageToken: "next"})
	if n, err := c.Locks.ForceRelease(t.Context(), "n", 8); err != nil || n != 2 {
		t.Errorf("ForceRelease = %d, %v, want 2", n, err)
	}
	wants(&lockv1.ForceReleaseLockRequest{Namespace: "shop", Name: "n", FencingToken: 8})
}

// TestFence: the fence of each write reaches the server, and its refusal the caller.
func TestFence(t *testing.T) {
	t.Parallel()
	b := serve(t, func(_ context.Context, req any) (any, error) {
		switch req.(type) {
		case *cachev1.SetRequest:
			return &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_FENCED}, nil
		case *cachev1.DeleteRequest:
			return &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_FENCED}, nil
		default:
			return &cachev1.FillResponse{Outcome: cachev1.FillOutcome_FILL_OUTCOME_FENCED}, nil
		}
	})
	c := connect(t, client.Options{Target: b.addr})
	f := &client.Fence{LockName: "n", FencingToken: 7}
	for name, write := range map[string]func() (client.WriteResult, error){
		"Set": func() (client.WriteResult, error) {
			return c.Cache.Set(t.Context(), "k", nil, client.SetOptions{Fence: f})
		},
		"Delete": func() (client.WriteResult, error) {
			return c.Cache.Delete(t.Context(), "k", client.DeleteOptions{Fence: f})
		},
		"Fill": func() (client.WriteResult, error) {
			return c.Cache.Fill(t.Context(), "k", "l", nil, client.SetOptions{Fence: f})
		},
	} {
		r, err := write()
		got := b.last(t).(interface{ GetFence() *cachev1.Fence }).GetFence()
		if err != nil || r.Outcome != client.Fenced || got.GetLockName() != "n" || got.GetFencingToken() != 7 {
			t.Errorf("%s = %v, %v with the fence %v, want FENCED with the fence of n", name, r.Outcome, err, got)
		}
	}
	if client.FenceOf(t.Context()) != nil {
		t.Errorf("FenceOf outside of a lock = %v, want nil", client.FenceOf(t.Context()))
	}
	if err := (&client.LockLostError{Reason: client.LockGone}).Error(); !strings.Contains(err, "GONE") {
		t.Errorf("LockLostError = %q, want its reason", err)
	}
}
