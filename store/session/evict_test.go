package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// evicted are the keys of a subject's sessions that Redis may evict, by kind: the letter after "ld:".
func evicted(t *testing.T, s *store.Store, namespace, kind string, p byte) (keys []string) {
	t.Helper()
	found, _ := storetest.Command(t, s, "KEYS", fmt.Sprintf("ld:%s:{p%d}*", kind, p)).([]any)
	for _, key := range found {
		key := key.(string)
		// The keys of a partition are shared with other tests, which do not mind.
		if strings.Contains(key, ":"+namespace+":") || strings.HasSuffix(key, "}") {
			keys = append(keys, key)
		}
	}
	return keys
}

// Whatever key Redis evicts, no revoked session is active again, and what follows works.
func TestEvictionBringsNothingBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := beside(t, server)
	b := beside(t, server)
	for _, kind := range []string{"s", "d", "i", "k", "u", "m", "q", "x", "e", "g", "r"} {
		for _, how := range []string{"session", "token", "subject", "class", "limit", "theft", "promoted", "others"} {
			what := kind + " after " + how
			namespace := storetest.NewNamespace()
			n := ofClass("ann", "mobile")
			n.Attributes = map[string]string{"a": "b"}
			token, sess := createSession(t, s, namespace, n)
			other, _ := createSession(t, s, namespace, n)
			revoked, again := []string{token}, func() {}
			ctx := session.WithRequest(t.Context(), "")
			switch how {
			case "session":
				if _, err := s.Sessions.Revoke(ctx, namespace, byID(sess)); err != nil {
					t.Fatalf("Revoke: error %v, want none", err)
				}
			case "token":
				if _, err := s.Sessions.Revoke(ctx, namespace, byToken(token)); err != nil {
					t.Fatalf("Revoke: error %v, want none", err)
				}
			case "subject", "class":
				r := session.SubjectRevocation{Longest: longest}
				if how == "class" {
					r.Class = "mobile"
				}
				if _, err := s.Sessions.RevokeSubject(ctx, namespace, "ann", r); err != nil {
					t.Fatalf("RevokeSubject: error %v, want none", err)
				}
				revoked = append(revoked, other)
			case "limit":
				n := n
				n.Limits = session.Limits{PerSubject: 1, Policy: session.EvictOldest}
				createSession(t, s, namespace, n)
				revoked = append(revoked, other)
			case "theft":
				next, _ := rotate(t, s, namespace, token)
				seen(t, s, namespace, next, sess)
				rotatedLongAgo(t, s, namespace, sess)
				validate(t, s, namespace, token, primary)
				revoked = append(revoked, next)
			case "promoted":
				anonymous, _ := createSession(t, s, namespace, sessionOf(""))
				got := promote(t, s, namespace, anonymous, "ann")
				revokeSession(t, s, namespace, byToken(got.Token))
				revoked = []string{anonymous, got.Token}
				again = func() {
					if got := promote(t, s, namespace, anonymous, "ann"); got.Session != nil {
						t.Errorf("%s: repeated Promote = %+v, want nothing", what, got)
					}
				}
			case "others":
				if n := revokeSubject(t, s, namespace, "ann", sess.ID); n != 1 {
					t.Errorf("%s: RevokeSubject = %d, want 1", what, n)
				}
				revoked = []string{other}
			}
			p, _ := subjectPartition(namespace, "ann")
			for _, key := range evicted(t, s, namespace, kind, p) {
				storetest.Command(t, s, "DEL", key)
			}
			check := func(when string) {
				t.Helper()
				again()
				for i, token := range revoked {
					for _, at := range []*store.Store{s, b} {
						for _, near := range []bool{primary, cached} {
							if validate(t, at, namespace, token, near) != nil {
								t.Errorf("%s, %s: revoked token %d is active (cached %t), want inactive", what, when, i, near)
							}
						}
					}
					if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"x": "y"}}); v != 0 {
						t.Errorf("%s, %s: Update by revoked token %d = version %d, want 0", what, when, i, v)
					}
					if next, _ := rotate(t, s, namespace, token); next != "" {
						t.Errorf("%s, %s: Rotate by revoked token %d = a token, want none", what, when, i)
					}
				}
			}
			check("at once")
			fresh, freshSession := createSession(t, s, namespace, n)
			wantActive(t, s, namespace, fresh)
			check("after another login")
			// A revocation ends what there is, also what was created before the eviction.
			revokeClass(t, s, namespace, "ann", "mobile", "")
			wantInactive(t, s, namespace, fresh)
			check("after a revocation")
			for _, key := range evicted(t, s, namespace, kind, p) {
				storetest.Command(t, s, "DEL", key)
			}
			revoked = append(revoked, fresh)
			sweep(t, s)
			check("after a sweep")
			last, _ := createSession(t, s, namespace, ofClass("ann", "web"))
			wantActive(t, s, namespace, last)
			check("after a login of another class")
			if got := ids(walk(t, s, namespace, "ann", 10, nil)); slices.Contains(got, freshSession.ID) {
				t.Errorf("%s: listed %v, want no revoked session", what, got)
			}
		}
	}
}

