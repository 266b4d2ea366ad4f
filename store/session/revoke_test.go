package session_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func TestRevokeSubjectEndsEverySession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var tokens []string
		var sessions []*session.Session
		for range 5 {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			wantActive(t, s, namespace, token)
			tokens, sessions = append(tokens, token), append(sessions, sess)
		}
		bystander, _ := createSession(t, s, namespace, sessionOf("bob"))
		anonymous, _ := createSession(t, s, namespace, sessionOf(""))
		revokeSession(t, s, namespace, byID(sessions[4])) // not to be counted again

		if n := revokeSubject(t, s, namespace, "ann", ""); n != 4 {
			t.Errorf("ended %d, want 4", n)
		}
		for i, token := range tokens {
			wantInactive(t, s, namespace, token)
			if getSession(t, s, namespace, sessions[i].ID) != nil {
				t.Error("Get of a revoked session = active, want inactive")
			}
			if v := updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"a": "b"}}); v != 0 {
				t.Errorf("Update of a revoked session = version %d, want 0", v)
			}
			if touch(t, s, namespace, token, primary, session.TouchForce) != nil {
				t.Error("Validate with a touch of a revoked session = active, want inactive")
			}
			if revokeSession(t, s, namespace, byToken(token)) {
				t.Error("Revoke of a revoked session = true, want false")
			}
		}
		if got := walk(t, s, namespace, "ann", 10, nil); len(got) != 0 {
			t.Errorf("%d sessions are listed, want 0", len(got))
		}
		if n := revokeSubject(t, s, namespace, "ann", ""); n != 0 {
			t.Errorf("second revocation counted %d, want 0", n)
		}
		wantActive(t, s, namespace, bystander)
		wantActive(t, s, namespace, anonymous)

		// A revocation does not lock the subject out: the next login creates an active session.
		for range 3 {
			token, _ := createSession(t, s, namespace, sessionOf("ann"))
			wantActive(t, s, namespace, token)
			if n := revokeSubject(t, s, namespace, "ann", ""); n != 1 {
				t.Errorf("ended %d, want 1", n)
			}
			wantInactive(t, s, namespace, token)
		}
	})
}

func TestRevokeSubjectKeepsTheExceptedSession(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var tokens []string
		var sessions []*session.Session
		for range 4 {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			wantActive(t, s, namespace, token)
			tokens, sessions = append(tokens, token), append(sessions, sess)
		}
		for want := int64(3); want >= 0; want -= 3 { // again it ends none
			if n := revokeSubject(t, s, namespace, "ann", sessions[0].ID); n != want {
				t.Errorf("ended %d, want %d", n, want)
			}
			wantActive(t, s, namespace, tokens[0])
			for _, token := range tokens[1:] {
				wantInactive(t, s, namespace, token)
			}
			if diff := cmp.Diff([]string{sessions[0].ID}, ids(walk(t, s, namespace, "ann", 10, nil))); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
		}
		if v := updateSession(t, s, namespace, byToken(tokens[0]), session.Changes{Set: map[string]string{"a": "b"}}); v != 2 {
			t.Errorf("the kept session is at version %d, want 2", v)
		}
		// An excepted session that has ended is not kept and does not become active again.
		if n := revokeSubject(t, s, namespace, "ann", sessions[1].ID); n != 1 {
			t.Errorf("ended %d, want 1", n)
		}
		for _, token := range tokens {
			wantInactive(t, s, namespace, token)
		}
	})
}

