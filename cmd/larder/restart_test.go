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

// Two replicas take turns in being stopped and started again, under load from a client that retries nothing.
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
				t.Fatalf("%s does not become ready: %s", addr, why)
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
		// A replica that is back is found at once, so that the next may go.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatal(err)
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
		// Both have served since the last restart: otherwise there would be nothing to lose.
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
		t.Errorf("call %v: %v", call, err)
		return true
	})
	t.Logf("%d calls over %d restarts", calls.Load(), restarts)
}
