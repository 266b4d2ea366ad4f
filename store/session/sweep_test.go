package session_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// endsOf returns the key and the member that hold a session's expiry for the sweeper.
func endsOf(namespace string, sess *session.Session) (key, member string) {
	b, _ := base64.RawURLEncoding.DecodeString(sess.ID)
	return fmt.Sprintf("ld:x:{p%d}", b[0]), namespace + ":" + sess.ID
}

// outlive moves a session and its scores into the past.
func outlive(tb testing.TB, s *store.Store, namespace string, sess *session.Session, by time.Duration) {
	tb.Helper()
	age(tb, s, namespace, sess, by)
	key, member := endsOf(namespace, sess)
	storetest.Command(tb, s, "ZADD", key, "XX", "INCR", fmt.Sprint(-by.Milliseconds()), member)
}

func sweep(tb testing.TB, s *store.Store) {
	tb.Helper()
	if err := s.Sessions.Sweep(tb.Context()); err != nil {
		tb.Fatalf("Sweep: error %v: %s; want none", err, redis.Cause(err))
	}
}

// leaves reports whether Redis holds any key or entry of a session.
func leaves(tb testing.TB, s *store.Store, namespace string, sess *session.Session) bool {
	tb.Helper()
	keys := sessionKeysOf(tb, namespace, sess)
	ends, member := endsOf(namespace, sess)
	return storetest.Command(tb, s, "EXISTS", keys.record) != int64(0) || storetest.Command(tb, s, "EXISTS", keys.attributes) != int64(0) ||
		storetest.Command(tb, s, "ZSCORE", ends, member) != nil || storetest.Command(tb, s, "ZSCORE", keys.index, sess.ID) != nil
}

// batchOf returns a number of sessions, or a tenth of it on the embedded store, which sweeps fewer per step.
func batchOf(s *store.Store, count int) int {
	if s.Redis.Mode() == redis.Embedded {
		return count / 10
	}
	return count
}

func withData(subject string) session.Creation {
	n := sessionOf(subject)
	n.Attributes = map[string]string{"a": "1"}
	return n
}

// Each timeout has its event, and expired sessions leave nothing behind. Active ones are not changed.
func TestSweepTellsHowSessionsEnded(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := watchEvents(t, s, namespace, session.EventFilter{Types: []string{"expired_idle", "expired_absolute"}}, "", nil)
		_, idle := createSession(t, s, namespace, withData("ann"))
		_, absolute := createSession(t, s, namespace, session.Creation{Subject: "ann", Idle: time.Hour, Absolute: time.Hour})
		_, anonymous := createSession(t, s, namespace, withData(""))
		alive, lives := createSession(t, s, namespace, withData("ann"))
		for _, sess := range []*session.Session{idle, absolute, anonymous} {
			outlive(t, s, namespace, sess, 90*time.Minute)
		}
		outlive(t, s, namespace, lives, 30*time.Minute)
		sweep(t, s)
		sweep(t, s)
		storetest.Eventually(t, "the events", func() bool { return len(w.seen()) >= 3 })
		got := w.lines()
		slices.Sort(got)
		want := []string{
			line("expired_absolute", absolute.ID, "ann", ""), line("expired_idle", idle.ID, "ann", ""), line("expired_idle", anonymous.ID, "", ""),
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		for _, e := range w.seen() {
			if late := s.Redis.Now().Sub(e.At); late < 29*time.Minute || late > 31*time.Minute {
				t.Errorf("%s ended %v ago, want half an hour", e.Type, late)
			}
		}
		for _, sess := range []*session.Session{idle, absolute, anonymous} {
			if leaves(t, s, namespace, sess) {
				t.Errorf("keys of expired session %s are left, want none", sess.ID)
			}
		}
		wantActive(t, s, namespace, alive)
		if !leaves(t, s, namespace, lives) {
			t.Error("the keys of an active session are gone, want them kept")
		}
		w.stop(t)
	})
}

// Without any traffic the expiry of a session is delivered within the sweep interval.
func TestSweepWithinItsIntervalWithNoTraffic(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	w := watchEvents(t, s, "n", everybody, "", nil)
	n := withData("ann")
	n.Idle = 300 * time.Millisecond
	_, sess := createSession(t, s, "n", n)
	const interval = time.Second
	for range 2 { // two replicas
		storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}, Sessions: session.Options{SweepInterval: interval}})
	}
	storetest.Eventually(t, "the end", func() bool { return slices.Contains(w.lines(), line("expired_idle", sess.ID, "ann", "")) })
	if late := time.Since(sess.ExpiresAt()); late > interval+busy {
		t.Errorf("expired event %v after the end, want at most %v", late, interval+busy)
	}
	if leaves(t, s, "n", sess) {
		t.Error("keys of the expired session are left, want none")
	}
	w.stop(t)
}

