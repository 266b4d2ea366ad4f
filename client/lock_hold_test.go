package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/client"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// A replica is a server of Larder in this process.
type replica struct {
	server *service.Server
	addr   string
	store  *store.Store
	stop   func()
}

// replicas serves a Redis of their own.
func replicas(t *testing.T, n int) []*replica {
	t.Helper()
	redisServer := redistest.Start(t, redistest.Options{})
	all := make([]*replica, n)
	for i := range all {
		quiet := slog.New(slog.DiscardHandler)
		st, err := store.New(store.Options{Redis: redis.Options{Addrs: []string{redisServer.Addr}, NearCacheBytes: 1 << 20, Logger: quiet}})
		if err != nil {
			t.Fatalf("store.New = error %v, want none", err)
		}
		if err := st.Redis.Connect(t.Context()); err != nil {
			t.Fatalf("Connect = error %v, want none", err)
		}
		r := &replica{server: service.New(st, service.NewMetrics(), service.Options{Logger: quiet, DrainDelay: time.Nanosecond}), store: st}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("Listen = error %v, want none", err)
		}
		r.addr = lis.Addr().String()
		served := make(chan error, 1)
		go func() { served <- r.server.Serve(lis) }()
		var once sync.Once
		r.stop = func() {
			once.Do(func() {
				r.server.Shutdown(context.Background())
				<-served
				st.Close()
			})
		}
		t.Cleanup(r.stop)
		if err := awaitReady(r.addr); err != nil {
			t.Fatalf("awaitReady = error %v, want none", err)
		}
		all[i] = r
	}
	return all
}

// both are the options of a client of several replicas.
func both(all ...*replica) client.Options {
	backends := make([]*backend, len(all))
	for i, r := range all {
		backends[i] = &backend{addr: r.addr}
	}
	return over(backends...)
}

func TestDo(t *testing.T) {
	t.Parallel()
	r := replicas(t, 1)[0]
	c := connect(t, client.Options{Target: r.addr})
	ctx := t.Context()
	var fence int64
	err := c.Locks.Do(ctx, "n", client.HoldOptions{Owner: "me"}, func(ctx context.Context) error {
		f := client.FenceOf(ctx)
		fence = f.FencingToken
		if r, err := c.Cache.Set(ctx, "k", []byte("v"), client.SetOptions{Fence: f}); err != nil || r.Outcome != client.Stored {
			t.Errorf("Set = %v, %v, want stored", r, err)
		}
		state, err := c.Locks.Get(ctx, "n")
		if err != nil || state.HolderCount != 1 || state.Holders[0].Owner != "me" || state.FencingToken != fence {
			t.Errorf("Get = %+v, %v, want this holder", state, err)
		}
		inner := c.Locks.Do(ctx, "n", client.HoldOptions{WaitTimeout: -1}, func(context.Context) error {
			t.Error("two functions run under one lock, want one")
			return nil
		})
		if !errors.Is(inner, client.ErrHeld) {
			t.Errorf("Do within Do = error %v, want %v", inner, client.ErrHeld)
		}
		return errors.New("of the function")
	})
	if err == nil || err.Error() != "of the function" {
		t.Errorf("Do = error %v, want that of the function", err)
	}
	// The lock is free at once.
	if l, err := c.Locks.Acquire(ctx, "n", client.AcquireOptions{}); err != nil || l.Outcome != client.Acquired || l.FencingToken <= fence {
		t.Errorf("Acquire after Do = %+v, %v, want acquired with a higher token", l, err)
	}
}

