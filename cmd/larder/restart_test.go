package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/redistest"
)

// Two replicas are restarted in turns, under load from a client that does not retry.
func TestTenRestartsLoseNoCall(t *testing.T) {
	t.Parallel()
	const restarts, callers = 10, 16
	env := []string{"REDIS_URL=" + redistest.Start(t, redistest.Options{}).URL(), "LARDER_DRAIN_DELAY=300ms"}

	type replica struct {
		addr string
		*lardertest.Process
	}
	launch := func(addr string) replica {
		p := lardertest.Start(t, env, "serve", "--grpc-addr", addr)
		p.Stdout.Await(t, "connected to redis")
		for deadline := time.Now().Add(lardertest.Patience); ; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // polls the probe
			code, _, why := call(t, nil, "probe", "--addr", addr, "--service", "ready")
			if code == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the replica at %s is not ready after %v: %s", addr, lardertest.Patience, why)
			}
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s\n%s%s", addr, &p.Stdout, &p.Stderr)
			}
		})
		return replica{addr, p}
	}
	replicas := []replica{launch(lardertest.ClosedAddr(t)), launch(lardertest.ClosedAddr(t))}

	pick := manual.NewBuilderWithScheme("replicas")
	pick.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: replicas[0].addr}, {Addr: replicas[1].addr}}})
	conn, err := grpc.NewClient("replicas:///", grpc.WithResolvers(pick), grpc.WithDisableRetry(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		// The client finds a restarted replica soon, before the other one is stopped.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatalf("connect to the replicas: %v", err)
	}
	defer conn.Close()

	cache := cachev1.NewCacheServiceClient(conn)
	var calls atomic.Int64
	var failures sync.Map
	stop := make(chan struct{})
	var load sync.WaitGroup
	for caller := range callers {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				key := fmt.Sprintf("key-%d", n%50)
				var err error
				if n%5 == 0 {
					_, err = cache.Set(ctx, &cachev1.SetRequest{
						Key: key, Value: []byte(key), Expiry: &cachev1.SetRequest_Ttl{Ttl: durationpb.New(time.Minute)},
					})
				} else {
					_, err = cache.Get(ctx, &cachev1.GetRequest{Key: key})
				}
				cancel()
				calls.Add(1)
				if err != nil {
					failures.Store(fmt.Sprintf("%d/%d", caller, n), err)
				}
			}
		})
	}
	for i := range restarts {
		// Calls are in flight at both replicas when one is stopped.
		for before := calls.Load(); calls.Load() < before+200; {
			time.Sleep(time.Millisecond) //nolint:forbidigo // polls the counter
		}
		r := &replicas[i%2]
		r.Signal(t, syscall.SIGTERM)
		if code := r.Exit(t); code != 0 {
			t.Errorf("restart %d: exit code %d, want 0", i, code)
		}
		*r = launch(r.addr)
	}
	close(stop)
	load.Wait()
	failures.Range(func(call, err any) bool {
		t.Errorf("call %v = %v, want no call to fail", call, err)
		return true
	})
	t.Logf("%d calls over %d restarts", calls.Load(), restarts)
}