// A session whose subject's key is gone has ended: for every call, and for good. So has one whose attributes are gone.
func TestEvictedKeysEndTheirSessions(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range []string{"u", "d"} {
			for how, present := range presentations(t, s, namespace) {
				if how == "promote" {
					continue
				}
				n := sessionOf("ann")
				n.Attributes = map[string]string{"role": "guest", "suspended": "true"}
				token, sess := createSession(t, s, namespace, n)
				wantActive(t, s, namespace, token)
				keys := sessionKeysOf(t, namespace, sess)
				key := map[string]string{"u": keys.subject, "d": keys.attributes}[kind]
				storetest.Command(t, s, "DEL", key)
				present(token)
				if kind == "d" && storetest.Command(t, s, "EXISTS", keys.record) == int64(1) {
					storetest.Command(t, s, "HSET", keys.record, "la", fmt.Sprint(sess.LastActiveAt.UnixMilli())) // drops it from near caches
				}
				storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, token, cached) == nil })
				wantInactive(t, s, namespace, token)
				if getSession(t, s, namespace, sess.ID) != nil {
					t.Errorf("%s, %s: Get = active, want inactive", kind, how)
				}
				if got := ids(walk(t, s, namespace, "ann", 10, nil)); slices.Contains(got, sess.ID) {
					t.Errorf("%s, %s: the session is listed, want it inactive", kind, how)
				}
				fresh, _ := createSession(t, s, namespace, sessionOf("ann"))
				wantActive(t, s, namespace, fresh)
				wantInactive(t, s, namespace, token)
				revokeSubject(t, s, namespace, "ann", "")
			}
		}
		// Deleting every attribute is no loss.
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		token, _ := createSession(t, s, namespace, n)
		updateSession(t, s, namespace, byToken(token), session.Changes{Delete: []string{"a"}})
		wantActive(t, s, namespace, token)
		updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "c"}})
		wantActive(t, s, namespace, token)
	})
}

// Sessions that an earlier version of Larder has created need no key of their subject, and later logins leave them alone.
func TestSessionsOfAnEarlierVersionLiveOn(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		keys := sessionKeysOf(t, namespace, sess)
		storetest.Command(t, s, "HDEL", keys.record, "su", "da")
		storetest.Command(t, s, "DEL", keys.subject)
		storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, token, cached) != nil })
		wantActive(t, s, namespace, token)
		fresh, _ := createSession(t, s, namespace, sessionOf("ann"))
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, fresh)
		mobile, _ := createSession(t, s, namespace, ofClass("ann", "mobile"))
		revokeClass(t, s, namespace, "ann", "mobile", "")
		wantActive(t, s, namespace, token)
		wantActive(t, s, namespace, fresh)
		wantInactive(t, s, namespace, mobile)
		revokeSubject(t, s, namespace, "ann", "")
		wantInactive(t, s, namespace, token)
		wantInactive(t, s, namespace, fresh)

		// It revokes all sessions but one.
		kept, sess := createSession(t, s, namespace, sessionOf("ann"))
		epoch, _ := storetest.Command(t, s, "HGET", sessionKeysOf(t, namespace, sess).record, "ep").(string)
		storetest.Command(t, s, "DEL", keys.subject)
		storetest.Command(t, s, "HSET", keys.subject, "ep", epoch)
		storetest.Eventually(t, "the near cache to follow", func() bool { return validate(t, s, namespace, kept, cached) != nil })
		wantActive(t, s, namespace, kept)
		last, _ := createSession(t, s, namespace, ofClass("ann", "web"))
		wantActive(t, s, namespace, kept)
		wantActive(t, s, namespace, last)
	})
}

