package session_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// createMany creates sessions of one subject concurrently.
func createMany(tb testing.TB, s *store.Store, namespace string, n session.Creation, count int) (tokens []string, sessions []*session.Session) {
	tb.Helper()
	tokens, sessions = make([]string, count), make([]*session.Session, count)
	var wg sync.WaitGroup
	for worker := range 32 {
		wg.Go(func() {
			for i := worker; i < count; i += 32 {
				created, err := s.Sessions.Create(tb.Context(), namespace, n)
				if err != nil {
					tb.Errorf("Create: error %v, want none", err)
				}
				tokens[i], sessions[i] = created.Token, created.Session
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	return tokens, sessions
}

func ids(sessions []*session.Session) []string {
	var ids []string
	for _, sess := range sessions {
		ids = append(ids, sess.ID)
	}
	return ids
}

// walk lists a subject's sessions page by page, calling between after each page but the last.
func walk(tb testing.TB, s *store.Store, namespace, subject string, size int, between func()) (sessions []*session.Session) {
	tb.Helper()
	return walkClass(tb, s, namespace, subject, "", size, between)
}

// walkClass lists those of a device class, empty for all.
func walkClass(tb testing.TB, s *store.Store, namespace, subject, class string, size int, between func()) (sessions []*session.Session) {
	tb.Helper()
	for token := ""; ; {
		page, next, err := s.Sessions.ListSubject(tb.Context(), namespace, subject, session.SubjectList{Class: class, Token: token, Count: size})
		if err != nil {
			tb.Fatalf("ListSubject: error %v: %s; want none", err, redis.Cause(err))
		}
		if len(page) > size {
			tb.Fatalf("a page of %d, want at most %d", len(page), size)
		}
		sessions = append(sessions, page...)
		if token = next; token == "" {
			return sessions
		}
		if between != nil {
			between()
		}
	}
}

func TestListSessionsShowsEachOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		if got := walk(t, s, namespace, "ann", 10, nil); len(got) != 0 {
			t.Errorf("%d sessions of a subject without any, want 0", len(got))
		}
		count := 100
		if s.Redis.Mode() == redis.Embedded {
			count = 10 // its scripts take their time under the race detector
		}
		n := sessionOf("ann")
		var want []string
		// Many sessions end in the same millisecond, some alone.
		for i := range 5 {
			n.Idle = time.Hour - time.Duration(i)*time.Minute
			_, sessions := createMany(t, s, namespace, n, count)
			want = append(want, ids(sessions)...)
		}
		createMany(t, s, namespace, sessionOf("bob"), 3)
		slices.Sort(want)
		for _, size := range []int{7, 50, 200} {
			sessions := walk(t, s, namespace, "ann", size, nil)
			soonest := slices.IsSortedFunc(sessions, func(a, b *session.Session) int { return a.ExpiresAt().Compare(b.ExpiresAt()) })
			if !soonest {
				t.Errorf("pages of %d: sessions are not in the order of their expiry, want the one that ends first at the front", size)
			}
			got := ids(sessions)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d (-want +got):\n%s", size, diff)
			}
		}
	})
}

// afterCommand is an observer that runs a function after each command of a name.
type afterCommand struct {
	name string
	do   func()
}

func (a *afterCommand) Command(name string, _ time.Duration, _ error) {
	if name == a.name {
		a.do()
	}
}

func (*afterCommand) Connection(redis.ConnectionEvent, int, error) {}

