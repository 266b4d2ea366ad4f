package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// acquire acquires a lock, or ends the test.
func (a *api) acquire(t testing.TB, r *lockv1.AcquireLockRequest) *lockv1.AcquireLockResponse {
	t.Helper()
	resp, err := a.lock.AcquireLock(t.Context(), r)
	if err != nil || resp.GetOutcome() != lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED {
		t.Fatalf("AcquireLock = %v, %v, want acquired", resp, err)
	}
	return resp
}

// A holding is a call of HoldLock. Messages other than heartbeats are in events; the last one is nil, and then err says how the
// call has ended.
type holding struct {
	events chan *lockv1.HoldLockResponse
	beats  chan *lockv1.HoldLockResponse // the heartbeats for which there is room
	err    error
	end    context.CancelFunc
}

func (a *api) hold(t testing.TB, r *lockv1.HoldLockRequest) *holding {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := a.lock.HoldLock(ctx, r)
	if err != nil {
		t.Fatalf("HoldLock = %v, want nil", err)
	}
	h := &holding{events: make(chan *lockv1.HoldLockResponse, 100), beats: make(chan *lockv1.HoldLockResponse, 1), end: cancel}
	go func() {
		defer close(h.events)
		for {
			resp, err := stream.Recv()
			if err != nil {
				if h.err = err; errors.Is(err, io.EOF) {
					h.err = nil
				}
				return
			}
			if resp.GetEvent() == lockv1.HoldLockEvent_HOLD_LOCK_EVENT_HEARTBEAT {
				select {
				case h.beats <- resp:
				default:
				}
				continue
			}
			h.events <- resp
		}
	}()
	return h
}

// next returns the next message, which has to be of an event.
func (h *holding) next(t testing.TB, want lockv1.HoldLockEvent) *lockv1.HoldLockResponse {
	t.Helper()
	select {
	case resp := <-h.events:
		if resp.GetEvent() != want {
			t.Fatalf("HoldLock tells %v, want %v", resp, want)
		}
		return resp
	case <-time.After(20 * time.Second):
		t.Fatalf("HoldLock tells nothing for 20 s, want %v", want)
	}
	return nil
}

const (
	holdWaiting  = lockv1.HoldLockEvent_HOLD_LOCK_EVENT_WAITING
	holdAcquired = lockv1.HoldLockEvent_HOLD_LOCK_EVENT_ACQUIRED
	holdLost     = lockv1.HoldLockEvent_HOLD_LOCK_EVENT_LOST
)

func TestHoldLock(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	first := a.hold(t, &lockv1.HoldLockRequest{Name: "n", Ttl: secs(1), Owner: "first"})
	held := first.next(t, holdAcquired)
	if held.LockToken == "" || held.FencingToken == 0 || held.ValidFor.AsDuration() <= 0 || held.ValidUntilElapsed.AsDuration() > 2*time.Second {
		t.Errorf("ACQUIRED = %v, want a token and its validity", held)
	}
	second := a.hold(t, &lockv1.HoldLockRequest{Name: "n", Ttl: secs(60), Owner: "second"})
	if w := second.next(t, holdWaiting); w.GetHolder().GetOwner() != "first" || w.LockToken != "" {
		t.Errorf("WAITING = %v, want the holder and no token", w)
	}
	// It is renewed for as long as the call lasts.
	for range 4 {
		beat := <-first.beats
		if beat.FencingToken != held.FencingToken || beat.ValidUntilElapsed.AsDuration() <= held.ValidUntilElapsed.AsDuration() {
			t.Errorf("HEARTBEAT = %v, want a later end than %v", beat, held)
		}
	}
	if _, err := a.lock.RenewLock(t.Context(), &lockv1.RenewLockRequest{Name: "n", LockToken: held.LockToken}); err != nil {
		t.Errorf("RenewLock with the token of HoldLock = %v, want nil", err)
	}
	first.end()
	if next := second.next(t, holdAcquired); next.FencingToken <= held.FencingToken {
		t.Errorf("next token = %d, want above %d", next.FencingToken, held.FencingToken)
	}
	// Who does not wait for ever.
	third := a.hold(t, &lockv1.HoldLockRequest{Name: "n", WaitTimeout: &durationpb.Duration{}})
	if busy := third.next(t, lockv1.HoldLockEvent_HOLD_LOCK_EVENT_NOT_ACQUIRED); busy.GetHolder().GetOwner() != "second" {
		t.Errorf("NOT_ACQUIRED = %v, want the holder", busy)
	}
	if resp, open := <-third.events; open || third.err != nil {
		t.Errorf("after NOT_ACQUIRED = %v, %v, want the end of the call", resp, third.err)
	}
}

