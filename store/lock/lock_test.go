package lock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/lock"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/storetest"
)

// request is a request for a lock of 10 s, without waiting.
func request() lock.Request { return lock.Request{TTL: 10 * time.Second} }

// acquire acquires a lock, or ends the test.
func acquire(tb testing.TB, s *store.Store, namespace, name string, r lock.Request) *lock.Grant {
	tb.Helper()
	g, busy, err := s.Locks.Acquire(tb.Context(), namespace, name, r)
	if err != nil || g == nil {
		tb.Fatalf("Acquire of %q = %v, %v, want a grant: %s", name, busy, err, storetest.Cause(err))
	}
	return g
}

// busy asks for a lock that others have, or ends the test.
func busy(tb testing.TB, s *store.Store, namespace, name string, r lock.Request) *lock.Busy {
	tb.Helper()
	g, b, err := s.Locks.Acquire(tb.Context(), namespace, name, r)
	if err != nil || g != nil {
		tb.Fatalf("Acquire of %q = %v, %v, want that others have it: %s", name, g, err, storetest.Cause(err))
	}
	return b
}

// release releases a lock that the caller has, or ends the test.
func release(tb testing.TB, s *store.Store, namespace, name string, g *lock.Grant) lock.Released {
	tb.Helper()
	r, err := s.Locks.Release(tb.Context(), namespace, name, g.Token)
	if err != nil || !r.Held {
		tb.Fatalf("Release of %q = %v, %v, want that it was held: %s", name, r, err, storetest.Cause(err))
	}
	return r
}

func TestAcquireRenewRelease(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		ctx := t.Context()
		r := request()
		r.Owner, r.Metadata = "host-1", "10.0.0.1 { } \x01"
		before := time.Now()
		g := acquire(t, s, ns, "name", r)
		if left := g.Ends.Sub(before); left > r.TTL || left < r.TTL-time.Second || g.Fence < time.Now().Add(-time.Hour).UnixMicro() {
			t.Errorf("grant ends in %v with token %d, want at most %v and a time", left, g.Fence, r.TTL)
		}
		b := busy(t, s, ns, "name", request())
		if b.Holder == nil || b.Holder.Owner != r.Owner || b.Holder.Metadata != r.Metadata || b.Holder.Fence != g.Fence || b.Holders != 1 {
			t.Errorf("busy = %+v of %+v, want holder %q", b, b.Holder, r.Owner)
		}
		if b.RetryAfter <= 0 || b.RetryAfter > r.TTL {
			t.Errorf("retry after %v, want within %v", b.RetryAfter, r.TTL)
		}
		renewed, err := s.Locks.Renew(ctx, ns, "name", g.Token, time.Minute)
		if err != nil || renewed.Fence != g.Fence || time.Until(renewed.Ends) < 50*time.Second {
			t.Errorf("Renew = %+v, %v, want token %d and almost a minute", renewed, err, g.Fence)
		}
		if shorter, err := s.Locks.Renew(ctx, ns, "name", g.Token, time.Second); err != nil || time.Until(shorter.Ends) < 50*time.Second {
			t.Errorf("Renew with a shorter ttl = %+v, %v, want the end that it had", shorter, err)
		}
		// The holder id is no secret, and proves nothing.
		forged := g.Token[:30] + flip(g.Token[30]) + g.Token[31:]
		if _, err := s.Locks.Renew(ctx, ns, "name", forged, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew with another secret = %v, want %v", err, lock.ErrNotHeld)
		}
		if r, err := s.Locks.Release(ctx, ns, "name", forged); err != nil || r.Held {
			t.Errorf("Release with another secret = %v, %v, want not held", r, err)
		}
		state, err := s.Locks.Get(ctx, ns, "name")
		if err != nil || state.Count != 1 || len(state.Holders) != 1 || state.Holders[0].Fence != g.Fence || state.Fence != g.Fence {
			t.Errorf("Get = %+v, %v, want one holder with token %d", state, err, g.Fence)
		}
		release(t, s, ns, "name", g)
		if r, err := s.Locks.Release(ctx, ns, "name", g.Token); err != nil || r.Held {
			t.Errorf("second Release = %v, %v, want not held", r, err)
		}
		if _, err := s.Locks.Renew(ctx, ns, "name", g.Token, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew after Release = %v, want %v", err, lock.ErrNotHeld)
		}
		next := acquire(t, s, ns, "name", request())
		if next.Fence <= g.Fence || next.Token == g.Token {
			t.Errorf("next token %d, want above %d", next.Fence, g.Fence)
		}
		if _, err := s.Locks.Renew(ctx, ns, "name", g.Token, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew with another holder's lock = %v, want %v", err, lock.ErrNotHeld)
		}
		if r, err := s.Locks.Release(ctx, ns, "name", g.Token); err != nil || r.Held {
			t.Errorf("Release of another holder's lock = %v, %v, want not held", r, err)
		}
		if _, err := s.Locks.Renew(ctx, ns, "other", next.Token, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew of another name = %v, want %v", err, lock.ErrNotHeld)
		}
	})
}