// A session that is touched while a caller pages through the list moves ahead and may be returned twice; no other session is
// left out because of it. All sessions end at the same moment at first, so that only their ids order them.
func TestListSessionsLeavesNoneOutThatIsTouchedMeanwhile(t *testing.T) {
	raced(t, func(t *testing.T, s *store.Store, namespace string) {
		const count = 60
		var touches []string
		hook := &afterCommand{name: "session_list", do: func() {
			if len(touches) > 0 {
				touch(t, s, namespace, touches[0], primary, session.TouchForce)
				touches = touches[1:]
			}
		}}
		o := storetest.Options(t, s.Redis.Mode())
		o.Redis.Observer = hook
		walker := storetest.Open(t, o)

		tokens, sessions := createMany(t, s, namespace, sessionOf("ann"), count)
		slices.Sort(tokens) // as their ids
		before := sessions[0].CreatedAt.Add(-time.Minute).UnixMilli()
		for _, size := range []int{1, 3, 10, 29} {
			for _, sess := range sessions {
				keys := sessionKeysOf(t, namespace, sess)
				storetest.Command(t, s, "HSET", keys.record, "la", fmt.Sprint(before))
				storetest.Command(t, s, "ZADD", keys.index, fmt.Sprint(before+time.Hour.Milliseconds()), sess.ID)
			}
			touches = tokens
			met := map[string]bool{}
			for _, sess := range walk(t, walker, namespace, "ann", size, nil) {
				met[sess.ID] = true
			}
			if len(met) != count {
				t.Errorf("pages of %d: %d sessions met, want %d", size, len(met), count)
			}
		}
	})
}

func TestListSessionsLeavesOutWhatHasEnded(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sessions := createMany(t, s, namespace, sessionOf("ann"), 12)
		kept, expired, overdue, revoked := sessions[:3], sessions[3:6], sessions[6:9], sessions[9:]
		for i := range 3 {
			age(t, s, namespace, expired[i], 61*time.Minute)
			revokeSession(t, s, namespace, byID(revoked[i]))
			// The score in the index is too late: the record decides.
			age(t, s, namespace, overdue[i], 61*time.Minute)
			keys := sessionKeysOf(t, namespace, overdue[i])
			storetest.Command(t, s, "ZADD", keys.index, "XX", "INCR", fmt.Sprint(time.Hour.Milliseconds()), overdue[i].ID)
		}
		want := ids(kept)
		slices.Sort(want)
		for _, size := range []int{1, 2, 50} {
			got := ids(walk(t, s, namespace, "ann", size, nil))
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d (-want +got):\n%s", size, diff)
			}
		}
	})
}

func TestListSessionsTakesNoPageTokenOfAnotherList(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for range 3 {
			createSession(t, s, namespace, sessionOf("ann"))
			createSession(t, s, namespace, sessionOf("bob"))
		}
		_, anns, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Count: 2})
		if err != nil || anns == "" {
			t.Fatalf("first page: token %q, error %v; want a token and no error", anns, err)
		}
		if b, err := base64.RawURLEncoding.DecodeString(anns); err != nil || slices.Contains(b, 0) || len(b) > 100 {
			t.Errorf("page token of %d bytes, error %v; want at most 100 printable bytes of base64", len(b), err)
		}
		if page, _, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Token: anns, Count: 2}); err != nil || len(page) != 1 {
			t.Errorf("second page of %d sessions, error %v; want 1, none", len(page), err)
		}
		for what, list := range map[string]struct{ namespace, subject, token string }{
			"of another subject":   {namespace, "bob", anns},
			"of another namespace": {storetest.NewNamespace(), "ann", anns},
			"made up":              {namespace, "ann", "made up"},
			"cut short":            {namespace, "ann", anns[:len(anns)-3]},
		} {
			page, next, err := s.Sessions.ListSubject(t.Context(), list.namespace, list.subject, session.SubjectList{Token: list.token, Count: 2})
			if !errors.Is(err, redis.ErrPageToken) || page != nil || next != "" {
				t.Errorf("page token %s: %d sessions, token %q, error %v; want none, empty, ErrPageToken", what, len(page), next, err)
			}
		}
	})
}

