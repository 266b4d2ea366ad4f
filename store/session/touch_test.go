package session_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// touch validates a token with a touch.
func touch(tb testing.TB, s *store.Store, namespace, token string, near bool, how session.Touch) *session.Session {
	tb.Helper()
	sess, err := s.Sessions.ValidateSession(tb.Context(), namespace, token, near, how)
	if err != nil {
		tb.Fatalf("Validate: error %v: %s; want none", err, redis.Cause(err))
	}
	return sess
}

// busy is how late a verdict may be on a busy machine, and how wrong the embedded store's estimate of its own clock.
const busy = 250 * time.Millisecond

// pollToItsEnd validates a session until it is inactive, and checks when that is.
func pollToItsEnd(tb testing.TB, s *store.Store, how session.Touch, namespace string, n session.Creation, after time.Duration) (token string) {
	tb.Helper()
	before := time.Now()
	token, _ = createSession(tb, s, namespace, n)
	latest := time.Now().Add(after + busy)
	earliest := before.Add(after - 2*time.Millisecond) // Redis counts in milliseconds
	if s.Redis.Mode() == redis.Embedded {
		earliest = earliest.Add(-busy)
	}
	near := false
	storetest.Eventually(tb, "the end of the session", func() bool {
		asked := time.Now()
		near = !near
		active := touch(tb, s, namespace, token, near, how) != nil
		if active && asked.After(latest) {
			tb.Fatalf("active when asked at %v, want inactive after %v", asked, latest)
		}
		return !active
	})
	if early := time.Until(earliest); early > 0 {
		tb.Errorf("inactive %v before %v, want active until then", early, earliest)
	}
	storetest.Eventually(tb, "the near cache to follow", func() bool { return validate(tb, s, namespace, token, cached) == nil })
	return token
}

// Validation with TouchNever does not keep a session alive.
func TestSessionPolledWithTouchNeverEndsIdle(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Idle = 400 * time.Millisecond
		wantInactive(t, s, namespace, pollToItsEnd(t, s, session.TouchNever, namespace, n, n.Idle))
	})
}

// Activity restarts the idle timeout and not the absolute one.
func TestSessionInUseEndsAtItsAbsoluteTimeout(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := session.Creation{Subject: "ann", Idle: 900 * time.Millisecond, Absolute: 1500 * time.Millisecond}
		wantInactive(t, s, namespace, pollToItsEnd(t, s, session.TouchForce, namespace, n, n.Absolute))
	})
}

// A session ends at the earlier timeout, even if its key is still there.
func TestSessionEndsAtTheEarlierTimeoutWhateverItsKey(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, c := range []struct {
			idle, absolute, age time.Duration
			active              bool
		}{
			{time.Hour, longest, 59 * time.Minute, true},
			{time.Hour, longest, 61 * time.Minute, false},
			{longest, time.Hour, 59 * time.Minute, true},
			{longest, time.Hour, 61 * time.Minute, false},
			{longest, longest, 13 * time.Hour, false},
		} {
			token, sess := createSession(t, s, namespace, session.Creation{
				Subject: "ann", Idle: c.idle, Absolute: c.absolute, Attributes: map[string]string{"a": "b"},
			})
			wantActive(t, s, namespace, token)
			if got, want := sess.ExpiresAt().Sub(sess.CreatedAt), min(c.idle, c.absolute); got != want {
				t.Errorf("%+v: expires after %v, want %v", c, got, want)
			}
			keys := sessionKeysOf(t, namespace, sess)
			storetest.Command(t, s, "PERSIST", keys.record)
			storetest.Command(t, s, "PERSIST", keys.attributes)
			age(t, s, namespace, sess, c.age)
			if got := validate(t, s, namespace, token, primary) != nil; got != c.active {
				t.Errorf("%+v: Validate active = %t, want %t", c, got, c.active)
			}
			storetest.Eventually(t, "the near cache to follow", func() bool { return (validate(t, s, namespace, token, cached) != nil) == c.active })
			if got := getSession(t, s, namespace, sess.ID) != nil; got != c.active {
				t.Errorf("%+v: Get active = %t, want %t", c, got, c.active)
			}
			if got := touch(t, s, namespace, token, primary, session.TouchForce) != nil; got != c.active {
				t.Errorf("%+v: touch active = %t, want %t", c, got, c.active)
			}
			if storetest.Command(t, s, "EXISTS", keys.record) != int64(1) {
				t.Errorf("%+v: the record is gone, want it there so that the times alone decide", c)
			}
		}
	})
}

