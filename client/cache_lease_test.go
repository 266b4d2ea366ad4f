package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/client"
)

// embedded returns a client of a server of its own, and another of the same server.
func embedded(t *testing.T) (one, other *client.Client) {
	t.Helper()
	address, stop := serveEmbedded()
	t.Cleanup(stop)
	return connect(t, client.Options{Target: address}), connect(t, client.Options{Target: address})
}

func TestGetOrLoadLoadsOnce(t *testing.T) {
	t.Parallel()
	one, other := embedded(t)
	var loads atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		c := []*client.Client{one, other}[i%2]
		wg.Go(func() {
			e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{LeaseOptions: client.LeaseOptions{WaitTimeout: 20 * time.Second}}, func(context.Context) (client.Loaded, error) {
				loads.Add(1)
				time.Sleep(50 * time.Millisecond) //nolint:forbidigo // entries age
				return client.Loaded{Value: []byte("v")}, nil
			})
			if err != nil || e.Outcome != client.Hit || string(e.Value) != "v" {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads, want 1", n)
	}
}

func TestGetOrLoadWhenTheOriginFails(t *testing.T) {
	t.Parallel()
	c, _ := embedded(t)
	errOrigin := errors.New("the origin is down")
	loads := 0
	load := func(context.Context) (client.Loaded, error) {
		loads++
		return client.Loaded{}, errOrigin
	}
	o := client.LoadOptions{LeaseOptions: client.LeaseOptions{WaitTimeout: time.Millisecond}, RetryAfter: time.Minute}
	if _, err := c.Cache.GetOrLoad(t.Context(), "none", o, load); !errors.Is(err, errOrigin) {
		t.Errorf("error %v, want the origin's", err)
	}
	if _, err := c.Cache.GetOrLoad(t.Context(), "none", o, load); !errors.Is(err, client.ErrPending) {
		t.Errorf("error %v, want ErrPending", err)
	}
	if _, err := c.Cache.Set(t.Context(), "old", []byte("old"), client.SetOptions{TTL: time.Millisecond, StaleTTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) //nolint:forbidigo // entries age
	for range 2 {                     // the second time it is held back
		if e, err := c.Cache.GetOrLoad(t.Context(), "old", o, load); err != nil || e.Outcome != client.Stale || string(e.Value) != "old" {
			t.Errorf("got %+v, %v, want the stale value", e, err)
		}
	}
	if loads != 2 {
		t.Errorf("%d loads, want one for each key", loads)
	}
}

func TestGetOrLoadReturnsWhatCouldNotBeKept(t *testing.T) {
	t.Parallel()
	c, _ := embedded(t)
	e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{}, func(ctx context.Context) (client.Loaded, error) {
		_, err := c.Cache.Set(ctx, "k", []byte("theirs"), client.SetOptions{})
		return client.Loaded{Value: []byte("mine")}, err
	})
	if err != nil || string(e.Value) != "mine" || e.ETag != "" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	c, _ := embedded(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for e, err := range c.Cache.Watch(ctx) {
		if err != nil || e != (client.WatchEvent{Kind: client.WatchReset}) {
			t.Errorf("got %+v, %v, want a reset", e, err)
		}
		break
	}
	cancel()
	for _, err := range c.Cache.Watch(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	}
}

func ExampleCache_GetOrLoad() {
	address, stop := serveEmbedded()
	defer stop()
	larder, err := client.New(client.Options{Target: address, Namespace: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	defer larder.Close()
	for range 2 {
		e, err := larder.Cache.GetOrLoad(context.Background(), "user:1", client.LoadOptions{}, func(context.Context) (client.Loaded, error) {
			fmt.Println("loading")
			return client.Loaded{Value: []byte("Ann"), Options: client.SetOptions{TTL: time.Hour, Tags: []string{"users"}}}, nil
		})
		fmt.Println(string(e.Value), err)
	}
	// Output:
	// loading
	// Ann <nil>
	// Ann <nil>
}
