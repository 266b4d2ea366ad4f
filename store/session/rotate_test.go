package session_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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

// grace is the rotation grace of these tests. It is longer than any of them runs: they age rotations.
const grace = 5 * time.Minute

func rotate(tb testing.TB, s *store.Store, namespace, token string) (next string, sess *session.Session) {
	tb.Helper()
	next, sess, err := s.Sessions.Rotate(tb.Context(), namespace, token, grace)
	if err != nil {
		tb.Fatalf("Rotate: error %v: %s; want none", err, redis.Cause(err))
	}
	if (next == "") != (sess == nil) {
		tb.Fatalf("Rotate = token of %d characters with session %v, want both or neither", len(next), sess)
	}
	return next, sess
}

func reauthenticate(tb testing.TB, s *store.Store, namespace, token string, a session.Reauthentication) (next string, sess *session.Session) {
	tb.Helper()
	a.Grace = grace
	next, sess, err := s.Sessions.Reauthenticate(tb.Context(), namespace, token, a)
	if err != nil {
		tb.Fatalf("Reauthenticate: error %v: %s; want none", err, redis.Cause(err))
	}
	return next, sess
}

// seen waits until Redis knows that a token was presented.
func seen(tb testing.TB, s *store.Store, namespace, token string, sess *session.Session) {
	tb.Helper()
	storetest.Eventually(tb, "the successor has been seen", func() bool {
		if validate(tb, s, namespace, token, primary) == nil {
			tb.Fatal("the successor is inactive, want active")
		}
		return storetest.Command(tb, s, "HGET", sessionKeysOf(tb, namespace, sess).record, "seen") == "1"
	})
}

// rotatedLongAgo lets the grace of every rotation so far pass.
func rotatedLongAgo(tb testing.TB, s *store.Store, namespace string, sess *session.Session) {
	tb.Helper()
	ageRotations(tb, s, namespace, sess, 2*grace)
}

// ageRotations moves every rotation of a session into the past.
func ageRotations(tb testing.TB, s *store.Store, namespace string, sess *session.Session, by time.Duration) {
	tb.Helper()
	key := sessionKeysOf(tb, namespace, sess).record
	earlier := func(at string) string {
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			tb.Fatalf("time of a rotation = %q, want a number", at)
		}
		if n == 0 {
			return at
		}
		return strconv.FormatInt(n-by.Milliseconds(), 10)
	}
	fields, _ := storetest.Command(tb, s, "HGETALL", key).(map[string]any)
	for name, value := range fields {
		value, _ := value.(string)
		switch {
		case name == "pu" || name == "pr" || name == "oldr":
			storetest.Command(tb, s, "HSET", key, name, earlier(value))
		case strings.HasPrefix(name, "o:"):
			parts := strings.SplitN(value, " ", 3)
			storetest.Command(tb, s, "HSET", key, name, earlier(parts[0])+" "+earlier(parts[1])+" "+parts[2])
		}
	}
}

// eventTypes are those of one session in the stream of its partition, in order, with the reasons of revocations.
func eventTypes(tb testing.TB, s *store.Store, namespace string, sess *session.Session) (types []string) {
	tb.Helper()
	stream := fmt.Sprintf("ld:e:{p%d}", tokenBytes(tb, "ls1_"+sess.ID)[0])
	entries, _ := storetest.Command(tb, s, "XRANGE", stream, "-", "+").([]any)
	for _, e := range entries {
		fields := map[string]string{}
		list := e.([]any)[1].([]any)
		for i := 0; i < len(list); i += 2 {
			fields[list[i].(string)] = list[i+1].(string)
		}
		if fields["ns"] != namespace || fields["sid"] != sess.ID {
			continue
		}
		what := fields["type"]
		if fields["reason"] != "" {
			what += " " + fields["reason"]
		}
		types = append(types, what)
	}
	return types
}

func wantEvents(tb testing.TB, s *store.Store, namespace string, sess *session.Session, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(want, eventTypes(tb, s, namespace, sess)); diff != "" {
		tb.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestRotateGivesAnotherTokenOfTheSameSession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "1"}
		token, sess := createSession(t, s, namespace, n)
		wantActive(t, s, namespace, token) // so that the near cache holds what is about to change
		next, rotated := rotate(t, s, namespace, token)
		if next == token || !isToken(next) {
			t.Errorf("Rotate = token of %d characters, want another well-formed token", len(next))
		}
		if diff := cmp.Diff(sess, rotated); diff != "" {
			t.Errorf("Rotate changed the session, want it as before (-before +after):\n%s", diff)
		}
		wantActive(t, s, namespace, next)
		third, _ := rotate(t, s, namespace, next)
		wantActive(t, s, namespace, third)
		wantEvents(t, s, namespace, sess, "created", "rotated", "rotated")
		if next, sess := rotate(t, s, namespace, "ls1_x"); next != "" || sess != nil {
			t.Errorf("Rotate of a malformed token = %q, %v; want nothing", next, sess)
		}
		revokeSession(t, s, namespace, byToken(third))
		if _, sess := rotate(t, s, namespace, third); sess != nil {
			t.Errorf("Rotate of a revoked session = %v, want none", sess)
		}
	})
}

