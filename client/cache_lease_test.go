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

// embedded starts a server and returns two clients of it.
func embedded(t *testing.T) (one, other *client.Client) {
	t.Helper()
	address, stop, err := serveEmbedded()
	if err != nil {
		t.Fatalf("serveEmbedded = error %v, want none", err)
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
				begun.Wait() // the load lasts until every caller has asked
				return client.LoadResult{Value: []byte("v")}, nil
			})
			if err != nil || e.Outcome != client.Hit || string(e.Value) != "v" {
				t.Errorf("GetOrLoad = %+v, %v; want the value v as a HIT", e, err)
			}
		})
	}
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("load was called %d times, want 1", n)
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
		t.Errorf("GetOrLoad = error %v, want the error of load, %v", err, errOrigin)
	}
	if _, err := c.Cache.GetOrLoad(t.Context(), "none", o, load); !errors.Is(err, client.ErrPending) {
		t.Errorf("GetOrLoad after the failed load = error %v, want ErrPending", err)
	}
	if _, err := c.Cache.Set(t.Context(), "old", []byte("old"), client.SetOptions{TTL: time.Millisecond, StaleTTL: time.Hour}); err != nil {
		t.Fatalf("Set = error %v, want none", err)
	}
	for {
		if e, err := c.Cache.Get(t.Context(), "old"); err != nil {
			t.Fatalf("Get = error %v, want none", err)
		} else if e.Outcome == client.Stale {
			break
		}
	}
	for range 2 { // the second time the server holds the lease back
		if e, err := c.Cache.GetOrLoad(t.Context(), "old", o, load); err != nil || e.Outcome != client.Stale || string(e.Value) != "old" {
			t.Errorf("GetOrLoad = %+v, %v; want the stale value old", e, err)
		}
	}
	if loads != 2 {
		t.Errorf("load was called %d times, want 2: once for each key", loads)
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
		t.Errorf("GetOrLoad = %+v, %v; want the value mine without an etag", e, err)
	}
}

// TestGetOrLoadWithoutLarderReturnsTheError, so that not every caller turns to the origin at once.
func TestGetOrLoadWithoutLarderReturnsTheError(t *testing.T) {
	t.Parallel()
	b := serve(t, refuse("0"))
	c := connect(t, client.Options{Target: b.addr})
	loads := 0
	e, err := c.Cache.GetOrLoad(t.Context(), "k", client.LoadOptions{}, func(context.Context) (client.LoadResult, error) {
		loads++
		return client.LoadResult{Value: []byte("v")}, nil
	})
	if !errors.Is(err, client.ErrUnavailable) || e.Found() || loads != 0 {
		t.Errorf("GetOrLoad = %+v, %v after %d loads; want no value and ErrUnavailable after 0", e, err, loads)
	}
}
