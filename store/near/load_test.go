package near

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestNearSharesOneFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, time.Hour)
		var fetched atomic.Int64
		answer := make(chan struct{})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
					<-answer
					return fetched.Add(1), 10, time.Hour, nil
				})
				if v != int64(1) || err != nil {
					t.Error(v, err)
				}
			})
		}
		synctest.Wait()
		close(answer)
		callers.Wait()
		if got := fetched.Load(); got != 1 {
			t.Errorf("fetched %d times", got)
		}
	})
}

// TestNearDoesNotWaitForASpoiledFetch: a reader that comes after a write must not be given what was read before it.
func TestNearDoesNotWaitForASpoiledFetch(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(n *Cache){
		"written here": func(n *Cache) { n.Forget("key") }, "written elsewhere": func(n *Cache) { n.Invalidate("key") }, "flushed": func(n *Cache) { n.Flush() },
	} {
		synctest.Test(t, func(t *testing.T) {
			n := New(1<<20, time.Hour)
			answer := make(chan struct{})
			var early sync.WaitGroup
			early.Go(func() {
				if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
					<-answer
					return "old", 10, time.Hour, nil
				}); v != "old" || err != nil {
					t.Error(v, err)
				}
			})
			synctest.Wait()
			spoil(n)
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
				return "new", 10, time.Hour, nil
			}); v != "new" || err != nil {
				t.Errorf("%s: read %v, %v", name, v, err)
			}
			close(answer)
			early.Wait()
			if v, ok := n.Get("key"); !ok || v != "new" {
				t.Errorf("%s: kept %v, %v", name, v, ok)
			}
			if err := n.check(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// TestNearFollowerOfAFailure asks for itself: the first caller may have failed because it went away.
func TestNearFollowerOfAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, time.Hour)
		answer, failed := make(chan struct{}), errors.New("failed")
		var first, second sync.WaitGroup
		first.Go(func() {
			if _, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
				<-answer
				return nil, 0, time.Hour, failed
			}); !errors.Is(err, failed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		second.Go(func() {
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) { return "value", 10, time.Hour, nil }); v != "value" || err != nil {
				t.Error(v, err)
			}
		})
		synctest.Wait()
		close(answer)
		first.Wait()
		second.Wait()
		if entries, _ := n.usage(); entries != 0 {
			t.Error("a failure was kept")
		}
	})
}

func TestNearFollowerGoesAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, time.Hour)
		answer := make(chan struct{})
		var first sync.WaitGroup
		first.Go(func() {
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
				<-answer
				return "value", 10, time.Hour, nil
			}); v != "value" || err != nil {
				t.Error(v, err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := n.Load(ctx, "key", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(answer)
		first.Wait()
	})
}

// TestNearSurvivesAPanic: those who wait for a fetch that panicked are not left waiting.
func TestNearSurvivesAPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, time.Hour)
		answer := make(chan struct{})
		var both sync.WaitGroup
		both.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was lost")
				}
			}()
			_, _, _ = n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
				<-answer
				panic("fetch")
			})
		})
		synctest.Wait()
		both.Go(func() {
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) { return "value", 10, time.Hour, nil }); v != "value" || err != nil {
				t.Error(v, err)
			}
		})
		synctest.Wait()
		close(answer)
		both.Wait()
		if err := n.check(); err != nil {
			t.Error(err)
		}
	})
}

// TestNearReadsYourWrites without Redis, where the windows between the steps are smallest: readers that fetch and keep
// race with writers that write, forget and then say so.
func TestNearReadsYourWrites(t *testing.T) {
	t.Parallel()
	n := New(1<<20, time.Hour)
	var stored, said atomic.Int64
	stop := make(chan struct{})
	var readers sync.WaitGroup
	read := func() int64 {
		if v, ok := n.Get("key"); ok {
			return v.(int64)
		}
		v, _, err := n.Load(context.Background(), "key", func() (any, int, time.Duration, error) {
			return stored.Load(), 10, time.Hour, nil
		})
		if err != nil {
			t.Error(err)
		}
		return v.(int64)
	}
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if least, got := said.Load(), read(); got < least {
					t.Errorf("read %d after %d was acknowledged", got, least)
					return
				}
			}
		})
	}
	for i := range int64(20000) {
		stored.Store(i)
		n.Forget("key")
		said.Store(i)
		if got := read(); got != i {
			t.Errorf("read %d after writing %d", got, i)
			break
		}
	}
	close(stop)
	readers.Wait()
	if n.hits.Load() == 0 {
		t.Error("nothing was ever served from memory")
	}
}