// However many replicas sweep at once, each expiry has one event.
func TestTwoSweepersAtOnceTellEachEndOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		both := storetest.Replicas(t, s)
		w := watchEvents(t, s, namespace, session.EventFilter{Types: []string{"expired_idle"}}, "", nil)
		count := batchOf(s, 350) // more than one step
		_, sessions := createMany(t, s, namespace, withData("ann"), count)
		for _, sess := range sessions {
			outlive(t, s, namespace, sess, 2*time.Hour)
		}
		if both[0] == both[1] {
			sweep(t, s)
		} else {
			atOnce(func() { sweep(t, both[0]) }, func() { sweep(t, both[1]) })
		}
		storetest.Eventually(t, "all ends", func() bool { return len(w.seen()) >= count })
		_, last := createSession(t, s, namespace, sessionOf("last"))
		outlive(t, s, namespace, last, 2*time.Hour)
		sweep(t, s)
		storetest.Eventually(t, "the last one", func() bool { return slices.Contains(w.lines(), line("expired_idle", last.ID, "last", "")) })
		told := map[string]int{}
		for _, e := range w.seen() {
			told[e.SessionID]++
		}
		for _, sess := range sessions {
			if told[sess.ID] != 1 {
				t.Errorf("%d expired events of session %s, want 1", told[sess.ID], sess.ID)
			}
		}
		w.stop(t)
	})
}

// A touch before the sweep keeps the session, and one after it does not bring it back.
func TestSweepVersusTouch(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		w := watchEvents(t, a, namespace, everybody, "", nil)
		ended := 0
		for range 60 {
			n := withData("ann")
			n.Idle = 30 * time.Millisecond
			token, sess := createSession(t, a, namespace, n)
			touched := false
			atOnce(func() {
				for range 8 {
					storetest.Eventually(t, "the end of a step", func() bool { return !a.Redis.Now().Before(sess.CreatedAt.Add(5 * time.Millisecond)) })
					got, err := a.Sessions.ValidateSession(t.Context(), namespace, token, primary, session.TouchForce)
					if err != nil {
						t.Errorf("Validate: error %v, want none", err)
					}
					touched = got != nil
				}
			}, func() {
				for range 4 {
					sweep(t, b)
				}
			})
			if touched && validate(t, a, namespace, token, primary) == nil && a.Redis.Now().Sub(sess.CreatedAt) < n.Idle {
				t.Error("inactive before the idle timeout, want active")
			}
			storetest.Eventually(t, "the end", func() bool {
				sweep(t, b)
				return slices.Contains(w.lines(), line("expired_idle", sess.ID, "ann", ""))
			})
			if leaves(t, a, namespace, sess) {
				t.Fatal("keys of the expired session are left, want none")
			}
			ended++
		}
		told := 0
		for _, e := range w.seen() {
			if e.Type == "expired_idle" {
				told++
			}
		}
		if told != ended {
			t.Errorf("%d expired events, want %d", told, ended)
		}
		w.stop(t)
	})
}

// A score that is too early is corrected from the record.
func TestSweepHeedsTheRecord(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, withData("ann"))
		key, member := endsOf(namespace, sess)
		storetest.Command(t, s, "ZADD", key, "1000", member)
		sweep(t, s)
		wantActive(t, s, namespace, token)
		if got := fmt.Sprint(storetest.Command(t, s, "ZSCORE", key, member)); got == "1000" || got == "<nil>" {
			t.Errorf("score in the partition's ends = %s, want the real end", got)
		}
	})
}

// A session that is revoked as it expires ends once, with one event.
func TestSweepVersusRevoke(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		w := watchEvents(t, a, namespace, everybody, "", nil)
		const count = 60
		byAuthority := 0
		for range count {
			n := withData("ann")
			n.Idle = 3 * time.Millisecond
			_, sess := createSession(t, a, namespace, n)
			atOnce(func() {
				if revokeSession(t, a, namespace, byID(sess)) {
					byAuthority++
				}
			}, func() { sweep(t, b) })
			storetest.Eventually(t, "the end", func() bool { sweep(t, b); return !leaves(t, a, namespace, sess) })
		}
		storetest.Eventually(t, "the events", func() bool { return len(w.seen()) >= 2*count })
		revoked := 0
		for _, e := range w.seen() {
			if e.Type == "revoked" {
				revoked++
			}
		}
		if len(w.seen()) != 2*count || revoked != byAuthority {
			t.Errorf("%d events, %d of them revocations; want %d, %d", len(w.seen()), revoked, 2*count, byAuthority)
		}
		w.stop(t)
	})
}