// An excepted session of another subject is neither kept nor changed, even if both subjects share a partition.
func TestRevokeSubjectIgnoresAnExceptedSessionOfOthers(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		ann, _ := subjectPartition(namespace, "ann")
		neighbour := ""
		for i := 0; neighbour == ""; i++ {
			if p, _ := subjectPartition(namespace, fmt.Sprint("n", i)); p == ann {
				neighbour = fmt.Sprint("n", i)
			}
		}
		elsewhere := storetest.NewNamespace()
		for what, other := range map[string]struct{ namespace, subject string }{
			"neighbour": {namespace, neighbour}, "stranger": {namespace, "bob"}, "anonymous": {namespace, ""}, "namespace": {elsewhere, "ann"},
		} {
			own, sess := createSession(t, s, namespace, sessionOf("ann"))
			token, others := createSession(t, s, other.namespace, sessionOf(other.subject))
			wantActive(t, s, other.namespace, token)
			if n := revokeSubject(t, s, namespace, "ann", others.ID); n != 1 {
				t.Errorf("%s: ended %d, want 1", what, n)
			}
			wantInactive(t, s, namespace, own)
			wantActive(t, s, other.namespace, token)
			if n := len(walk(t, s, namespace, "ann", 10, nil)); n != 0 {
				t.Errorf("%s: %d sessions in the subject's list, want 0", what, n)
			}
			if other.subject != "" && revokeSubject(t, s, other.namespace, other.subject, "") != 1 {
				t.Errorf("%s: revocation of the other subject did not count its session, want 1", what)
			}
			if revokeSession(t, s, namespace, byID(sess)) {
				t.Errorf("%s: Revoke of the subject's own session = true, want false as it ended before", what)
			}
		}
	})
}

// The index is for lists and counts; the epoch revokes.
func TestRevokeSubjectNeedsNoIndex(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		var tokens []string
		var last *session.Session
		for range 3 {
			var token string
			token, last = createSession(t, s, namespace, sessionOf("ann"))
			wantActive(t, s, namespace, token)
			tokens = append(tokens, token)
		}
		storetest.Command(t, s, "DEL", sessionKeysOf(t, namespace, last).index)
		if n := revokeSubject(t, s, namespace, "ann", last.ID); n != 0 {
			t.Errorf("revocation without an index counted %d, want 0", n)
		}
		for _, token := range tokens[:2] {
			wantInactive(t, s, namespace, token)
		}
		wantActive(t, s, namespace, tokens[2])
		// The excepted session is in the index again and counts.
		createSession(t, s, namespace, sessionOf("ann"))
		if n := revokeSubject(t, s, namespace, "ann", ""); n != 2 {
			t.Errorf("ended %d, want 2", n)
		}
		wantInactive(t, s, namespace, tokens[2])
		if n := revokeSubject(t, s, namespace, "ann", ""); n != 0 {
			t.Errorf("second revocation counted %d, want 0", n)
		}
	})
}

// Expired sessions do not count.
func TestRevokeSubjectCountsActiveSessionsAlone(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		_, sessions := createMany(t, s, namespace, sessionOf("ann"), 6)
		for _, sess := range sessions[:2] {
			age(t, s, namespace, sess, 61*time.Minute)
		}
		if n := revokeSubject(t, s, namespace, "ann", sessions[0].ID); n != 4 {
			t.Errorf("ended %d, want 4", n)
		}
	})
}

// The number of commands is the same however many sessions there are.
func TestRevokeSubjectCostsTheSameForMany(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	revokeSubject(t, s, "n", "warm", "")
	var costs []map[string]int64
	for _, count := range []int{10, 5000} {
		subject := fmt.Sprint("with", count)
		_, sessions := createMany(t, s, "n", sessionOf(subject), count)
		server.ResetCommandCalls(t)
		if n := revokeSubject(t, s, "n", subject, sessions[0].ID); n != int64(count-1) {
			t.Errorf("ended %d, want %d", n, count-1)
		}
		calls := server.CommandCalls(t)
		maps.DeleteFunc(calls, func(name string, _ int64) bool { return name == "info" || name == "config|resetstat" })
		costs = append(costs, calls)
	}
	if diff := cmp.Diff(costs[0], costs[1]); diff != "" || costs[0]["evalsha"] != 1 {
		t.Errorf("commands for 10 sessions = %v, want one evalsha and the same for 5000 (-10 +5000):\n%s", costs[0], diff)
	}
}