// The clock of Redis decides whether a session is active. A replica whose own clock is wrong ends no session early or late,
// except for what its near cache holds. The embedded store shares the replica's clock.
func TestSessionEndsByTheClockOfRedis(t *testing.T) {
	raced(t, func(t *testing.T, s *store.Store, namespace string) {
		lives, sess := createSession(t, s, namespace, sessionOf("ann"))
		ended, old := createSession(t, s, namespace, sessionOf("ann"))
		age(t, s, namespace, old, 61*time.Minute)
		var offset atomic.Int64
		o := storetest.Options(t, s.Redis.Mode())
		o.Redis.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		s = storetest.Open(t, o)
		for _, by := range []time.Duration{3 * longest, -3 * longest} {
			offset.Store(int64(by))
			wantActive(t, s, namespace, lives)
			wantInactive(t, s, namespace, ended)
			if getSession(t, s, namespace, sess.ID) == nil || getSession(t, s, namespace, old.ID) != nil {
				t.Errorf("clock off by %v: Get found the active session %t and the expired one %t, want true and false", by, getSession(t, s, namespace, sess.ID) != nil, getSession(t, s, namespace, old.ID) != nil)
			}
			if by > 0 {
				continue // a list shows what its index has, as far as the replica can tell
			}
			if diff := cmp.Diff([]string{sess.ID}, ids(walk(t, s, namespace, "ann", 10, nil))); diff != "" {
				t.Errorf("clock off by %v (-want +got):\n%s", by, diff)
			}
		}
	})
}

// The keys of a session outlive it by about a day.
func TestSessionKeysOutliveTheirSession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		within := func(what, key string, least time.Duration) {
			t.Helper()
			if got := timeToLive(t, s, key); got <= least+24*time.Hour || got > least+26*time.Hour {
				t.Errorf("%s lives %v, want a day more than %v", what, got, least)
			}
		}
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		token, sess := createSession(t, s, namespace, n)
		keys := sessionKeysOf(t, namespace, sess)
		within("record", keys.record, time.Hour)
		within("attributes", keys.attributes, longest)
		within("index", keys.index, longest)

		age(t, s, namespace, sess, 30*time.Minute)
		storetest.Command(t, s, "PEXPIRE", keys.record, "120000")
		touch(t, s, namespace, token, primary, session.TouchForce)
		within("touched record", keys.record, time.Hour)
		storetest.Command(t, s, "PEXPIRE", keys.attributes, "120000")
		updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "c"}})
		within("attributes written later", keys.attributes, longest-30*time.Minute)
	})
}

func TestTouchForceSlidesTheIdleTimeoutAtOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		last := sess.LastActiveAt
		for _, near := range []bool{cached, primary, cached} {
			storetest.Eventually(t, "the next millisecond", func() bool { return s.Redis.Earliest().Sub(last) > time.Millisecond })
			got := touch(t, s, namespace, token, near, session.TouchForce)
			if got == nil || !got.LastActiveAt.After(last) || !got.IdleExpiresAt().Equal(got.LastActiveAt.Add(time.Hour)) {
				t.Fatalf("Validate with a touch = %+v, want last active after %v", got, last)
			}
			last = got.LastActiveAt
			// The answer, the stored record and every later answer agree.
			for how, again := range map[string]*session.Session{
				"cached": validate(t, s, namespace, token, cached), "primary": validate(t, s, namespace, token, primary),
				"get": getSession(t, s, namespace, sess.ID),
			} {
				if !again.LastActiveAt.Equal(last) || again.Version != 1 || !again.AbsoluteExpiresAt.Equal(sess.AbsoluteExpiresAt) {
					t.Errorf("%s: %+v, want last active at %v and the rest as before", how, again, last)
				}
			}
		}
	})
}

func TestTouchOfAnEndedSessionWritesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, by := range []time.Duration{61 * time.Minute, 13 * time.Hour} {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			age(t, s, namespace, sess, by)
			keys := sessionKeysOf(t, namespace, sess)
			before := fmt.Sprint(storetest.Command(t, s, "HGETALL", keys.record))
			for _, near := range []bool{cached, primary} {
				for _, how := range []session.Touch{session.TouchForce, session.TouchAuto} {
					storetest.Eventually(t, "the end", func() bool { return touch(t, s, namespace, token, near, how) == nil })
				}
			}
			if after := fmt.Sprint(storetest.Command(t, s, "HGETALL", keys.record)); after != before {
				t.Errorf("record = %s, want it unchanged: %s", after, before)
			}
		}
	})
}

// beside returns another store on the same server, like another replica.
func beside(t *testing.T, server *redistest.Server) *store.Store {
	t.Helper()
	return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}})
}

// backdate moves a session's last activity into the past.
func backdate(t *testing.T, server *redistest.Server, namespace string, sess *session.Session, by time.Duration) {
	t.Helper()
	server.Do(t, "HINCRBY", sessionKeysOf(t, namespace, sess).record, "la", strconv.FormatInt(-by.Milliseconds(), 10))
}

// A session in use costs one write per touch interval, however many replicas validate it: here one per minute, for an idle
// timeout of an hour.
func TestTouchAutoWritesOncePerIntervalAcrossReplicas(t *testing.T) {
	t.Parallel()
	server, a := storetest.Alone(t)
	b := beside(t, server)
	token, sess := createSession(t, a, "n", sessionOf("ann"))
	writes := func() int64 { return server.CommandCalls(t)["hset"] }
	crowd := func() {
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() { touch(t, []*store.Store{a, b}[i%2], "n", token, i%8 < 6, session.TouchAuto) })
		}
		wg.Wait()
	}

	backdate(t, server, "n", sess, 30*time.Second)
	storetest.Eventually(t, "both near caches", func() bool {
		return validate(t, a, "n", token, cached).LastActiveAt.Equal(validate(t, b, "n", token, cached).LastActiveAt)
	})
	server.ResetCommandCalls(t)
	crowd()
	// A second session is touched after the others would have been: they were not.
	other, later := createSession(t, a, "n", sessionOf("bob"))
	backdate(t, server, "n", later, 2*time.Minute)
	before := writes()
	touch(t, a, "n", other, primary, session.TouchAuto)
	storetest.Eventually(t, "the touch of the other session", func() bool { return writes() > before })
	if calls := server.CommandCalls(t)["evalsha"]; calls != 2 {
		t.Errorf("%d calls within the interval, want those of the other session alone", calls)
	}
	if got := validate(t, b, "n", token, primary); !got.LastActiveAt.Equal(sess.LastActiveAt.Add(-30 * time.Second)) {
		t.Errorf("last active at %v, want %v as the interval was not over", got.LastActiveAt, sess.LastActiveAt.Add(-30*time.Second))
	}

	backdate(t, server, "n", sess, 31*time.Second)
	storetest.Eventually(t, "both near caches", func() bool {
		return validate(t, a, "n", token, cached).LastActiveAt.Equal(validate(t, b, "n", token, cached).LastActiveAt)
	})
	server.ResetCommandCalls(t)
	crowd()
	storetest.Eventually(t, "the touch", func() bool { return writes() > 0 })
	storetest.Eventually(t, "the touch to be seen everywhere", func() bool {
		return validate(t, a, "n", token, cached).LastActiveAt.After(sess.LastActiveAt) &&
			validate(t, b, "n", token, cached).LastActiveAt.After(sess.LastActiveAt)
	})
	crowd()
	a.Close() // waits for touches
	b.Close()
	calls := server.CommandCalls(t)
	if calls["hset"] != 1 || calls["evalsha"] > 40 {
		t.Errorf("%d writes and %d calls for 800 validations, want 1 and a few", calls["hset"], calls["evalsha"])
	}
}

