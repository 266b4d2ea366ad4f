package session_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// limited returns a creation with a device class and limits.
func limited(subject, class string, limits session.Limits) session.Creation {
	n := sessionOf(subject)
	n.Device, n.Limits = session.Device{Label: "a " + class, Class: class}, limits
	return n
}

func createLimited(tb testing.TB, s *store.Store, namespace string, n session.Creation) session.Created {
	tb.Helper()
	created, err := s.Sessions.Create(tb.Context(), namespace, n)
	if err != nil {
		tb.Fatalf("Create: error %v: %s; want none", err, redis.Cause(err))
	}
	if (created.Session == nil) != (created.Token == "") {
		tb.Fatalf("Create = session %v with a token of %d bytes, want both or neither", created.Session, len(created.Token))
	}
	return created
}

func summaryIDs(summaries []session.Summary) (ids []string) {
	for _, s := range summaries {
		ids = append(ids, s.ID)
	}
	return ids
}

// emitted returns the events of a subject's partition that have all of the given fields, as "name=value".
func emitted(tb testing.TB, s *store.Store, namespace, subject string, fields ...string) (sessions []string) {
	tb.Helper()
	p, _ := subjectPartition(namespace, subject)
	entries, _ := storetest.Command(tb, s, "XRANGE", fmt.Sprintf("ld:e:{p%d}", p), "-", "+").([]any)
	for _, e := range entries {
		values := e.([]any)[1].([]any)
		has := map[string]bool{}
		id := ""
		for i := 0; i+1 < len(values); i += 2 {
			has[fmt.Sprintf("%s=%s", values[i], values[i+1])] = true
			if values[i] == "sid" {
				id = values[i+1].(string)
			}
		}
		if has["ns="+namespace] && has["sub="+subject] && !slices.ContainsFunc(fields, func(f string) bool { return !has[f] }) {
			sessions = append(sessions, id)
		}
	}
	return sessions
}

// lastActive moves the last activity of a session into the past.
func lastActive(tb testing.TB, s *store.Store, namespace string, sess *session.Session, ago time.Duration) {
	tb.Helper()
	storetest.Command(tb, s, "HINCRBY", sessionKeysOf(tb, namespace, sess).record, "la", fmt.Sprint(-ago.Milliseconds()))
}

func TestCreateEvictsUntilThereIsRoom(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, c := range []struct {
			policy session.LimitPolicy
			order  []int // in which they would be evicted
		}{
			{session.EvictLeastRecentlyUsed, []int{4, 0, 3, 1, 2}},
			{session.EvictOldest, []int{0, 1, 2, 3, 4}},
		} {
			subject := string(c.policy)
			bystander, _ := createSession(t, s, namespace, sessionOf("bob"))
			var tokens []string
			var sessions []*session.Session
			for i := range 5 {
				n := sessionOf(subject)
				n.Device.Label = fmt.Sprint("device ", i)
				token, sess := createSession(t, s, namespace, n)
				storetest.Command(t, s, "HINCRBY", sessionKeysOf(t, namespace, sess).record, "ct", fmt.Sprint(1000*(i-10)))
				tokens, sessions = append(tokens, token), append(sessions, sess)
			}
			for i, n := range []int{4, 0, 3, 1, 2} {
				lastActive(t, s, namespace, sessions[n], time.Duration(10-i)*time.Minute)
			}
			for _, token := range tokens {
				wantActive(t, s, namespace, token) // so that the near cache has them
			}
			// The limit was exceeded by several: they all end, and not one for the new one.
			created := createLimited(t, s, namespace, limited(subject, "", session.Limits{PerSubject: 3, Policy: c.policy}))
			var want []string
			for _, n := range c.order[:3] {
				want = append(want, sessions[n].ID)
				wantInactive(t, s, namespace, tokens[n])
			}
			for _, n := range c.order[3:] {
				wantActive(t, s, namespace, tokens[n])
			}
			wantActive(t, s, namespace, created.Token)
			if diff := cmp.Diff(want, summaryIDs(created.Evicted)); diff != "" || created.Existing != nil {
				t.Errorf("%s evicted (-want +got):\n%s", c.policy, diff)
			}
			if diff := cmp.Diff(want, emitted(t, s, namespace, subject, "type=revoked", "reason=limit")); diff != "" {
				t.Errorf("%s emitted (-want +got):\n%s", c.policy, diff)
			}
			first := created.Evicted[0]
			if first.Device.Label != fmt.Sprint("device ", c.order[0]) || !first.CreatedAt.Before(sessions[0].CreatedAt) ||
				!first.LastActiveAt.Before(sessions[0].CreatedAt) || !first.ExpiresAt.Equal(first.LastActiveAt.Add(time.Hour)) {
				t.Errorf("%s: first evicted session = %+v, want device %d as it was", c.policy, first, c.order[0])
			}
			if n := len(walk(t, s, namespace, subject, 10, nil)); n != 3 {
				t.Errorf("%s: %d sessions are listed, want 3", c.policy, n)
			}
			for _, n := range c.order[:3] {
				if storetest.Command(t, s, "EXISTS", sessionKeysOf(t, namespace, sessions[n]).record) != int64(0) {
					t.Errorf("%s: the record of evicted session %d exists, want it removed", c.policy, n)
				}
			}
			wantActive(t, s, namespace, bystander)
		}
	})
}