// The index drops expired sessions at the next login, and expires with the last session in it.
func TestSessionIndexDoesNotGrowForEver(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		members := func(key string) any { return storetest.Command(t, s, "ZCARD", key) }
		tokens, sessions := createMany(t, s, namespace, sessionOf("ann"), 20)
		key := sessionKeysOf(t, namespace, sessions[0]).index
		for _, sess := range sessions[:15] {
			age(t, s, namespace, sess, 61*time.Minute)
		}
		createSession(t, s, namespace, sessionOf("ann"))
		if got := members(key); got != int64(6) {
			t.Errorf("%v in the index, want the 6 active ones", got)
		}
		revokeSession(t, s, namespace, byID(sessions[15]))
		if got := members(key); got != int64(5) {
			t.Errorf("%v in the index, want 5", got)
		}
		short := sessionOf("ann")
		short.Absolute = time.Minute
		createSession(t, s, namespace, short)
		if ttl := timeToLive(t, s, key); ttl < longest || ttl > longest+26*time.Hour {
			t.Errorf("the index lives %v, want that of its longest session, %v", ttl, longest)
		}
		revokeSubject(t, s, namespace, "ann", sessions[16].ID)
		if ttl := timeToLive(t, s, key); members(key) != int64(1) || ttl <= 0 || ttl > longest+26*time.Hour {
			t.Errorf("%v members in the index, which lives %v; want 1 and at most %v", members(key), ttl, longest+26*time.Hour)
		}
		// A touch or an update does not add a session to an index that no longer has it.
		storetest.Command(t, s, "DEL", key)
		age(t, s, namespace, sessions[16], time.Minute)
		updateSession(t, s, namespace, byID(sessions[16]), session.Changes{Set: map[string]string{"a": "b"}})
		if touch(t, s, namespace, tokens[16], primary, session.TouchForce) == nil {
			t.Error("Validate = inactive, want active")
		}
		if got := members(key); got != int64(0) {
			t.Errorf("%v in the index, want none", got)
		}
	})
}

// One session that cannot be decrypted, or whose record is damaged, leaves the rest of the list as it is.
func TestListSessionsWithOneThatCannotBeRead(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var all []*session.Session
		for range 4 {
			n := sessionOf("ann")
			n.Attributes = map[string]string{"a": "b"}
			_, sess := createSession(t, s, namespace, n)
			all = append(all, sess)
		}
		sealed := newKeyring(t, "other", map[string][]byte{"other": newKey()}).Seal(sessionKeysOf(t, namespace, all[1]).record, "a", []byte("b"))
		storetest.Command(t, s, "HSET", sessionKeysOf(t, namespace, all[1]).attributes, "a", string(sealed))
		storetest.Command(t, s, "HDEL", sessionKeysOf(t, namespace, all[2]).record, "abs")
		got := map[string]bool{}
		for _, sess := range walk(t, s, namespace, "ann", 50, nil) {
			got[sess.ID] = sess.Unreadable
			if sess.Unreadable != (len(sess.Attributes) == 0) {
				t.Errorf("session %s has %d attributes, unreadable: %t; want none only where they are", sess.ID, len(sess.Attributes), sess.Unreadable)
			}
		}
		want := map[string]bool{all[0].ID: false, all[1].ID: true, all[3].ID: false}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("listed sessions, and whether their attributes are unreadable (-want +got):\n%s", diff)
		}
	})
}

// A page ends early if its sessions are large, and the next one goes on.
func TestListSessionsCutsLargePages(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const number = 40
		for range number {
			n := sessionOf("ann")
			n.Attributes = map[string]string{"a": strings.Repeat("b", 60<<10)}
			createSession(t, s, namespace, n)
		}
		pages, seen, token := 0, map[string]bool{}, ""
		for pages == 0 || token != "" {
			page, next, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Count: 200, Token: token})
			if err != nil {
				t.Fatalf("ListSubject: error %v, want none: %s", err, redis.Cause(err))
			}
			if len(page) > 10 {
				t.Errorf("a page of %d sessions of 60 KiB, want 10 at most", len(page))
			}
			for _, sess := range page {
				seen[sess.ID] = true
			}
			pages, token = pages+1, next
		}
		if len(seen) != number {
			t.Errorf("%d sessions on %d pages, want %d", len(seen), pages, number)
		}
	})
}
