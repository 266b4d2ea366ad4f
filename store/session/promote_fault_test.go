package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// held is a cluster in which a promotion can be held before its second step: the subject's shard answers late, and the
// anonymous session's does not.
type held struct {
	cluster *redistest.Cluster
	s       *store.Store
}

// nodeOf returns the primary of a cluster that has a key.
func nodeOf(t *testing.T, c *redistest.Cluster, key string) *redistest.Server {
	t.Helper()
	slot := c.Nodes[0].Do(t, "CLUSTER", "KEYSLOT", key).(int64)
	for _, r := range c.Nodes[0].Do(t, "CLUSTER", "SLOTS").([]any) {
		r := r.([]any)
		if r[0].(int64) <= slot && slot <= r[1].(int64) {
			addr := fmt.Sprintf("127.0.0.1:%d", r[2].([]any)[1])
			for _, n := range c.Nodes {
				if n.Addr == addr {
					return n
				}
			}
		}
	}
	t.Fatalf("no node has slot %d, want one", slot)
	return nil
}

// elsewhere creates an anonymous session that is on another node than the sessions of a subject.
func (h held) elsewhere(t *testing.T, namespace, subject string) (token string, sess *session.Session, own, others *redistest.Server) {
	t.Helper()
	p, hash := subjectPartition(namespace, subject)
	others = nodeOf(t, h.cluster, fmt.Sprintf("ld:u:{p%d}:%s:%s", p, namespace, hash))
	for {
		n := sessionOf("")
		n.Attributes = map[string]string{"cart": "full"}
		token, sess = createSession(t, h.s, namespace, n)
		if own = nodeOf(t, h.cluster, sessionKeysOf(t, namespace, sess).record); own != others {
			return token, sess, own, others
		}
	}
}

func startHeld(t *testing.T) held {
	t.Helper()
	c := redistest.StartCluster(t, redistest.ClusterOptions{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Cluster, Addrs: c.Addrs(), NearCacheBytes: 1 << 20, CommandTimeout: 5 * time.Second}})
	// Every node knows every script.
	for i := range 30 {
		token, _ := createSession(t, s, "warm", sessionOf(""))
		got := promote(t, s, "warm", token, fmt.Sprint("s", i))
		revokeSession(t, s, "warm", byToken(got.Token))
	}
	return held{c, s}
}

// A session that is revoked while it is being promoted is revoked, whether or not the promotion is refused in the end.
func TestRevokeDuringPromotion(t *testing.T) {
	t.Parallel()
	h := startHeld(t)
	for _, by := range []string{"id", "token"} {
		for _, end := range []string{"refused", "created"} {
			t.Run(by+", "+end, func(t *testing.T) {
				namespace := storetest.NewNamespace()
				token, sess, own, others := h.elsewhere(t, namespace, "ann")
				_, anns := createSession(t, h.s, namespace, sessionOf("ann"))
				p := session.Promotion{Subject: "ann"}
				if end == "refused" {
					p.Limits = session.Limits{PerSubject: 1, Policy: session.Reject}
				}
				others.Do(t, "CLIENT", "PAUSE", "2000", "ALL")
				done := make(chan session.Promoted)
				go func() {
					got, err := h.s.Sessions.Promote(t.Context(), namespace, token, p)
					if err != nil {
						t.Errorf("Promote: error %v: %s; want none", err, redis.Cause(err))
					}
					done <- got
				}()
				storetest.Eventually(t, "the promotion has begun", func() bool {
					return own.Do(t, "HEXISTS", sessionKeysOf(t, namespace, sess).record, "to") == int64(1)
				})
				target := byID(sess)
				if by == "token" {
					target = byToken(token)
				}
				if !revokeSession(t, h.s, namespace, target) {
					t.Error("Revoke during the promotion = false, want true")
				}
				if got := <-done; !nothing(got) && end == "created" {
					t.Errorf("Promote = %+v, want nothing", got)
				}
				wantInactive(t, h.s, namespace, token)
				if got := ids(walk(t, h.s, namespace, "ann", 10, nil)); !slices.Equal(got, []string{anns.ID}) {
					t.Errorf("sessions of the subject = %v, want only %s", got, anns.ID)
				}
				wantEvents(t, h.s, namespace, sess, "created", "revoked revoked")
				if again := promote(t, h.s, namespace, token, "ann"); !nothing(again) {
					t.Errorf("repeated Promote = %+v, want nothing", again)
				}
			})
		}
	}
}