// A login whose subject's key is evicted between the question for the epoch and the creation does not slip through.
func TestEvictedEpochRefusesALogin(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sess := createSession(t, s, namespace, sessionOf("ann"))
		revokeSubject(t, s, namespace, "ann", "")
		epoch := subjectEpoch(t, s, namespace, "ann")
		revokeSubject(t, s, namespace, "ann", "")
		storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, sess).subject)
		n := sessionOf("ann")
		n.IfSubjectEpoch = &epoch
		if _, err := s.Sessions.Create(t.Context(), namespace, n); !errors.Is(err, session.ErrSubjectEpochChanged) {
			t.Errorf("Create with an epoch from before the eviction: error %v, want ErrSubjectEpochChanged", err)
		}
		createSession(t, s, namespace, sessionOf("ann")) // which makes another key of the subject
		if _, err := s.Sessions.Create(t.Context(), namespace, n); !errors.Is(err, session.ErrSubjectEpochChanged) {
			t.Errorf("Create with an epoch from before the eviction, after another login: error %v, want ErrSubjectEpochChanged", err)
		}
		revokeClass(t, s, namespace, "ann", "mobile", "")
		epoch = subjectEpoch(t, s, namespace, "ann")
		if _, err := s.Sessions.Create(t.Context(), namespace, n); err != nil {
			t.Errorf("Create with the epoch of now: error %v, want none", err)
		}
	})
}

// Epochs count microseconds after the highest one of the partition was evicted, and milliseconds again if nothing tells any longer
// that there were sessions. A login that has seen the former does not slip through because its epoch is the greater number.
func TestEvictedEpochInMicrosecondsRefusesALogin(t *testing.T) {
	t.Parallel()
	s := beside(t, redistest.Start(t, redistest.Options{}))
	p, _ := subjectPartition("n", "ann")
	highest, ends := fmt.Sprintf("ld:m:{p%d}", p), fmt.Sprintf("ld:x:{p%d}", p)
	_, sess := createSession(t, s, "n", sessionOf("ann"))
	storetest.Command(t, s, "DEL", highest)
	revokeSubject(t, s, "n", "ann", "")
	epoch := subjectEpoch(t, s, "n", "ann")
	if epoch < 1e15 {
		t.Fatalf("SubjectEpoch = %d, want microseconds", epoch)
	}
	revokeSubject(t, s, "n", "ann", "")
	for _, key := range []string{sessionKeysOf(t, "n", sess).subject, highest, ends} {
		storetest.Command(t, s, "DEL", key)
	}
	n := sessionOf("ann")
	n.IfSubjectEpoch = &epoch
	if _, err := s.Sessions.Create(t.Context(), "n", n); !errors.Is(err, session.ErrSubjectEpochChanged) {
		t.Errorf("Create with an epoch from before the eviction: error %v, want ErrSubjectEpochChanged", err)
	}
	createSession(t, s, "n", sessionOf("ann"))
	if _, err := s.Sessions.Create(t.Context(), "n", n); !errors.Is(err, session.ErrSubjectEpochChanged) {
		t.Errorf("Create with an epoch from before the eviction, after another login: error %v, want ErrSubjectEpochChanged", err)
	}
	epoch = subjectEpoch(t, s, "n", "ann")
	if _, err := s.Sessions.Create(t.Context(), "n", n); err != nil {
		t.Errorf("Create with the epoch of now, %d: error %v, want none", epoch, err)
	}
}

// If the partition's highest epoch is evicted and the clock was set back, a revocation still ends what was created before.
func TestRevokeAfterTheHighestEpochIsEvicted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, first := createSession(t, s, namespace, sessionOf("ann"))
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		p, _ := subjectPartition(namespace, "ann")
		ahead := strconv.FormatInt(s.Redis.Now().Add(24*time.Hour).UnixMilli(), 10)
		storetest.Command(t, s, "HSET", sessionKeysOf(t, namespace, sess).record, "ep", ahead) // created while the clock was ahead
		storetest.Command(t, s, "DEL", fmt.Sprintf("ld:m:{p%d}", p))
		later, _ := createSession(t, s, namespace, sessionOf("ann"))
		revokeSubject(t, s, namespace, "ann", "")
		for _, token := range []string{token, later} {
			wantInactive(t, s, namespace, token)
		}
		if getSession(t, s, namespace, first.ID) != nil {
			t.Error("Get after the revocation = active, want inactive")
		}
		next, _ := createSession(t, s, namespace, sessionOf("ann"))
		wantActive(t, s, namespace, next)
	})
}