// A forced release reaches the holder by push: long before it would renew the lock.
func TestAForcedReleaseReachesItsHolder(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	b := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{a.addr}, CommandTimeout: 10 * time.Second}}, policy.Limits{})
	for _, permits := range []int32{1, 40} { // of many holders each looks for itself
		name := strings.Repeat("n", int(permits))
		holds := make([]*holding, permits)
		var last *lockv1.HoldLockResponse
		for i := range holds {
			holds[i] = a.hold(t, &lockv1.HoldLockRequest{Name: name, Ttl: secs(3600), Permits: permits})
			last = holds[i].next(t, holdAcquired)
		}
		resp, err := b.lock.ForceReleaseLock(t.Context(), &lockv1.ForceReleaseLockRequest{Name: name, FencingToken: last.FencingToken})
		if err != nil || resp.ReleasedCount != 1 || resp.Released[0].FencingToken != last.FencingToken {
			t.Fatalf("ForceReleaseLock = %v, %v, want one holder", resp, err)
		}
		lost := holds[permits-1].next(t, holdLost)
		if lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_FORCE_RELEASED || lost.FencingToken != last.FencingToken {
			t.Errorf("LOST = %v, want FORCE_RELEASED", lost)
		}
		if resp, err := b.lock.ForceReleaseLock(t.Context(), &lockv1.ForceReleaseLockRequest{Name: name}); err != nil || resp.ReleasedCount != permits-1 {
			t.Errorf("ForceReleaseLock of all = %v, %v, want %d holders", resp.GetReleasedCount(), err, permits-1)
		}
		for _, h := range holds[:permits-1] {
			if lost := h.next(t, holdLost); lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_FORCE_RELEASED {
				t.Errorf("LOST = %v, want FORCE_RELEASED", lost)
			}
		}
	}
	// Released by its own token elsewhere.
	h := a.hold(t, &lockv1.HoldLockRequest{Name: "own", Ttl: secs(3600)})
	held := h.next(t, holdAcquired)
	if _, err := b.lock.ReleaseLock(t.Context(), &lockv1.ReleaseLockRequest{Name: "own", LockToken: held.LockToken}); err != nil {
		t.Fatalf("ReleaseLock = %v, want nil", err)
	}
	if lost := h.next(t, holdLost); lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_GONE {
		t.Errorf("LOST = %v, want GONE", lost)
	}
}

// A hiccup of Redis loses no lock before its time is over, and then the loss is told on time.
func TestRedisIsAwayWhileALockIsHeld(t *testing.T) {
	t.Parallel()
	a, proxy := behindProxy(t)
	short := a.hold(t, &lockv1.HoldLockRequest{Name: "short", Ttl: secs(2)})
	long := a.hold(t, &lockv1.HoldLockRequest{Name: "long", Ttl: secs(15)})
	short.next(t, holdAcquired)
	held := long.next(t, holdAcquired)
	proxy.Refuse(true)
	proxy.CutAll()
	begin := time.Now()
	lost := short.next(t, holdLost)
	if took := time.Since(begin); lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_EXPIRED || took < time.Second {
		t.Errorf("LOST = %v after %v, want EXPIRED and not before the lock may have expired", lost, took)
	}
	proxy.Refuse(false)
	beat := <-long.beats
	for beat.ValidFor.AsDuration() < 14*time.Second { // the first one may be from before the fault
		beat = <-long.beats
	}
	select {
	case resp := <-long.events:
		t.Errorf("HoldLock tells %v, want that the lock is held", resp)
	default:
	}
	if beat.FencingToken != held.FencingToken {
		t.Errorf("token after the fault = %d, want %d", beat.FencingToken, held.FencingToken)
	}
}