// TestDoIsToldOfALoss: the context ends with its cause soon after a forced release, and Do says so whatever the function says.
func TestDoIsToldOfALoss(t *testing.T) {
	t.Parallel()
	r := replicas(t, 1)[0]
	c := connect(t, client.Options{Target: r.addr})
	for _, own := range []error{nil, errors.New("of the function")} {
		err := c.Locks.Do(t.Context(), "n", client.HoldOptions{TTL: time.Hour}, func(ctx context.Context) error {
			if n, err := c.Locks.ForceRelease(t.Context(), "n", 0); err != nil || n != 1 { // the loss may end ctx before the answer comes
				t.Errorf("ForceRelease = %d, %v, want 1", n, err)
			}
			<-ctx.Done()
			var lost *client.LockLostError
			if cause := context.Cause(ctx); !errors.As(cause, &lost) || lost.Reason != client.LockForceReleased {
				t.Errorf("cause = %v, want %v", cause, client.LockForceReleased)
			}
			return own
		})
		if !errors.Is(err, client.ErrLockLost) || own != nil && !errors.Is(err, own) {
			t.Errorf("Do = error %v, want %v and %v", err, client.ErrLockLost, own)
		}
	}
}

// TestHoldGoesOnAtAnotherReplica: a replica that shuts down takes no lock away, and one that crashes does not either while there is
// another one.
func TestHoldGoesOnAtAnotherReplica(t *testing.T) {
	t.Parallel()
	all := replicas(t, 3)
	c := connect(t, both(all...))
	h, err := c.Locks.Hold(t.Context(), "n", client.HoldOptions{TTL: 20 * time.Second})
	if err != nil {
		t.Fatalf("Hold = error %v, want none", err)
	}
	holding := func() *replica {
		for _, r := range all {
			if r.store.Locks.Stats().Holding == 1 {
				return r
			}
		}
		return nil
	}
	for range 2 {
		at := holding()
		if at == nil {
			t.Fatal("no replica holds the lock, want one")
		}
		at.stop()
		for deadline := time.Now().Add(15 * time.Second); ; <-time.After(5 * time.Millisecond) {
			if next := holding(); next != nil && next != at {
				break
			}
			if h.Lost() != nil || time.Now().After(deadline) {
				t.Fatalf("the lock is lost (%v) or no other replica holds it, want that it goes on", h.Lost())
			}
		}
	}
	if h.Context().Err() != nil || time.Until(h.ValidUntil()) < 5*time.Second {
		t.Errorf("Hold = %v, valid for %v, want that the lock is held", h.Lost(), time.Until(h.ValidUntil()))
	}
	h.Release()
	if !errors.Is(h.Context().Err(), context.Canceled) || h.Lost() != nil {
		t.Errorf("context after Release = %v, lost %v, want that it has ended without a loss", h.Context().Err(), h.Lost())
	}
}

// TestHoldGoesOnAtABusyReplica: a replica that has too many calls in flight, as others shut down, does not end the hold.
func TestHoldGoesOnAtABusyReplica(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	again := make(chan *lockv1.HoldLockRequest, 1)
	b := &backend{hold: func(req *lockv1.HoldLockRequest, stream grpc.ServerStreamingServer[lockv1.HoldLockResponse]) error {
		call := calls.Add(1)
		switch call {
		case 2, 3:
			return larderError(codes.ResourceExhausted, "SERVER_OVERLOADED")
		case 4:
			again <- req
		}
		if err := stream.Send(&lockv1.HoldLockResponse{
			Event: lockv1.HoldLockEvent_HOLD_LOCK_EVENT_ACQUIRED, LockToken: "token", FencingToken: 7, ValidUntilElapsed: durationpb.New(time.Minute),
		}); err != nil || call == 1 {
			return larderError(codes.Unavailable, "SERVER_SHUTTING_DOWN")
		}
		<-stream.Context().Done()
		return nil
	}}
	c := connect(t, client.Options{Target: b.start(t, insecure.NewCredentials()).addr})
	h, err := c.Locks.Hold(t.Context(), "n", client.HoldOptions{})
	if err != nil {
		t.Fatalf("Hold = error %v, want none", err)
	}
	select {
	case req := <-again:
		if req.GetLockToken() != "token" {
			t.Errorf("lock_token = %q, want that of the lock", req.GetLockToken())
		}
	case <-h.Context().Done():
		t.Errorf("the lock is lost: %v, want that it is held", h.Lost())
	}
}