func TestCreateIsRejectedAtTheLimit(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		limits := session.Limits{PerSubject: 2, Policy: session.Reject}
		var tokens, want []string
		for i := range 2 {
			created := createLimited(t, s, namespace, limited("ann", fmt.Sprint("class", i), limits))
			tokens, want = append(tokens, created.Token), append(want, created.Session.ID)
			lastActive(t, s, namespace, created.Session, time.Duration(2-i)*time.Minute)
		}
		for range 3 {
			created := createLimited(t, s, namespace, limited("ann", "third", limits))
			if created.Session != nil || created.Evicted != nil {
				t.Fatalf("Create at the limit = %+v, want no session and no eviction", created)
			}
			if diff := cmp.Diff(want, summaryIDs(created.Existing)); diff != "" {
				t.Errorf("existing (-want +got):\n%s", diff)
			}
			if d := created.Existing[0].Device; d != (session.Device{Label: "a class0", Class: "class0"}) {
				t.Errorf("device of the first existing session = %+v, want label a class0 of class class0", d)
			}
		}
		if got := emitted(t, s, namespace, "ann", "type=created"); len(got) != 2 {
			t.Errorf("%d created events, want 2", len(got))
		}
		for _, token := range tokens {
			wantActive(t, s, namespace, token)
		}
		// Other subjects are not limited by it, and neither is the subject once one of its sessions has ended.
		createSession(t, s, namespace, limited("bob", "", limits))
		createSession(t, s, namespace, limited("", "", limits))
		revokeSession(t, s, namespace, byToken(tokens[0]))
		createSession(t, s, namespace, limited("ann", "third", limits))
		if created := createLimited(t, s, namespace, limited("ann", "third", limits)); created.Session != nil {
			t.Errorf("Create beyond the limit = session %v, want none", created.Session)
		}
	})
}

// The sessions that the class limit revokes count as revoked for the subject's limit.
func TestLimitOfTheDeviceClassComesFirst(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		limits := session.Limits{PerSubject: 3, PerClass: 1, Policy: session.EvictOldest}
		web, _ := createSession(t, s, namespace, limited("ann", "web", limits))
		none, sess := createSession(t, s, namespace, limited("ann", "", limits))
		mobile := createLimited(t, s, namespace, limited("ann", "mobile", limits))
		storetest.Command(t, s, "HINCRBY", sessionKeysOf(t, namespace, sess).record, "ct", "-1")

		next := createLimited(t, s, namespace, limited("ann", "mobile", limits))
		if diff := cmp.Diff([]string{mobile.Session.ID}, summaryIDs(next.Evicted)); diff != "" {
			t.Errorf("evicted (-want +got):\n%s", diff)
		}
		wantActive(t, s, namespace, web)
		wantActive(t, s, namespace, none)
		// Without a device class only the subject's limit holds.
		limits.PerSubject = 4
		createSession(t, s, namespace, limited("ann", "", limits))
		wantActive(t, s, namespace, none)
		// If the class limit refuses, the answer lists the sessions of the class.
		limits.Policy = session.Reject
		refused := createLimited(t, s, namespace, limited("ann", "web", limits))
		if refused.Session != nil || len(refused.Existing) != 1 || refused.Existing[0].Device.Class != "web" {
			t.Errorf("Create at the class limit = %+v, want no session and one existing of class web", refused)
		}
	})
}

// Only active sessions count towards the limits, whatever the index holds.
func TestLimitCountsActiveSessionsAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		limits := session.Limits{PerSubject: 2, PerClass: 2, Policy: session.Reject}
		fill := func() (sessions []*session.Session) {
			for range 2 {
				_, sess := createSession(t, s, namespace, limited("ann", "mobile", limits))
				sessions = append(sessions, sess)
			}
			return sessions
		}
		for what, end := range map[string]func([]*session.Session){
			"by time":    func(l []*session.Session) { age(t, s, namespace, l[0], 61*time.Minute) },
			"by subject": func([]*session.Session) { revokeSubject(t, s, namespace, "ann", "") },
			"by class":   func([]*session.Session) { revokeClass(t, s, namespace, "ann", "mobile", "") },
			"with their records": func(l []*session.Session) {
				storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, l[0]).record)
			},
			"behind the index": func(l []*session.Session) {
				storetest.Command(t, s, "HINCRBY", sessionKeysOf(t, namespace, l[0]).record, "la", fmt.Sprint(-2*time.Hour.Milliseconds()))
			},
		} {
			revokeSubject(t, s, namespace, "ann", "")
			end(fill())
			if created := createLimited(t, s, namespace, limited("ann", "mobile", limits)); created.Session == nil {
				t.Errorf("%s: Create = no session, want one", what)
			}
		}
	})
}