func TestPreviousTokenIsGoodWithinGrace(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		next, _ := rotate(t, s, namespace, token)
		seen(t, s, namespace, next, sess)
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, next)
		v, err := s.Sessions.Validate(t.Context(), namespace, session.Validation{Token: token, Near: cached})
		if err != nil || !v.Superseded {
			t.Errorf("verdict on the old token %+v, %v; want superseded", v, err)
		}
		if again, _ := rotate(t, s, namespace, token); again != next {
			t.Errorf("repeated Rotate = %q, want the same successor %q", again, next)
		}
		if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "1"}}); v != 2 {
			t.Errorf("Update by the superseded token = version %d, want 2", v)
		}
		if got := touch(t, s, namespace, token, cached, session.TouchForce); got == nil {
			t.Error("Validate with a touch by the superseded token = inactive, want active")
		}
		wantEvents(t, s, namespace, sess, "created", "rotated", "attributes_changed")
		if !revokeSession(t, s, namespace, byToken(token)) {
			t.Error("Revoke by the superseded token = false, want true")
		}
	})
}

// A client that never received the answer continues with the token that it has.
func TestPreviousTokenIsGoodAfterGraceWhileItsSuccessorIsUnseen(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		next, _ := rotate(t, s, namespace, token)
		rotatedLongAgo(t, s, namespace, sess)
		wantActive(t, s, namespace, token)
		if again, _ := rotate(t, s, namespace, token); again != next {
			t.Errorf("repeated Rotate = %q, want the same successor %q", again, next)
		}
		wantActive(t, s, namespace, token)
		seen(t, s, namespace, next, sess)
		wantInactive(t, s, namespace, token)
		wantActive(t, s, namespace, next) // requests with the old one may still have been under way
		ageRotations(t, s, namespace, sess, 11*time.Second)
		wantInactive(t, s, namespace, token)
		wantInactive(t, s, namespace, next)
	})
}

func TestReuseAfterGraceRevokesAndEmits(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		set := session.Changes{Set: map[string]string{"a": "1"}}
		for how, use := range map[string]func(token string){
			"validate":       func(token string) { validate(t, s, namespace, token, cached) },
			"force":          func(token string) { touch(t, s, namespace, token, primary, session.TouchForce) },
			"batch":          func(token string) { validateAll(t, s, namespace, session.Validation{Token: token, Near: cached}) },
			"rotate":         func(token string) { rotate(t, s, namespace, token) },
			"reauthenticate": func(token string) { reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2}) },
			"update":         func(token string) { updateSession(t, s, namespace, byToken(token), set) },
			"revoke": func(token string) {
				if revokeSession(t, s, namespace, byToken(token)) {
					t.Error("Revoke by a stolen token = true, want false")
				}
			},
		} {
			for generations := 1; generations <= 4; generations++ {
				token, sess := createSession(t, s, namespace, sessionOf("ann"))
				bystander, _ := createSession(t, s, namespace, sessionOf("ann"))
				next := token
				for range generations {
					next, _ = rotate(t, s, namespace, next)
				}
				seen(t, s, namespace, next, sess)
				rotatedLongAgo(t, s, namespace, sess)
				wantActive(t, s, namespace, next)
				use(token)
				if got := eventTypes(t, s, namespace, sess); len(got) < 2 || got[len(got)-2] != "token_reuse" || got[len(got)-1] != "revoked token_reuse" {
					t.Errorf("%s, %d rotations ago: events %v, want token_reuse and revoked token_reuse at the end", how, generations, got)
				}
				wantInactive(t, s, namespace, next)
				wantInactive(t, s, namespace, token)
				wantActive(t, s, namespace, bystander)
				revokeSession(t, s, namespace, byToken(bystander))
				if listed := walk(t, s, namespace, "ann", 10, nil); len(listed) != 0 {
					t.Errorf("%s: %d sessions are listed, want 0", how, len(listed))
				}
			}
		}
	})
}