// TestHoldEndsByItself: a caller that hears nothing any more stops in time, by its own clock, counted from before its request.
func TestHoldEndsByItself(t *testing.T) {
	t.Parallel()
	b := &backend{hold: func(_ *lockv1.HoldLockRequest, s grpc.ServerStreamingServer[lockv1.HoldLockResponse]) error {
		if err := s.Send(&lockv1.HoldLockResponse{
			Event: lockv1.HoldLockEvent_HOLD_LOCK_EVENT_ACQUIRED, LockToken: "t", FencingToken: 7, ValidUntilElapsed: durationpb.New(300 * time.Millisecond),
		}); err != nil {
			return err
		}
		<-s.Context().Done() // and not a word more
		return s.Context().Err()
	}}
	c := connect(t, client.Options{Target: b.start(t, insecure.NewCredentials()).addr})
	before := time.Now()
	h, err := c.Locks.Hold(t.Context(), "n", client.HoldOptions{})
	if err != nil || h.FencingToken() != 7 {
		t.Fatalf("Hold = %v, %v, want the token 7", h, err)
	}
	<-h.Context().Done()
	var lost *client.LockLostError
	if took := time.Since(before); !errors.As(h.Lost(), &lost) || lost.Reason != client.LockExpired || took < 300*time.Millisecond || h.ValidUntil().Sub(before) > 10*time.Second {
		t.Errorf("lost = %v after %v, want EXPIRED after 300ms", h.Lost(), took)
	}
	h.Release()
}

// TestRunAsLeader: one process leads at a time, and a standby takes over within 2 s of the crash of the leader, of its replica, and
// of a forced release.
func TestRunAsLeader(t *testing.T) {
	t.Parallel()
	all := replicas(t, 2)
	var leading atomic.Int64
	var forced atomic.Bool
	type leader struct {
		who   string
		fence int64
	}
	leads := make(chan leader)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var processes sync.WaitGroup
	run := func(who string, c *client.Client) {
		processes.Go(func() {
			_ = c.Locks.RunAsLeader(ctx, "leader", client.HoldOptions{TTL: time.Second, Owner: who}, func(ctx context.Context) error {
				// Who loses the lock to an operator may hear of it after the next one has it.
				if n := leading.Add(1); n > 1 && !forced.Load() {
					t.Errorf("%d lead at once, want one", n)
				}
				defer leading.Add(-1)
				select {
				case leads <- leader{who, client.FenceOf(ctx).FencingToken}:
				case <-ctx.Done():
				}
				<-ctx.Done()
				return ctx.Err()
			})
		})
	}
	first := connect(t, client.Options{Target: all[0].addr})
	run("first", first)
	before := <-leads
	second, third := connect(t, both(all...)), connect(t, client.Options{Target: all[1].addr})
	run("second", second)
	run("third", third)
	observed := make(chan client.LockState, 100)
	observing, unobserve := context.WithCancel(ctx)
	defer unobserve()
	go func() {
		for state, err := range third.Locks.Observe(observing, "leader") {
			if err != nil {
				return
			}
			observed <- state
		}
	}()
	follows := func(what string, crash func()) {
		t.Helper()
		begin := time.Now()
		crash()
		next := <-leads
		took := time.Since(begin)
		t.Logf("%s leads %v after %s", next.who, took, what)
		// It takes milliseconds, unless the machine is busy.
		if next.fence <= before.fence || took > 2*time.Second {
			t.Errorf("%+v leads %v after %s, want a higher token than %d within 2 s", next, took, what, before.fence)
		}
		for state := range observed {
			if state.HolderCount == 1 && state.FencingToken == next.fence {
				if state.Holders[0].Owner != next.who {
					t.Errorf("Observe tells that %s leads, want %s", state.Holders[0].Owner, next.who)
				}
				break
			}
		}
		before = next
	}
	follows("the crash of the leader", func() { _ = first.Close() })
	follows("a forced release", func() {
		forced.Store(true)
		if n, err := third.Locks.ForceRelease(ctx, "leader", 0); err != nil || n != 1 {
			t.Errorf("ForceRelease = %d, %v, want 1", n, err)
		}
	})
	cancel()
	go func() {
		for range leads { // of one that has won and finds that it is over
		}
	}()
	processes.Wait()
	close(leads)
}