// Concurrent creations through any replicas never exceed the limit.
func TestParallelCreatesNeverExceedTheLimit(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		const limit = 5
		for _, policy := range []session.LimitPolicy{session.EvictLeastRecentlyUsed, session.EvictOldest, session.Reject} {
			subject := string(policy)
			var mu sync.Mutex
			var created []session.Created
			creates := make([]func(), 50)
			for i := range creates {
				s := []*store.Store{a, b}[i%2]
				creates[i] = func() {
					n := limited(subject, "mobile", session.Limits{PerSubject: limit, PerClass: limit - i%2, Policy: policy})
					c, err := s.Sessions.Create(t.Context(), namespace, n)
					if err != nil {
						t.Errorf("Create: error %v, want none", err)
					}
					// At no time are there more.
					if n := len(walk(t, s, namespace, subject, 50, nil)); n > limit {
						t.Errorf("%s: %d sessions at once, want at most %d", policy, n, limit)
					}
					mu.Lock()
					defer mu.Unlock()
					created = append(created, c)
				}
			}
			atOnce(creates...)
			active, made, evicted := 0, 0, 0
			for _, c := range created {
				evicted += len(c.Evicted)
				if c.Session == nil {
					continue
				}
				made++
				if validate(t, a, namespace, c.Token, primary) != nil {
					active++
				}
			}
			if active > limit || active < limit-1 || made-evicted != active {
				t.Errorf("%s: %d active, %d made, %d evicted; want %d or one less active, and all others evicted", policy, active, made, evicted, limit)
			}
		}
	})
}

// A lowered limit holds from the next login on, however many sessions there are.
func TestLoweredLimitEndsManySessions(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		count := 300
		if s.Redis.Mode() == redis.Embedded {
			count = 30 // its scripts take their time under the race detector
		}
		n := sessionOf("ann")
		n.Device.UserAgent = strings.Repeat("x", 500)
		createMany(t, s, namespace, n, count)
		created := createLimited(t, s, namespace, limited("ann", "", session.Limits{PerSubject: 1, Policy: session.EvictLeastRecentlyUsed}))
		if n := len(created.Evicted); n != count {
			t.Errorf("%d sessions evicted, want %d", n, count)
		}
		if got := ids(walk(t, s, namespace, "ann", 10, nil)); len(got) != 1 || got[0] != created.Session.ID {
			t.Errorf("sessions left = %v, want only %s", got, created.Session.ID)
		}
	})
}

// One script reads at most 1000 records of an index. Far above the limit, each login revokes a thousand sessions until the
// limit is reached.
func TestFarTooManySessionsEndLoginByLogin(t *testing.T) {
	raced(t, func(t *testing.T, s *store.Store, namespace string) {
		createMany(t, s, namespace, sessionOf("ann"), 2100)
		var evicted []int
		for range 4 {
			created := createLimited(t, s, namespace, limited("ann", "", session.Limits{PerSubject: 2, Policy: session.EvictLeastRecentlyUsed}))
			evicted = append(evicted, len(created.Evicted))
		}
		if diff := cmp.Diff([]int{1000, 1000, 101, 1}, evicted); diff != "" {
			t.Errorf("evicted (-want +got):\n%s", diff)
		}
		if n := len(walk(t, s, namespace, "ann", 100, nil)); n != 2 {
			t.Errorf("%d sessions left, want 2", n)
		}
	})
}

// An index may hold many ids whose records Redis has evicted. They keep nobody from logging in for long, and no script reads all of
// them.
func TestLimitCountsNoEvictedSessions(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	for _, policy := range []session.LimitPolicy{session.EvictOldest, session.Reject} {
		subject := string(policy)
		_, sess := createSession(t, s, "n", sessionOf(subject))
		index := sessionKeysOf(t, "n", sess).index
		ends := fmt.Sprint(time.Now().Add(time.Minute).UnixMilli())
		for n := 0; n < 20000; n += 1000 {
			args := []string{"ZADD", index}
			for i := range 1000 {
				args = append(args, ends, fmt.Sprint("evicted", n+i))
			}
			server.Do(t, args...)
		}
		n := sessionOf(subject)
		n.Limits = session.Limits{PerSubject: 2, Policy: policy}
		created := session.Created{}
		for attempt := 0; created.Session == nil; attempt++ {
			var err error
			if created, err = s.Sessions.Create(t.Context(), "n", n); err != nil {
				t.Fatalf("Create (%s): error %v: %s; want none", policy, err, redis.Cause(err))
			}
			if attempt > 10 {
				t.Fatalf("Create (%s) was refused %d times, want it to succeed: one session is active", policy, attempt)
			}
		}
		if getSession(t, s, "n", sess.ID) == nil {
			t.Errorf("%s: the first session has ended, want both active", policy)
		}
	}
}