func TestAnExpiredLockIsFree(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		r := request()
		r.TTL = lock.MinTTL
		// Even if nobody else wants it, it cannot be renewed. Another holder keeps what Redis has of it.
		acquire(t, s, ns, "unwanted", lock.Request{TTL: time.Minute, Permits: 2})
		unwanted := acquire(t, s, ns, "unwanted", lock.Request{TTL: r.TTL, Permits: 2})
		storetest.Eventually(t, "it has expired", func() bool {
			state, err := s.Locks.Get(t.Context(), ns, "unwanted")
			return err == nil && state.Count == 1
		})
		if _, err := s.Locks.Renew(t.Context(), ns, "unwanted", unwanted.Token, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew of an expired lock = %v, want %v", err, lock.ErrNotHeld)
		}
		g := acquire(t, s, ns, "name", r)
		r = request()
		r.Wait = 10 * time.Second
		next := acquire(t, s, ns, "name", r)
		if d := next.At.Sub(g.At); d < lock.MinTTL || next.Fence <= g.Fence {
			t.Errorf("acquired %v later with token %d, want at least %v and above %d", d, next.Fence, lock.MinTTL, g.Fence)
		}
		if r, err := s.Locks.Release(t.Context(), ns, "name", g.Token); err != nil || r.Held {
			t.Errorf("Release of an expired lock = %v, %v, want not held", r, err)
		}
	})
}

func TestARepeatedRequestIsGivenTheSameGrant(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		r := request()
		r.ID = "a-request-id-of-a-caller"
		g := acquire(t, s, ns, "name", r)
		r.TTL = time.Hour
		again := acquire(t, storetest.Replicas(t, s)[1], ns, "name", r)
		if again.Token != g.Token || again.Fence != g.Fence || again.At != g.At || again.Ends.After(g.Ends.Add(time.Second)) {
			t.Errorf("repeated = %+v, want %+v", again, g)
		}
		if n, err := s.Locks.ReleaseRequest(t.Context(), ns, "name", "another-request"); err != nil || n.Held {
			t.Errorf("ReleaseRequest of another = %v, %v, want not held", n, err)
		}
		if n, err := s.Locks.ReleaseRequest(t.Context(), ns, "name", r.ID); err != nil || !n.Held {
			t.Errorf("ReleaseRequest = %v, %v, want held", n, err)
		}
		next := acquire(t, s, ns, "name", request())
		if next.Fence <= g.Fence {
			t.Errorf("next token = %d, want above %d", next.Fence, g.Fence)
		}
	})
}

func TestPermits(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		r := request()
		r.Permits = 3
		var grants []*lock.Grant
		for range 3 {
			grants = append(grants, acquire(t, s, ns, "name", r))
		}
		if b := busy(t, s, ns, "name", r); b.Holders != 3 {
			t.Errorf("holders = %d, want 3", b.Holders)
		}
		state, err := s.Locks.Get(t.Context(), ns, "name")
		if err != nil || state.Count != 3 || len(state.Holders) != 3 || state.Fence != grants[2].Fence {
			t.Errorf("Get = %+v, %v, want three holders", state, err)
		}
		release(t, s, ns, "name", grants[1])
		r.Wait = 10 * time.Second
		last := acquire(t, s, ns, "name", r)
		if last.Fence <= grants[2].Fence {
			t.Errorf("token = %d, want above %d", last.Fence, grants[2].Fence)
		}
		busy(t, s, ns, "name", request()) // a lock is not free while there is one holder
	})
}