// The keys of sessions that were revoked together are removed without further events, and those of the excepted session are
// kept.
func TestSweepRemovesWhatWasRevokedTogether(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		count := batchOf(s, 450) // more than two steps
		_, sessions := createMany(t, s, namespace, withData("ann"), count)
		kept, spared := createSession(t, s, namespace, withData("ann"))
		w := watchEvents(t, s, namespace, everybody, "", nil)
		revokeSubject(t, s, namespace, "ann", spared.ID)
		later, _ := createSession(t, s, namespace, withData("ann"))
		revoked := revokeSubject(t, s, namespace, "ann", spared.ID)
		wantInactive(t, s, namespace, later)
		if revoked != 1 {
			t.Errorf("%d revoked events, want 1", revoked)
		}
		again, last := createSession(t, s, namespace, withData("ann"))
		sweep(t, s)
		for _, sess := range sessions {
			if leaves(t, s, namespace, sess) {
				t.Fatalf("keys of revoked session %s are left, want none", sess.ID)
			}
		}
		for _, token := range []string{kept, again} {
			wantActive(t, s, namespace, token)
		}
		if !leaves(t, s, namespace, spared) || !leaves(t, s, namespace, last) {
			t.Error("the keys of an active session are gone, want them kept")
		}
		storetest.Eventually(t, "the events", func() bool { return len(w.seen()) == 4 })
		w.stop(t)
	})
}

// A session that was revoked with others has no event of its own, even if no index had it.
func TestSweepTellsNoEndOfRevokedSessions(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sess := createSession(t, s, namespace, withData("ann"))
		storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, sess).index)
		revokeSubject(t, s, namespace, "ann", "")
		w := watchEvents(t, s, namespace, everybody, "", nil)
		outlive(t, s, namespace, sess, 2*time.Hour)
		sweep(t, s)
		if leaves(t, s, namespace, sess) {
			t.Error("keys of the session are left, want none")
		}
		_, later := createSession(t, s, namespace, sessionOf("ann"))
		storetest.Eventually(t, "the later", func() bool { return len(w.seen()) > 0 })
		if got := w.lines(); len(got) != 1 || got[0] != line("created", later.ID, "ann", "") {
			t.Errorf("events = %q, want only that the later session was created", got)
		}
		w.stop(t)
	})
}

// If no sweeper ran for hours, the reason of each end is still delivered; if Redis lost the record, the event says so.
func TestSweepAfterALongAbsence(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sess := createSession(t, s, namespace, withData("ann"))
		_, lost := createSession(t, s, namespace, withData("bob"))
		keys := sessionKeysOf(t, namespace, sess)
		if kept := timeToLive(t, s, keys.record); kept < 25*time.Hour {
			t.Errorf("the record is kept for %v after the end, want at least 24 h", kept-time.Hour)
		}
		outlive(t, s, namespace, sess, 11*time.Hour)
		outlive(t, s, namespace, lost, 11*time.Hour)
		storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, lost).record)
		w := watchEvents(t, s, namespace, everybody, "", nil)
		sweep(t, s)
		storetest.Eventually(t, "the events", func() bool { return len(w.seen()) == 2 })
		for _, want := range []string{line("expired_idle", sess.ID, "ann", ""), line("revoked", lost.ID, "", "lost")} {
			if !slices.Contains(w.lines(), want) {
				t.Errorf("told %q, want %q", w.lines(), want)
			}
		}
		w.stop(t)
	})
}