// What Redis loses is lost.
func TestALockThatRedisHasLost(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	h := a.hold(t, &lockv1.HoldLockRequest{Name: "n", Ttl: secs(3600)})
	held := h.next(t, holdAcquired)
	a.do(t, "FLUSHALL")
	if lost := h.next(t, holdLost); lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_GONE {
		t.Errorf("LOST = %v, want GONE", lost)
	}
	if next := a.acquire(t, &lockv1.AcquireLockRequest{Name: "n"}); next.FencingToken <= held.FencingToken {
		t.Errorf("token after the loss = %d, want above %d", next.FencingToken, held.FencingToken)
	}
}

// A server that shuts down keeps the locks of its callers, who go on at another one.
func TestShutdownTakesNoLockAway(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	b := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{a.addr}, CommandTimeout: 10 * time.Second}}, policy.Limits{})
	h := a.hold(t, &lockv1.HoldLockRequest{Name: "n", Ttl: secs(60)})
	held := h.next(t, holdAcquired)
	waiting := a.hold(t, &lockv1.HoldLockRequest{Name: "n", Ttl: secs(60), Fair: true})
	waiting.next(t, holdWaiting)
	a.Shutdown(context.Background())
	for _, ended := range []*holding{h, waiting} {
		if resp, open := <-ended.events; open {
			t.Errorf("HoldLock tells %v, want the end of the call", resp)
		}
		wantAnswer(t, ended.err, answer{codes.Unavailable, "SERVER_SHUTTING_DOWN", true})
	}
	state, err := b.lock.GetLock(t.Context(), &lockv1.GetLockRequest{Name: "n"})
	if err != nil || state.GetLock().GetHolderCount() != 1 || state.GetLock().GetHolders()[0].FencingToken != held.FencingToken {
		t.Fatalf("GetLock = %v, %v, want the holder", state, err)
	}
	eventually(t, "nobody waits fairly any more", func() bool {
		state, err := b.lock.GetLock(t.Context(), &lockv1.GetLockRequest{Name: "n"})
		return err == nil && state.GetLock().GetWaiterCount() == 0
	})
	on := b.hold(t, &lockv1.HoldLockRequest{Name: "n", LockToken: held.LockToken})
	if resumed := on.next(t, holdAcquired); resumed.FencingToken != held.FencingToken || resumed.LockToken != held.LockToken || resumed.ValidFor.AsDuration() < 50*time.Second {
		t.Errorf("ACQUIRED at the other server = %v, want the lock of before", resumed)
	}
	on.end()
	next := b.hold(t, &lockv1.HoldLockRequest{Name: "n"})
	for {
		resp := <-next.events
		if resp.GetEvent() == holdAcquired {
			break
		}
		if resp.GetEvent() != holdWaiting {
			t.Fatalf("HoldLock after the end = %v, want the lock", resp)
		}
	}
	gone := b.hold(t, &lockv1.HoldLockRequest{Name: "n", LockToken: held.LockToken})
	if lost := gone.next(t, holdLost); lost.LostReason != lockv1.LockLostReason_LOCK_LOST_REASON_GONE {
		t.Errorf("HoldLock with a token that holds nothing = %v, want GONE", lost)
	}
}