func TestForceReleaseTakesTheLockAway(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		r := request()
		r.Permits, r.Owner = 2, "holder"
		first, second := acquire(t, s, ns, "name", r), acquire(t, s, ns, "name", r)
		f, err := s.Locks.ForceRelease(t.Context(), ns, "name", first.Fence)
		if err != nil || f.Count != 1 || len(f.Holders) != 1 || f.Holders[0].Fence != first.Fence || f.Holders[0].Owner != "holder" {
			t.Errorf("ForceRelease of one = %+v, %v, want the holder with token %d", f, err, first.Fence)
		}
		if _, err := s.Locks.Renew(t.Context(), ns, "name", first.Token, 0); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("Renew = %v, want %v", err, lock.ErrNotHeld)
		}
		if _, err := s.Locks.Renew(t.Context(), ns, "name", second.Token, 0); err != nil {
			t.Errorf("Renew of the other holder = %v, want nil", err)
		}
		if f, err := s.Locks.ForceRelease(t.Context(), ns, "name", 0); err != nil || f.Count != 1 {
			t.Errorf("ForceRelease = %+v, %v, want one holder", f, err)
		}
		if f, err := s.Locks.ForceRelease(t.Context(), ns, "name", 0); err != nil || f.Count != 0 {
			t.Errorf("second ForceRelease = %+v, %v, want none", f, err)
		}
		if g := acquire(t, s, ns, "name", request()); g.Fence <= second.Fence {
			t.Errorf("token = %d, want above %d", g.Fence, second.Fence)
		}
	})
}

// The fencing token increases although Redis has lost everything about the lock, and although its clock was set back.
func TestFencingTokensIncrease(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		tag := "{" + ns + ":name}"
		var last int64
		next := func(what string) {
			t.Helper()
			g := acquire(t, s, ns, "name", request())
			if g.Fence <= last {
				t.Errorf("token after %s = %d, want above %d", what, g.Fence, last)
			}
			last = g.Fence
			release(t, s, ns, "name", g)
		}
		next("the beginning")
		next("a release")
		for _, key := range []string{"ld:h:" + tag, "ld:a:" + tag, "ld:f:" + tag, "ld:y:" + tag} {
			acquire(t, s, ns, "name", request())
			storetest.Command(t, s, "DEL", key)
			if f, err := s.Locks.ForceRelease(t.Context(), ns, "name", 0); err != nil {
				t.Fatalf("ForceRelease = %v, %v, want nil", f, err)
			}
			next("the loss of " + key)
		}
		// A token of the future, which a clock that is ahead has given.
		ahead := time.Now().Add(time.Hour).UnixMicro()
		storetest.Command(t, s, "SET", "ld:f:"+tag, itoa(ahead))
		last = ahead
		next("a clock that was ahead")
		if ttl := storetest.Command(t, s, "PTTL", "ld:f:"+tag).(int64); ttl < (24*time.Hour + 59*time.Minute).Milliseconds() {
			t.Errorf("the token is kept for %v, want an hour longer than a day", time.Duration(ttl)*time.Millisecond)
		}
	})
}

func TestListLocks(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		names := []string{"a", "b}x", "c:{d}", "e*"}
		for _, name := range names {
			acquire(t, s, ns, name, request())
		}
		freed := acquire(t, s, ns, "freed", request())
		release(t, s, ns, "freed", freed)
		acquire(t, s, ns+"x", "other", request())
		list := func(pattern string, count int) (found []string) {
			seen := map[string]bool{}
			for token := ""; ; {
				states, next, err := s.Locks.List(t.Context(), ns, pattern, token, count)
				if err != nil {
					t.Fatalf("List = %v, want nil: %s", err, storetest.Cause(err))
				}
				for _, st := range states {
					if st.Count != 1 || st.Fence == 0 {
						t.Errorf("state = %+v, want one holder and a token", st)
					}
					if !seen[st.Name] {
						seen[st.Name] = true
						found = append(found, st.Name)
					}
				}
				if token = next; token == "" {
					return found
				}
			}
		}
		wantSet(t, list("", 2), names)
		wantSet(t, list("?", 200), []string{"a"})
		if _, _, err := s.Locks.List(t.Context(), ns, "", "no token", 2); !errors.Is(err, redis.ErrPageToken) {
			t.Errorf("List with a bad token = %v, want %v", err, redis.ErrPageToken)
		}
	})
}

// Of those who wait, the caller that gives up leaves nothing behind.
func TestACallerThatGivesUp(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, ns string) {
		g := acquire(t, s, ns, "name", request())
		for _, fair := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			r := request()
			r.Wait, r.Fair = -1, fair
			done := make(chan error, 1)
			go func() {
				_, _, err := s.Locks.Acquire(ctx, ns, "name", r)
				done <- err
			}()
			storetest.Eventually(t, "one waits", func() bool { return s.Locks.Stats().Waiters == 1 })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Acquire = %v, want %v", err, context.Canceled)
			}
			storetest.Eventually(t, "nobody waits", func() bool {
				state, err := s.Locks.Get(t.Context(), ns, "name")
				return err == nil && state.Waiters == 0 && s.Locks.Stats().Waiters == 0
			})
		}
		r := request()
		r.Wait, r.Fair = 50*time.Millisecond, true
		busy(t, s, ns, "name", r)
		release(t, s, ns, "name", g)
		acquire(t, s, ns, "name", request())
	})
}