// A sweep with nothing to do costs one round trip per interval in all, and bounds the events of a partition.
func TestSweepCostsOneRoundTripAndBoundsEvents(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	trips, sent := cost(t, server, func(ctx context.Context) {
		if err := s.Sessions.Sweep(ctx); err != nil {
			t.Errorf("Sweep: error %v, want none", err)
		}
	})
	if trips != 1 || sent["zcount"] != 256 || sent["llen"] != 256 || sent["xtrim"] != 256 || len(sent) != 3 {
		t.Errorf("sweep with nothing due = %d round trips, %v; want 1 with 256 zcount, llen and xtrim", trips, sent)
	}
	_, sessions := createMany(t, s, "n", sessionOf("ann"), 500)
	outlive(t, s, "n", sessions[0], 90*time.Minute)
	s.Sessions.KeepEvents(200)
	sweep(t, s)
	if st := s.Stats(); st.Sessions.ExpiredIdle != 1 || st.Sessions.ExpiredAbsolute != 0 || st.Sessions.SweepLate < 29*time.Minute || st.Sessions.SweepLate > 31*time.Minute {
		t.Errorf("stats = %+v, want 1 expired idle about 30 m late", st)
	}
	p, _ := subjectPartition("n", "ann")
	if n := storetest.Command(t, s, "XLEN", fmt.Sprintf("ld:e:{p%d}", p)).(int64); n < 200 || n > 300 { // Redis drops a hundred at a time
		t.Errorf("%d events are kept, want 200", n)
	}
}

// Replicas take turns: one sweeps at a time, and another takes over when it stops.
func TestSweepersTakeTurns(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	var replicas []*store.Store
	for range 3 {
		replicas = append(replicas, storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}, Sessions: session.Options{SweepInterval: time.Second}}))
	}
	server.ResetCommandCalls(t)
	storetest.Eventually(t, "a few turns", func() bool { return server.CommandCalls(t)["llen"] >= 3*256 })
	replicas[0].Close()
	replicas[1].Close()
	server.ResetCommandCalls(t)
	start := time.Now()
	storetest.Eventually(t, "another turn", func() bool { return server.CommandCalls(t)["llen"] >= 256 })
	if took := time.Since(start); took > time.Second+busy {
		t.Errorf("another replica took over after %v, want at most %v", took, time.Second+busy)
	}
	server.ResetCommandCalls(t)
	start = time.Now()
	storetest.Eventually(t, "more turns", func() bool { return server.CommandCalls(t)["llen"] >= 2*256 })
	if took := time.Since(start); took < 800*time.Millisecond {
		t.Errorf("two turns took %v, want at least 800 ms", took)
	}
}

// A record without a field that others do not have either is removed like one that is gone, and keeps nothing else from being
// swept.
func TestSweepRemovesDamagedRecords(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := watchEvents(t, s, namespace, session.EventFilter{Types: []string{"expired_idle", "revoked"}}, "", nil)
		_, damaged := createSession(t, s, namespace, withData("ann"))
		_, ended := createSession(t, s, namespace, withData("ann"))
		for _, sess := range []*session.Session{damaged, ended} {
			outlive(t, s, namespace, sess, 90*time.Minute)
		}
		storetest.Command(t, s, "HDEL", sessionKeysOf(t, namespace, damaged).record, "idle")
		sweep(t, s)
		storetest.Eventually(t, "the events", func() bool { return len(w.seen()) == 2 })
		for _, sess := range []*session.Session{damaged, ended} {
			keys := sessionKeysOf(t, namespace, sess)
			if got := storetest.Command(t, s, "EXISTS", keys.record); got != int64(0) {
				t.Errorf("the record of session %s is there after the sweep, want it gone", sess.ID)
			}
			if got := storetest.Command(t, s, "EXISTS", keys.attributes); got != int64(0) {
				t.Errorf("the attributes of session %s are there after the sweep, want them gone", sess.ID)
			}
		}
		w.stop(t)
	})
}

// While many sessions are swept Redis is left to others most of the time.
func TestSweepRestsBetweenSteps(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	_, sessions := createMany(t, s, "n", sessionOf("ann"), 400)
	for _, sess := range sessions {
		outlive(t, s, "n", sess, 90*time.Minute)
	}
	server.ResetCommandCalls(t)
	begin := time.Now()
	sweep(t, s)
	took := time.Since(begin)
	var steps, micros int64
	for line := range strings.Lines(server.Do(t, "INFO", "commandstats").(string)) {
		if n, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%d,usec=%d", &steps, &micros); n == 2 && err != nil {
			t.Fatalf("INFO commandstats: %v, want numbers", err)
		}
	}
	if steps < 400/20 || time.Duration(micros)*time.Microsecond > took/3 {
		t.Errorf("400 sessions were swept in %d steps, which kept Redis busy for %d µs of %v; want 20 steps or more and a third of the time at most", steps, micros, took)
	}
}
