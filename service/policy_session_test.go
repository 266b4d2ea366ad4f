package service

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/session"
)

func sessionPolicy(namespace string, p policy.Session) *policy.Policy {
	return &policy.Policy{Sessions: policy.Section[policy.Session]{Namespaces: map[string]policy.Session{namespace: p}}}
}

// Every way of writing a value stores it encrypted where the policy says so, and as it is elsewhere.
func TestPolicyEncrypt(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{Keyring: true})
	a.under(t, cachePolicy("secret", policy.Cache{Encrypt: new(true)}))
	canary := []byte("canary canary")
	for ns, encrypted := range map[string]bool{"secret": true, "open": false} {
		a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "set", Value: canary})
		must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{
			Namespace: ns, Items: []*cachev1.BatchSetItem{{Key: "batch", Value: canary}},
		}))
		lease := must[*cachev1.GetOrLeaseResponse](t)(a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "fill"})).LeaseToken
		must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Namespace: ns, Key: "fill", LeaseToken: lease, Value: canary}))
		for _, key := range []string{"set", "batch", "fill"} {
			if got := a.primary(t, ns, key); !bytes.Equal(got.Value, canary) {
				t.Errorf("%s: value of %s = %q, want %q", ns, key, got.Value, canary)
			}
			stored := a.do(t, "GET", "ld:c:{"+ns+":"+key+"}").(string)
			if strings.Contains(stored, string(canary)) == encrypted {
				t.Errorf("%s: %s is stored as %q, want it encrypted: %t", ns, key, stored, encrypted)
			}
		}
	}
}

// A namespace may have a shorter grace than the server, none among them.
func TestPolicyRotationGrace(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, sessionPolicy("strict", policy.Session{RotationGrace: new(time.Duration(0))}))
	for ns, good := range map[string]bool{"strict": false, "other": true} {
		created := a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns, Subject: "ann"})
		must[*sessionv1.RotateSessionResponse](t)(a.session.RotateSession(t.Context(), &sessionv1.RotateSessionRequest{Namespace: ns, SessionToken: created.SessionToken}))
		if a.isActive(t, ns, created.SessionToken) != good {
			t.Errorf("%s: the old token is valid: %t, want %t", ns, !good, good)
		}
	}
}

func TestPolicyTouchInterval(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, sessionPolicy("seldom", policy.Session{TouchInterval: new(30 * time.Minute)}))
	idle := map[string]*sessionv1.Session{}
	for _, ns := range []string{"seldom", "often"} { // what is told of the first is known once the second was touched
		created := a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns, Subject: "ann"})
		key := a.do(t, "EVAL", "return redis.call('KEYS', ARGV[1])[1]", "0", "ld:s:*:"+created.Session.SessionId).(string)
		a.do(t, "HINCRBY", key, "la", "-600000")
		idle[ns] = a.byID(t, ns, created.Session.SessionId)
		a.validate(t, &sessionv1.ValidateSessionRequest{Namespace: ns, SessionToken: created.SessionToken, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY})
	}
	touched := func(ns string) bool {
		return a.byID(t, ns, idle[ns].SessionId).LastActiveAt.AsTime().After(idle[ns].LastActiveAt.AsTime())
	}
	eventually(t, "touched", func() bool { return touched("often") })
	if touched("seldom") {
		t.Error("touched before the touch interval was over, want it afterwards")
	}
}

// byID reads a session by its id.
func (a *api) byID(t testing.TB, ns, id string) *sessionv1.Session {
	t.Helper()
	return must[*sessionv1.GetSessionResponse](t)(a.session.GetSession(t.Context(), &sessionv1.GetSessionRequest{Namespace: ns, SessionId: id})).Session
}

// A namespace's limits hold for logins and promotions, and requests may only lower them.
func TestPolicySessionLimits(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionsPerSubject: 5})
	a.under(t, &policy.Policy{Sessions: policy.Section[policy.Session]{Namespaces: map[string]policy.Session{
		"evict":  {MaxSessionsPerSubject: new(2), MaxSessionsPerClass: new(1), LimitPolicy: session.EvictOldest},
		"reject": {MaxSessionsPerSubject: new(2), LimitPolicy: session.Reject},
	}}})
	promote := func(ns string) *sessionv1.PromoteSessionResponse {
		anonymous := a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns, Attributes: map[string]string{"cart": "1"}})
		got := must[*sessionv1.PromoteSessionResponse](t)(a.session.PromoteSession(t.Context(), &sessionv1.PromoteSessionRequest{
			Namespace: ns, SessionToken: anonymous.SessionToken, Subject: "ann",
		}))
		rejected := got.Outcome == sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_LIMIT_REACHED
		if rejected != a.isActive(t, ns, anonymous.SessionToken) || rejected == (got.SessionToken != "") {
			t.Errorf("%s: PromoteSession = %v, want the anonymous session to stay active only if it is rejected", ns, got)
		}
		return got
	}
	create := func(ns, class string) *sessionv1.CreateSessionResponse {
		return a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns, Subject: "ann", Device: &sessionv1.Device{Class: class}})
	}
	first := create("evict", "mobile")
	if again := create("evict", "mobile"); len(again.EvictedSessions) != 1 || again.EvictedSessions[0].SessionId != first.Session.SessionId {
		t.Errorf("CreateSession above the limit of the class = %v, want %s evicted", again, first.Session.SessionId)
	}
	// Times of creation are whole milliseconds: the next session must be younger by one.
	clock := func() (ms int64) {
		at := a.redis.Do(t, "TIME").([]any)
		seconds, _ := strconv.ParseInt(at[0].(string), 10, 64)
		micros, _ := strconv.ParseInt(at[1].(string), 10, 64)
		return seconds*1000 + micros/1000
	}
	older := clock()
	eventually(t, "the next millisecond", func() bool { return clock() > older })
	create("evict", "desktop")
	if got := promote("evict"); len(got.EvictedSessions) != 1 || got.EvictedCount != 1 || got.EvictedSessions[0].Device.Class != "mobile" {
		t.Errorf("PromoteSession above the limit of the subject = %v, want the mobile session evicted", got)
	}
	create("reject", "")
	create("reject", "")
	if got := create("reject", ""); got.Outcome != sessionv1.CreateSessionOutcome_CREATE_SESSION_OUTCOME_LIMIT_REACHED || len(got.ExistingSessions) != 2 {
		t.Errorf("CreateSession of a third session = %v, want LIMIT_REACHED beside 2", got)
	}
	if got := promote("reject"); got.Outcome != sessionv1.PromoteSessionOutcome_PROMOTE_SESSION_OUTCOME_LIMIT_REACHED || len(got.ExistingSessions) != 2 {
		t.Errorf("PromoteSession to a third session = %v, want LIMIT_REACHED beside 2", got)
	}
	for i := range 6 {
		if got := create("other", ""); (len(got.EvictedSessions) == 1) != (i == 5) {
			t.Errorf("session %d under the server's limit of 5 = %v, want an eviction: %t", i, got, i == 5)
		}
	}
	r := &sessionv1.CreateSessionRequest{Namespace: "evict", Subject: "ann", MaxSessions: 3, MaxClassSessions: 2, IdleTimeout: durationpb.New(time.Minute)}
	_, err := a.session.CreateSession(t.Context(), r)
	wantInvalid(t, r, err, "max_sessions", "max_class_sessions")
}
