package service

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// Calls that wait for a load leave their place to others, and those on one connection leave room for others on it.
func TestWaitingCallsAreNotInFlight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	a := serveWith(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}}, Options{MaxInFlight: 10, MaxConcurrentStreams: 20})
	a.redis = server
	other := cachev1.NewCacheServiceClient(dial(t, a.running.addr))
	eventually(t, "ready", a.health.Ready)
	lease := a.lease(t, &cachev1.GetOrLeaseRequest{Key: "k"}, leaseMiss, true).LeaseToken

	var waiters sync.WaitGroup
	wait := func(c cachev1.CacheServiceClient, n int, want cachev1.GetOrLeaseOutcome) {
		for range n {
			waiters.Go(func() {
				r, err := c.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Key: "k", WaitTimeout: secs(20)})
				if err != nil || r.Outcome != want {
					t.Errorf("GetOrLease = %v, %v, want %v", r.GetOutcome(), err, want)
				}
			})
		}
	}
	wait(a.cache, 5, leaseHit)
	eventually(t, "waiting", func() bool { return metric(t, a.Server, "larder_rpc_waiting") == 5 })
	wait(other, 5, leaseHit)
	eventually(t, "waiting", func() bool { return metric(t, a.Server, "larder_rpc_waiting") == 10 })
	if got := metric(t, a.Server, "larder_rpc_in_flight", "type", "unary"); got != 0 {
		t.Errorf("larder_rpc_in_flight with 10 calls that wait = %v, want 0", got)
	}
	for range 20 {
		a.set(t, &cachev1.SetRequest{Key: "another", Value: []byte("v")})
	}
	start := time.Now()
	r, err := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Key: "k", WaitTimeout: secs(20)})
	if took := time.Since(start); err != nil || r.Outcome != leasePending || r.RetryAfter.AsDuration() <= 0 || took > 5*time.Second {
		t.Errorf("GetOrLease beyond those that may wait = %v, %v after %v, want %v at once, with retry_after", r, err, took, leasePending)
	}
	must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Key: "k", Value: []byte("v"), LeaseToken: lease}))
	waiters.Wait()
	if got := metric(t, a.Server, "larder_rpc_waiting"); got != 0 {
		t.Errorf("larder_rpc_waiting afterwards = %v, want 0", got)
	}
}

// Calls that wait for locks leave their place to others, and leave room on their connection for the call that releases the lock.
func TestCallsThatWaitForLocksAreNotInFlight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	a := serveWith(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}}, Options{MaxInFlight: 20, MaxConcurrentStreams: 6})
	a.redis = server
	locks := a.lock
	eventually(t, "ready", a.health.Ready)
	held := must[*lockv1.AcquireLockResponse](t)(locks.AcquireLock(t.Context(), &lockv1.AcquireLockRequest{Name: "l"}))

	var waiters sync.WaitGroup
	for range 3 {
		waiters.Go(func() {
			r, err := locks.AcquireLock(t.Context(), &lockv1.AcquireLockRequest{Name: "l", WaitTimeout: secs(20)})
			if err != nil || r.Outcome != lockv1.AcquireLockOutcome_ACQUIRE_LOCK_OUTCOME_ACQUIRED {
				t.Errorf("AcquireLock = %v, %v, want acquired", r, err)
				return
			}
			must[*lockv1.ReleaseLockResponse](t)(locks.ReleaseLock(t.Context(), &lockv1.ReleaseLockRequest{Name: "l", LockToken: r.LockToken}))
		})
	}
	eventually(t, "waiting", func() bool { return metric(t, a.Server, "larder_lock_waiters") == 3 })
	if got := metric(t, a.Server, "larder_rpc_waiting"); got != 3 {
		t.Errorf("larder_rpc_waiting = %v, want 3", got)
	}
	if got := metric(t, a.Server, "larder_rpc_in_flight", "type", "unary"); got != 0 {
		t.Errorf("larder_rpc_in_flight with 3 calls that wait = %v, want 0", got)
	}
	start := time.Now()
	_, err := locks.AcquireLock(t.Context(), &lockv1.AcquireLockRequest{Name: "l", WaitTimeout: secs(20)})
	if took := time.Since(start); status.Code(err) != codes.ResourceExhausted || took > 5*time.Second {
		t.Errorf("AcquireLock beyond those that may wait = %v after %v, want %v at once", err, took, codes.ResourceExhausted)
	}
	must[*lockv1.ReleaseLockResponse](t)(locks.ReleaseLock(t.Context(), &lockv1.ReleaseLockRequest{Name: "l", LockToken: held.LockToken}))
	waiters.Wait()
}

// What calls in flight carry is bounded together, and those that carry little are served all the same.
func TestBytesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.StartProxy(t, server.Addr)
	a := serveWith(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}}}, Options{MaxInFlightBytes: 2 << 20})
	eventually(t, "ready", a.health.Ready)
	large := make([]byte, 900<<10)
	proxy.Delay(time.Second)
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() { a.set(t, &cachev1.SetRequest{Key: "k", Value: large}) })
	}
	eventually(t, "in flight", func() bool { return metric(t, a.Server, "larder_rpc_in_flight_bytes") > 1<<20 })
	_, err := a.cache.Set(t.Context(), &cachev1.SetRequest{Key: "k", Value: large})
	wantAnswer(t, err, answer{Code: codes.ResourceExhausted, Reason: "SERVER_OVERLOADED", Retry: true})
	a.set(t, &cachev1.SetRequest{Key: "small", Value: large[:1<<10]})
	callers.Wait()
	proxy.Delay(0)
	a.set(t, &cachev1.SetRequest{Key: "k", Value: large})
	if got := metric(t, a.Server, "larder_rpc_in_flight_bytes"); got != 0 {
		t.Errorf("larder_rpc_in_flight_bytes afterwards = %v, want 0", got)
	}
	if got := metric(t, a.Server, "larder_rpc_shed_total", "type", "unary"); got != 1 {
		t.Errorf("larder_rpc_shed_total = %v, want 1", got)
	}
}

// Callers who begin a large request and do not go on with it do not keep others from sending theirs.
func TestSilentCallersAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, stop := context.WithCancel(t.Context())
	var silent sync.WaitGroup
	defer silent.Wait()
	defer stop()
	for range 3 * maxReceiving {
		body, rest := io.Pipe()
		t.Cleanup(func() { _ = rest.Close() })
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+a.running.addr+cachev1.CacheService_Set_FullMethodName, body)
		if err != nil {
			t.Fatalf("NewRequest = %v, want nil", err)
		}
		req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
		silent.Go(func() {
			if resp, err := transport.RoundTrip(req); err == nil {
				_ = resp.Body.Close()
			}
		})
		if _, err := rest.Write(binary.BigEndian.AppendUint32([]byte{0}, 512<<10)); err != nil { // what is to come
			t.Fatalf("Write = %v, want nil", err)
		}
	}
	g := &a.receives.gate
	eventually(t, "as many as may be are received", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.inside) == maxReceiving
	})
	for range 5 {
		start := time.Now()
		a.set(t, &cachev1.SetRequest{Key: "k", Value: make([]byte, 2*smallRequest)})
		if took := time.Since(start); took > 1500*time.Millisecond { // three times receivingFor, and a busy machine
			t.Errorf("Set beside silent callers took %v, want 1.5 s at most", took)
		}
	}
}
