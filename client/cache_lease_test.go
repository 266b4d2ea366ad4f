package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthcare/larder/client"
)

// embedded returns a client of a server of its own, and another of the same server.
func embedded(t *testing.T) (one, other *client.Client) {
	t.Helper()
	address, stop, err := serveEmbedded()
	if err != nil {
		t.Fatalf("serveEmbedded: %v", err)
	}
	t.Cleanup(stop)
	return connect(t, client.Options{Target: address}), connect(t, client.Options{Target: address})
}

func TestGetOrLoadLoadsOnce(t *testing.T) {
	t.Parallel()
	one, other := embedded(t)
	const callers = 50
	var loads atomic.Int32
	var wg, begun sync.WaitGroup
	begun.Add(callers)
	for i := range callers {
		c := []*client.Client{one, other}[i%2]
		wg.Go(func() {
			begun.Done()
			e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{LeaseOptions: client.LeaseOptions{WaitTimeout: 20 * time.Second}}, func(context.Context) (client.LoadResult, error) {
				loads.Add(1)
				begun.Wait() // all want it while it is being loaded
				return client.LoadResult{Value: []byte("v")}, nil
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
	load := func(context.Context) (client.LoadResult, error) {
		loads++
		return client.LoadResult{}, errOrigin
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
	for {
		if e, err := c.Cache.Get(t.Context(), "old"); err != nil {
			t.Fatal(err)
		} else if e.Outcome == client.Stale {
			break
		}
	}
	for range 2 { // the second time it is held back
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
	e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{}, func(ctx context.Context) (client.LoadResult, error) {
		_, err := c.Cache.Set(ctx, "k", []byte("theirs"), client.SetOptions{})
		return client.LoadResult{Value: []byte("mine")}, err
	})
	if err != nil || string(e.Value) != "mine" || e.ETag != "" {
		t.Errorf("got %+v, %v", e, err)
	}
}