// Sessions may have been created under longer timeouts than today's: the epoch must outlive them.
func TestRevokeSubjectRemembersAsLongAsAnySessionLives(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		const month = 30 * 24 * time.Hour
		n := session.Creation{Subject: "ann", Idle: month, Absolute: month}
		_, sess := createSession(t, s, namespace, n)
		key := sessionKeysOf(t, namespace, sess).subject
		for range 2 { // the second time there is no index left
			if _, err := s.Sessions.RevokeSubject(t.Context(), namespace, "ann", session.SubjectRevocation{Longest: time.Hour}); err != nil {
				t.Fatalf("RevokeSubject: error %v, want none", err)
			}
			if ttl := timeToLive(t, s, key); ttl < month {
				t.Errorf("the epoch is kept for %v, want at least the session's %v", ttl, month)
			}
		}
		// Without such sessions the epoch is kept a little longer than any session can live, and with one as long as its
		// keys.
		revokeSubject(t, s, namespace, "bob", "")
		p, hash := subjectPartition(namespace, "bob")
		key = fmt.Sprintf("ld:u:{p%d}:%s:%s", p, namespace, hash)
		if ttl := timeToLive(t, s, key); ttl < longest || ttl > longest+2*time.Hour {
			t.Errorf("the epoch is kept for %v, want between %v and %v", ttl, longest, longest+2*time.Hour)
		}
		createSession(t, s, namespace, sessionOf("bob"))
		if ttl, most := timeToLive(t, s, key), (longest+25*time.Hour)*5/4; ttl < longest+25*time.Hour-time.Minute || ttl > most {
			t.Errorf("the subject's key is kept for %v, want between %v and %v", ttl, longest+25*time.Hour, most)
		}
	})
}

func TestRevokeSessionEndsItOnce(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		bystander, _ := createSession(t, s, namespace, sessionOf("ann"))
		for _, how := range []string{"token", "id"} {
			token, sess := createSession(t, s, namespace, sessionOf("ann"))
			target := byToken(token)
			if how == "id" {
				target = byID(sess)
			}
			wantActive(t, s, namespace, token)
			if !revokeSession(t, s, namespace, target) {
				t.Errorf("by %s: Revoke = false, want true", how)
			}
			wantInactive(t, s, namespace, token)
			if revokeSession(t, s, namespace, target) {
				t.Errorf("by %s: second Revoke = true, want false", how)
			}
			if getSession(t, s, namespace, sess.ID) != nil {
				t.Errorf("by %s: Get = active, want inactive", how)
			}
			u := session.Changes{Set: map[string]string{"a": "b"}, ExpectedVersion: 1}
			if v := updateSession(t, s, namespace, target, u); v != 0 {
				t.Errorf("by %s: Update after the revocation = version %d, want 0", how, v)
			}
			for _, touch := range []session.Touch{session.TouchAuto, session.TouchForce} {
				if got, err := s.Sessions.ValidateSession(t.Context(), namespace, token, cached, touch); got != nil || err != nil {
					t.Errorf("by %s: Validate with a touch after the revocation = %+v, %v; want inactive, no error", how, got, err)
				}
			}
			wantInactive(t, s, namespace, token)
		}
		wantActive(t, s, namespace, bystander)
		if listed, _, err := s.Sessions.ListSubject(t.Context(), namespace, "ann", session.SubjectList{Count: 10}); err != nil || len(listed) != 1 {
			t.Errorf("listed %d, %v; want the bystander", len(listed), err)
		}
	})
}

func TestRevokedSessionLeavesNothingBehind(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		_, sess := createSession(t, s, namespace, n)
		keys := sessionKeysOf(t, namespace, sess)
		for _, key := range []string{keys.record, keys.attributes, keys.index} {
			if storetest.Command(t, s, "EXISTS", key) != int64(1) {
				t.Fatalf("%s does not exist, want it where this test looks", key)
			}
		}
		revokeSession(t, s, namespace, byID(sess))
		for _, key := range []string{keys.record, keys.attributes, keys.index} {
			if storetest.Command(t, s, "EXISTS", key) != int64(0) {
				t.Errorf("%s exists after the revocation, want it removed", key)
			}
		}
	})
}