func TestWatchLock(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	b := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{a.addr}, CommandTimeout: 10 * time.Second}}, policy.Limits{})
	watch := must[grpc.ServerStreamingClient[lockv1.WatchLockResponse]](t)(a.lock.WatchLock(t.Context(), &lockv1.WatchLockRequest{Name: "n"}))
	state := func() *lockv1.LockState {
		for {
			resp := must[*lockv1.WatchLockResponse](t)(watch.Recv())
			if resp.GetEvent() == lockv1.WatchLockEvent_WATCH_LOCK_EVENT_STATE {
				return resp.GetLock()
			}
		}
	}
	if s := state(); s.GetHolderCount() != 0 || s.GetName() != "n" {
		t.Errorf("first state = %v, want no holder of n", s)
	}
	for _, owner := range []string{"one", "two"} {
		held := b.acquire(t, &lockv1.AcquireLockRequest{Name: "n", Owner: owner, Metadata: "at " + owner, Ttl: secs(60)})
		s := state()
		if s.GetHolderCount() != 1 || s.GetHolders()[0].GetOwner() != owner || s.GetHolders()[0].GetMetadata() != "at "+owner || s.GetFencingToken() != held.FencingToken {
			t.Errorf("state = %v, want the holder %s", s, owner)
		}
		if _, err := b.lock.ReleaseLock(t.Context(), &lockv1.ReleaseLockRequest{Name: "n", LockToken: held.LockToken}); err != nil {
			t.Fatalf("ReleaseLock = %v, want nil", err)
		}
		if s := state(); s.GetHolderCount() != 0 {
			t.Errorf("state after the release = %v, want no holder", s)
		}
	}
	// The end of a lock by time is told as well.
	b.acquire(t, &lockv1.AcquireLockRequest{Name: "n", Ttl: &durationpb.Duration{Nanos: 200e6}})
	if s := state(); s.GetHolderCount() != 1 {
		t.Errorf("state = %v, want a holder", s)
	}
	if s := state(); s.GetHolderCount() != 0 {
		t.Errorf("state after the end = %v, want no holder", s)
	}
}

func TestWritesUnderAFence(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	ctx := t.Context()
	old := a.acquire(t, &lockv1.AcquireLockRequest{Name: "n"})
	if _, err := a.lock.ForceReleaseLock(ctx, &lockv1.ForceReleaseLockRequest{Name: "n"}); err != nil {
		t.Fatalf("ForceReleaseLock = %v, want nil", err)
	}
	now := a.acquire(t, &lockv1.AcquireLockRequest{Name: "n"})
	fence := func(r *lockv1.AcquireLockResponse) *cachev1.Fence {
		return &cachev1.Fence{LockName: "n", FencingToken: r.FencingToken}
	}
	for _, r := range []*lockv1.AcquireLockResponse{old, now} { // as long as nobody has written with a higher token
		if set, err := a.cache.Set(ctx, &cachev1.SetRequest{Key: "k", Value: []byte("v"), Fence: fence(r)}); err != nil || set.Outcome != cachev1.SetOutcome_SET_OUTCOME_STORED {
			t.Errorf("Set = %v, %v, want stored", set, err)
		}
	}
	if set, err := a.cache.Set(ctx, &cachev1.SetRequest{Key: "k", Fence: fence(old)}); err != nil || set.Outcome != cachev1.SetOutcome_SET_OUTCOME_FENCED || set.Etag != "" {
		t.Errorf("Set of a stale holder = %v, %v, want FENCED", set, err)
	}
	if deleted, err := a.cache.Delete(ctx, &cachev1.DeleteRequest{Key: "k", Fence: fence(old)}); err != nil || deleted.Outcome != cachev1.DeleteOutcome_DELETE_OUTCOME_FENCED {
		t.Errorf("Delete of a stale holder = %v, %v, want FENCED", deleted, err)
	}
	if deleted, err := a.cache.Delete(ctx, &cachev1.DeleteRequest{Key: "k", Fence: fence(now)}); err != nil || deleted.Outcome != cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED {
		t.Errorf("Delete = %v, %v, want deleted", deleted, err)
	}
	lease := must[*cachev1.GetOrLeaseResponse](t)(a.cache.GetOrLease(ctx, &cachev1.GetOrLeaseRequest{Key: "k"}))
	if filled, err := a.cache.Fill(ctx, &cachev1.FillRequest{Key: "k", LeaseToken: lease.LeaseToken, Fence: fence(old)}); err != nil || filled.Outcome != cachev1.FillOutcome_FILL_OUTCOME_FENCED {
		t.Errorf("Fill of a stale holder = %v, %v, want FENCED", filled, err)
	}
}

