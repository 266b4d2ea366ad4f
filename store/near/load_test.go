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
					t.Errorf("Load = %v, %v, want 1", v, err)
				}
			})
		}
		synctest.Wait()
		close(answer)
		callers.Wait()
		if got := fetched.Load(); got != 1 {
			t.Errorf("%d fetches, want 1", got)
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
					t.Errorf("the early Load = %v, %v, want old", v, err)
				}
			})
			synctest.Wait()
			spoil(n)
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
				return "new", 10, time.Hour, nil
			}); v != "new" || err != nil {
				t.Errorf("%s: Load = %v, %v, want new", name, v, err)
			}
			close(answer)
			early.Wait()
			if v, ok := n.Get("key"); !ok || v != "new" {
				t.Errorf("%s: Get = %v, %v, want new", name, v, ok)
			}
			if err := n.check(); err != nil {
				t.Errorf("%s: check: %v, want a consistent cache", name, err)
			}
		})
	}
}

// TestNearFollowerOfAFailure asks again: the first caller may have failed because it went away.
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
				t.Errorf("the failing Load: error %v, want %v", err, failed)
			}
		})
		synctest.Wait()
		second.Go(func() {
			if v, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) { return "value", 10, time.Hour, nil }); v != "value" || err != nil {
				t.Errorf("the second Load = %v, %v, want value", v, err)
			}
		})
		synctest.Wait()
		close(answer)
		first.Wait()
		second.Wait()
		if v, ok := n.Get("key"); !ok || v != "value" {
			t.Errorf("Get = %v, %v, want what the second has read", v, ok)
		}
	})
}

// TestNearFollowersShareTheNextFetch: when the one whose fetch they wait for gives up, or fails otherwise, many readers of a key
// ask once more together.
func TestNearFollowersShareTheNextFetch(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		errs    []error // of the fetches, in their order; nil succeeds
		fetches int
		want    error
	}{
		"one gives up":        {[]error{context.DeadlineExceeded, nil}, 2, nil},
		"three give up":       {[]error{context.DeadlineExceeded, context.Canceled, context.DeadlineExceeded, nil}, 4, nil},
		"one fails":           {[]error{failed, nil}, 2, nil},
		"all fail":            {[]error{failed, failed}, 2, failed},
		"gives up, then fail": {[]error{context.Canceled, failed, failed}, 3, failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, fetches, begun := New(1<<20, time.Hour), 0, make(chan struct{})
				var mu sync.Mutex
				var readers sync.WaitGroup
				unlike := 0
				for i := range 1500 {
					readers.Go(func() {
						if i > 0 {
							<-begun
						}
						leads := false
						_, _, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
							mu.Lock()
							nth := fetches
							fetches, leads = fetches+1, true
							if nth == 0 {
								close(begun)
							}
							mu.Unlock()
							<-time.After(time.Second)
							return "value", 10, time.Hour, test.errs[min(nth, len(test.errs)-1)]
						})
						mu.Lock()
						defer mu.Unlock()
						if !leads && !errors.Is(err, test.want) {
							unlike++
						}
					})
				}
				readers.Wait()
				if fetches != test.fetches || unlike > 0 {
					t.Errorf("%d fetches, and %d followers with another error than %v, want %d fetches and none", fetches, unlike, test.want, test.fetches)
				}
			})
		})
	}
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
				t.Errorf("the first Load = %v, %v, want value", v, err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := n.Load(ctx, "key", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the Load that goes away: error %v, want %v", err, context.DeadlineExceeded)
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
					t.Error("Load returned, want the panic of its fetch")
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
				t.Errorf("the second Load = %v, %v, want value", v, err)
			}
		})
		synctest.Wait()
		close(answer)
		both.Wait()
		if err := n.check(); err != nil {
			t.Errorf("check: %v, want a consistent cache", err)
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
			t.Errorf("Load: error %v, want none", err)
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
					t.Errorf("read %d, want at least %d, which was acknowledged", got, least)
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
			t.Errorf("read %d, want %d, which was written", got, i)
			break
		}
	}
	close(stop)
	readers.Wait()
	if n.hits.Load() == 0 {
		t.Error("0 hits, want some")
	}
}