// A replica that has missed another's touch asks for one more, which writes nothing.
func TestTouchAutoOfAReplicaBehindWritesNothing(t *testing.T) {
	t.Parallel()
	server, a := storetest.Alone(t)
	proxy := redistest.StartProxy(t, server.Addr)
	behind := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Minute, CommandTimeout: 10 * time.Second}})
	token, sess := createSession(t, a, "n", sessionOf("ann"))
	touch(t, behind, "n", token, primary, session.TouchForce) // loads the script
	backdate(t, server, "n", sess, 2*time.Minute)
	wantActive(t, behind, "n", token)
	server.ResetCommandCalls(t)

	proxy.Blackhole(true)
	if touch(t, behind, "n", token, cached, session.TouchAuto) == nil {
		t.Fatal("Validate = inactive, want active")
	}
	touch(t, a, "n", token, primary, session.TouchAuto)
	storetest.Eventually(t, "the touch", func() bool { return server.CommandCalls(t)["hset"] == 1 })
	touched := getSession(t, a, "n", sess.ID).LastActiveAt
	storetest.Eventually(t, "another millisecond", func() bool { return a.Redis.Now().Sub(touched) > 5*time.Millisecond })
	proxy.Blackhole(false)
	storetest.Eventually(t, "the other touch", func() bool { return server.CommandCalls(t)["evalsha"] == 2 })
	if n := server.CommandCalls(t)["hset"]; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
}

// When the absolute timeout comes first, activity is not recorded.
func TestTouchAutoPastTheAbsoluteLimitWritesNothing(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	token, sess := createSession(t, s, "n", session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
	backdate(t, server, "n", sess, 30*time.Minute)
	server.Do(t, "HINCRBY", sessionKeysOf(t, "n", sess).record, "abs", "-1800000")
	other, due := createSession(t, s, "n", sessionOf("bob"))
	backdate(t, server, "n", due, 30*time.Minute)
	server.ResetCommandCalls(t)
	for _, near := range []bool{cached, cached, primary} {
		if touch(t, s, "n", token, near, session.TouchAuto) == nil {
			t.Fatal("Validate = inactive, want active")
		}
	}
	// A session that is due is touched after the other one: touches have had their turn.
	touch(t, s, "n", other, primary, session.TouchAuto)
	storetest.Eventually(t, "the touch of the other session", func() bool { return server.CommandCalls(t)["hset"] > 0 })
	s.Close()
	if calls := server.CommandCalls(t); calls["hset"] != 1 || calls["evalsha"] != 1 {
		t.Errorf("%d writes and %d calls, want those of the other session alone", calls["hset"], calls["evalsha"])
	}
}

func TestTouchNeverWritesNothing(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	token, sess := createSession(t, s, "n", sessionOf("ann"))
	backdate(t, server, "n", sess, 30*time.Minute)
	server.ResetCommandCalls(t)
	for range 50 {
		validate(t, s, "n", token, cached)
		validate(t, s, "n", token, primary)
	}
	s.Close()
	if calls := server.CommandCalls(t); calls["hset"] != 0 || calls["evalsha"] != 0 {
		t.Errorf("%d writes and %d calls, want none", calls["hset"], calls["evalsha"])
	}
}

// Close does not wait for the touches of the last validations.
func TestStoreClosesWhileSessionsAreTouched(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	for range 15 {
		closing := beside(t, server)
		validations := []func(){closing.Close}
		for range 8 {
			token, sess := createSession(t, s, "n", sessionOf(""))
			backdate(t, server, "n", sess, 30*time.Minute)
			validations = append(validations, func() {
				for range 10 {
					if got, err := closing.Sessions.ValidateSession(t.Context(), "n", token, cached, session.TouchAuto); got == nil && err == nil {
						t.Error("Validate without Redis = inactive, want an error")
					}
				}
			})
		}
		atOnce(validations...)
	}
}