// The policy of a namespace narrows what its callers may ask for.
func TestLockPolicy(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	err := a.SetPolicy(&policy.Policy{Locks: policy.Section[policy.Lock]{Namespaces: map[string]policy.Lock{
		"strict": {MaxTTL: new(10 * time.Second), MaxPermits: new(2)},
	}}})
	if err != nil {
		t.Fatalf("SetPolicy = %v, want nil", err)
	}
	held := a.acquire(t, &lockv1.AcquireLockRequest{Namespace: "strict", Name: "n"})
	if d := held.ValidFor.AsDuration(); d > 10*time.Second || d < 5*time.Second {
		t.Errorf("valid for %v, want just below 10 s", d)
	}
	for _, r := range []*lockv1.AcquireLockRequest{{Ttl: secs(11)}, {Permits: 3}} {
		r.Namespace, r.Name = "strict", "n"
		_, err := a.lock.AcquireLock(t.Context(), r)
		wantAnswer(t, err, answer{Code: codes.InvalidArgument, Reason: "INVALID_FIELD"})
	}
}

// A forced release is logged, without the name of the lock.
func TestForcedReleasesAreLogged(t *testing.T) {
	t.Parallel()
	st := must[*store.Store](t)(store.New(store.Options{Redis: redis.Options{Mode: redis.Embedded}}))
	t.Cleanup(st.Close)
	if err := st.Redis.Connect(t.Context()); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	log := new(logBuffer)
	l := NewLock(st, policy.New(policy.Limits{}), slog.New(slog.NewJSONHandler(log, nil)))
	if _, err := l.AcquireLock(t.Context(), &lockv1.AcquireLockRequest{Name: "secret-name", Owner: "secret-owner"}); err != nil {
		t.Fatalf("AcquireLock = %v, want nil", err)
	}
	if _, err := l.ForceReleaseLock(t.Context(), &lockv1.ForceReleaseLockRequest{Name: "secret-name"}); err != nil {
		t.Fatalf("ForceReleaseLock = %v, want nil", err)
	}
	if text := log.String(); !strings.Contains(text, "lock taken from its holders") || strings.Contains(text, "secret") || !strings.Contains(text, `"holders":1`) {
		t.Errorf("log = %s, want a line without names", text)
	}
}

// Callers that wait leave room for others.
func TestWaitersLeaveRoom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	m := NewMetrics()
	st := must[*store.Store](t)(store.New(store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20, Observer: m}}))
	t.Cleanup(st.Close)
	if err := st.Redis.Connect(t.Context()); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	r := serve(t, New(st, m, Options{MaxInFlight: 10, Logger: slog.New(slog.DiscardHandler)}))
	a := &api{running: r, lock: lockv1.NewLockServiceClient(r.conn)}
	a.acquire(t, &lockv1.AcquireLockRequest{Name: "n", Ttl: secs(3600)})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			_, _ = a.lock.AcquireLock(ctx, &lockv1.AcquireLockRequest{Name: "n", WaitTimeout: secs(30)})
		})
		eventually(t, "one more waits", func() bool { return st.Locks.Stats().Waiters == int64(i+1) })
	}
	_, err := a.lock.AcquireLock(ctx, &lockv1.AcquireLockRequest{Name: "n", WaitTimeout: secs(30)})
	wantAnswer(t, err, answer{codes.ResourceExhausted, "TOO_MANY_WAITERS", true})
	if _, err := a.cache.Get(ctx, &cachev1.GetRequest{Key: "k"}); err != nil {
		t.Errorf("Get beside those who wait = %v, want nil", err)
	}
	cancel()
	all.Wait()
}

// A caller whose deadline is shorter than its wait is told who has the lock.
func TestAWaitEndsBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.acquire(t, &lockv1.AcquireLockRequest{Name: "n", Ttl: secs(3600), Owner: "me"})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	resp, err := a.lock.AcquireLock(ctx, &lockv1.AcquireLockRequest{Name: "n", WaitTimeout: secs(30)})
	if err != nil || resp.GetOutcome() != lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_HELD || resp.GetHolder().GetOwner() != "me" {
		t.Errorf("AcquireLock = %v, %v, want HELD by me", resp, err)
	}
}