// If the subject's shard is down, the anonymous session is active again, at once or when the promotion's time is over.
func TestPromoteWithTheSubjectsShardDown(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"down", "hung"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			h := startHeld(t)
			token, sess, _, others := h.elsewhere(t, "n", "ann")
			bound := 30 * time.Second
			for _, n := range h.cluster.Nodes { // the other shards serve on
				n.Do(t, "CONFIG", "SET", "cluster-require-full-coverage", "no")
			}
			if how == "down" {
				others.Kill()
				t.Cleanup(func() { others.Restart(t) })
				bound = 5 * time.Second
			} else {
				others.Pause(t)
				t.Cleanup(func() { others.Resume(t) })
			}
			if got, err := h.s.Sessions.Promote(t.Context(), "n", token, session.Promotion{Subject: "ann"}); got.Session != nil || err == nil {
				t.Errorf("Promote = %+v, %v; want an error", got, err)
			}
			failed := time.Now()
			storetest.Eventually(t, "the anonymous session is active again", func() bool { return getSession(t, h.s, "n", sess.ID) != nil })
			if took := time.Since(failed); took > bound {
				t.Errorf("the anonymous session was inactive for %v, want at most %v", took, bound)
			}
			wantActive(t, h.s, "n", token)
			if got := validate(t, h.s, "n", token, primary); got == nil || got.Attributes["cart"] != "full" {
				t.Errorf("the anonymous session = %+v, want its attributes", got)
			}
			wantEvents(t, h.s, "n", sess, "created")
		})
	}
}

// A replica that lacks the key of the attributes leaves the anonymous session alone.
func TestPromoteWithoutTheKey(t *testing.T) {
	raced(t, func(t *testing.T, plain *store.Store, namespace string) {
		s := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		n := sessionOf("")
		n.Attributes = map[string]string{"a": "b"}
		token, sess := createSession(t, s, namespace, n)
		for what, other := range map[string]*store.Store{
			"without a keyring": plain, "with another key": withKeyring(t, plain, newKeyring(t, "b", map[string][]byte{"b": newKey()})),
		} {
			if got, err := other.Sessions.Promote(t.Context(), namespace, token, session.Promotion{Subject: "ann"}); got.Session != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("%s: Promote = %+v, %v; want ErrKeyUnknown", what, got, err)
			}
			if validate(t, s, namespace, token, primary) == nil {
				t.Errorf("%s: the anonymous session is inactive, want active", what)
			}
		}
		// Nor is the session lost if the keyring has another key of the same id.
		same := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		if got, err := same.Sessions.Promote(t.Context(), namespace, token, session.Promotion{Subject: "ann"}); got.Session != nil || !errors.Is(err, redis.ErrCorrupt) {
			t.Errorf("with another key of the same id: Promote = %+v, %v; want ErrCorrupt", got, err)
		}
		wantActive(t, s, namespace, token)
		if got := promote(t, s, namespace, token, "ann"); got.Session == nil || got.Session.Attributes["a"] != "b" {
			t.Errorf("Promote with the key = %+v, want the session with its attributes", got)
		}
		wantEvents(t, s, namespace, sess, "created", "revoked promoted")
	})
}