// A token that was never the session's does not count as stolen, and neither does an older one within its grace.
func TestStrangeAndRecentTokensEndNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		other, _ := createSession(t, s, namespace, sessionOf("ann"))
		next, _ := rotate(t, s, namespace, token)
		last, _ := rotate(t, s, namespace, next)
		wantInactive(t, s, namespace, wrongSecret(t, token, other))
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, next)
		wantActive(t, s, namespace, last)
		rotatedLongAgo(t, s, namespace, sess)
		wantInactive(t, s, namespace, wrongSecret(t, token, other))
		wantActive(t, s, namespace, last)
	})
}

func TestRotateVersusRotateWithOneToken(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 20 {
			token, sess := createSession(t, a, namespace, sessionOf("ann"))
			wantActive(t, b, namespace, token)
			var mu sync.Mutex
			successors := map[string]int{}
			rotations := make([]func(), 32)
			for i := range rotations {
				s := []*store.Store{a, b}[i%2]
				rotations[i] = func() {
					next, _, err := s.Sessions.Rotate(t.Context(), namespace, token, grace)
					if err != nil {
						t.Errorf("Rotate: error %v, want none", err)
					}
					mu.Lock()
					successors[next]++
					mu.Unlock()
				}
			}
			atOnce(rotations...)
			if len(successors) != 1 || successors[""] > 0 {
				t.Fatalf("%d different successors, %d empty; want 1, 0", len(successors), successors[""])
			}
			for next := range successors {
				wantActive(t, a, namespace, next)
				wantActive(t, b, namespace, next)
			}
			wantEvents(t, a, namespace, sess, "created", "rotated")
		}
	})
}

// The connection is cut after the script has run: the repeated call returns the same successor as any other caller's.
func TestRotateWithLostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	direct := beside(t, server)
	proxy := redistest.StartProxy(t, server.Addr)
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{proxy.Addr}, NearCacheBytes: 1 << 20, CommandTimeout: 300 * time.Millisecond}})
	warm, _ := createSession(t, direct, "n", sessionOf("ann"))
	rotate(t, direct, "n", warm) // so that Redis knows the script
	for _, how := range []string{"dropped", "cut"} {
		token, sess := createSession(t, direct, "n", sessionOf("ann"))
		wantActive(t, s, "n", token)
		proxy.DropReplies(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, _, err := s.Sessions.Rotate(ctx, "n", token, grace)
			done <- err
		}()
		storetest.Eventually(t, "the script has run", func() bool {
			return server.Do(t, "HGET", sessionKeysOf(t, "n", sess).record, "seen") == "0"
		})
		if how == "cut" {
			proxy.CutAll()
		}
		if err := <-done; !errors.Is(err, redis.ErrOutcomeUnknown) || !redis.Retryable(err) {
			t.Errorf("%s: error %v, want a retryable ErrOutcomeUnknown", how, err)
		}
		cancel()
		proxy.DropReplies(false)
		proxy.CutAll()
		want, _ := rotate(t, direct, "n", token)
		var next string
		storetest.Eventually(t, "the retry", func() bool {
			var err error
			next, _, err = s.Sessions.Rotate(t.Context(), "n", token, grace)
			return err == nil
		})
		if next != want || next == "" {
			t.Errorf("%s: successor %q, want %q", how, next, want)
		}
		storetest.Eventually(t, "connected for the near cache, too", func() bool {
			_, err := s.Sessions.ValidateSession(t.Context(), "n", next, cached, session.TouchNever)
			return err == nil
		})
		wantActive(t, s, "n", next)
		wantEvents(t, direct, "n", sess, "created", "rotated")
	}
}

// A touch and a rotation at the same time both take effect.
func TestTouchVersusRotate(t *testing.T) {
	raced(t, func(t *testing.T, a *store.Store, namespace string) {
		b := another(t, a)
		for range 100 {
			token, sess := createSession(t, a, namespace, sessionOf("ann"))
			age(t, a, namespace, sess, 10*time.Minute)
			var next string
			atOnce(func() { next, _ = rotate(t, a, namespace, token) },
				func() {
					if touch(t, b, namespace, token, cached, session.TouchForce) == nil {
						t.Error("Validate with a touch = inactive, want active")
					}
				},
				func() {
					if touch(t, b, namespace, token, cached, session.TouchAuto) == nil {
						t.Error("Validate with a touch = inactive, want active")
					}
				})
			wantActive(t, b, namespace, next)
			got := getSession(t, a, namespace, sess.ID)
			if got == nil || !got.LastActiveAt.After(sess.LastActiveAt.Add(-5*time.Minute)) {
				t.Fatalf("session = %+v, want activity later than %v", got, sess.LastActiveAt.Add(-5*time.Minute))
			}
			// A touch by the old token does not count as the arrival of the new one.
			if storetest.Command(t, a, "HGET", sessionKeysOf(t, namespace, sess).record, "seen") == nil {
				t.Fatal("record without the field seen, want it there")
			}
		}
	})
}