// If a server dies after the first step of a promotion, the anonymous session is active again when the promotion's time is
// over.
func TestAbandonedPromotionGivesTheSessionBack(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		n := sessionOf("")
		n.Attributes = map[string]string{"a": "b"}
		token, sess := createSession(t, s, namespace, n)
		now := s.Redis.Now()
		storetest.Command(t, s, "HSET", sessionKeysOf(t, namespace, sess).record, "to", sess.ID, "to_salt", "0123456789abcdef", "to_sh", "x",
			"to_at", fmt.Sprint(now.UnixMilli()), "to_until", fmt.Sprint(now.Add(700*time.Millisecond).UnixMilli()))
		if validate(t, s, namespace, token, primary) != nil {
			t.Error("the session is active during its promotion, want inactive")
		}
		if got := promote(t, s, namespace, token, "ann"); !nothing(got) {
			t.Errorf("Promote to another subject during the promotion = %+v, want nothing", got)
		}
		storetest.Eventually(t, "the session is active again", func() bool { return validate(t, s, namespace, token, primary) != nil })
		wantActive(t, s, namespace, token)
		if got := promote(t, s, namespace, token, "ann"); got.Session == nil || got.Session.Attributes["a"] != "b" {
			t.Errorf("Promote = %+v, want the session with its attributes", got)
		}
		wantEvents(t, s, namespace, sess, "created", "revoked promoted")

		// It expires as any other, with its event.
		token, sess = createSession(t, s, namespace, n)
		keys := sessionKeysOf(t, namespace, sess)
		storetest.Command(t, s, "HSET", keys.record, "to", sess.ID, "to_salt", "0123456789abcdef", "to_sh", "x", "to_at", "1", "to_until", fmt.Sprint(now.Add(time.Hour).UnixMilli()))
		age(t, s, namespace, sess, 2*longest)
		storetest.Command(t, s, "ZADD", strings.Replace(keys.record[:strings.Index(keys.record, "}")+1], "ld:s:", "ld:x:", 1), "1000", namespace+":"+sess.ID)
		sweep(t, s)
		wantEvents(t, s, namespace, sess, "created", "expired_idle")
		wantInactive(t, s, namespace, token)
	})
}

// A login that was begun before the subject's sessions were revoked does not slip through as a promotion.
func TestPromoteHoldingAnOldEpoch(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, class := range []string{"", "mobile"} {
			n := sessionOf("")
			n.Device.Class = class
			token, sess := createSession(t, s, namespace, n)
			epoch := subjectEpoch(t, s, namespace, "ann")
			revokeClass(t, s, namespace, "ann", class, "")
			p := session.Promotion{Subject: "ann", IfSubjectEpoch: &epoch}
			if got, err := s.Sessions.Promote(t.Context(), namespace, token, p); !errors.Is(err, session.ErrSubjectEpochChanged) || !nothing(got) {
				t.Errorf("class %q: Promote = %+v, %v; want ErrSubjectEpochChanged", class, got, err)
			}
			wantActive(t, s, namespace, token)
			epoch = subjectEpoch(t, s, namespace, "ann")
			if got, err := s.Sessions.Promote(t.Context(), namespace, token, p); err != nil || got.Session == nil {
				t.Errorf("class %q: Promote with the new epoch = %+v, %v; want a session", class, got, err)
			}
			wantEvents(t, s, namespace, sess, "created", "revoked promoted")
		}
	})
}

// A policy that was tightened bounds the timeouts that a promotion takes over and that a reauthentication restarts.
func TestTightenedTimeouts(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, _ := createSession(t, s, namespace, sessionOf(""))
		got, err := s.Sessions.Promote(t.Context(), namespace, token, session.Promotion{Subject: "ann", MaxIdle: 10 * time.Minute, MaxAbsolute: 2 * time.Hour})
		if err != nil || got.Session == nil || got.Session.Idle != 10*time.Minute || got.Session.AbsoluteExpiresAt.Sub(got.Session.CreatedAt) != 2*time.Hour {
			t.Fatalf("Promote = %+v, %v; want timeouts of 10 m and 2 h", got.Session, err)
		}
		next, sess := reauthenticate(t, s, namespace, got.Token, session.Reauthentication{AAL: 1, AMR: []string{"otp"}, ResetTimeouts: true, MaxIdle: 5 * time.Minute, MaxAbsolute: time.Hour})
		if sess == nil || sess.Idle != 5*time.Minute || sess.AbsoluteExpiresAt.Sub(sess.LastActiveAt) != time.Hour {
			t.Fatalf("Reauthenticate = %+v, want timeouts of 5 m and 1 h", sess)
		}
		_, sess = reauthenticate(t, s, namespace, next, session.Reauthentication{AAL: 1, AMR: []string{"otp"}, ResetTimeouts: true, MaxIdle: longest, MaxAbsolute: longest})
		if sess == nil || sess.Idle != 5*time.Minute || sess.AbsoluteExpiresAt.Sub(sess.LastActiveAt) != time.Hour {
			t.Errorf("Reauthenticate under longer maxima = %+v, want timeouts as they were", sess)
		}
	})
}
