package session_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// calledByScripts are commands that the scripts of sessions call.
var calledByScripts = []string{
	"del", "exists", "get", "hdel", "hget", "hgetall", "hmget", "hset", "incrby", "pexpire", "pexpireat", "pttl", "rename", "rpush", "sadd", "set", "smembers",
	"srem", "time", "unlink", "xadd", "zadd", "zcard", "zcount", "zrange", "zrangebyscore", "zrem", "zremrangebyscore", "zscore",
}

// cost returns the round trips of an operation and the commands that it sent.
func cost(t *testing.T, server *redistest.Server, run func(ctx context.Context)) (trips int64, sent map[string]int64) {
	t.Helper()
	server.ResetCommandCalls(t)
	ctx, timer := redis.WithTimer(t.Context())
	run(ctx)
	sent = storetest.CommandCalls(t, server)
	if sent["evalsha"]+sent["evalsha_ro"]+sent["eval_ro"] > 0 {
		maps.DeleteFunc(sent, func(name string, _ int64) bool { return slices.Contains(calledByScripts, name) })
	}
	return timer.Trips(), sent
}

func TestSessionCosts(t *testing.T) {
	t.Parallel()
	server, s := storetest.Alone(t)
	other := beside(t, server)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("error %v, want none", err)
		}
	}
	sess := func(namespace string) (string, *session.Session) {
		return createSession(t, other, namespace, sessionOf("ann"))
	}
	update := session.Changes{Set: map[string]string{"a": "b"}}

	// From here on Redis knows the scripts.
	token, created := sess("warm")
	wantActive(t, s, "warm", token)
	updateSession(t, s, "warm", byToken(token), update)
	touch(t, s, "warm", token, primary, session.TouchForce)
	revokeSession(t, s, "warm", byToken(token))
	revokeSubject(t, s, "warm", "ann", created.ID)
	walk(t, s, "warm", "ann", 10, nil)

	token, created = sess("n")
	anonymous, _ := createSession(t, other, "n", sessionOf(""))
	stranger := wrongSecret(t, token, anonymous)
	validating := func(token string, near bool, how session.Touch, active bool) func(context.Context) {
		return func(ctx context.Context) {
			got, err := s.Sessions.ValidateSession(ctx, "n", token, near, how)
			must(err)
			if (got != nil) != active {
				t.Errorf("active = %t, want %t", got != nil, active)
			}
		}
	}
	none, read, write := map[string]int64{}, map[string]int64{"evalsha_ro": 1}, map[string]int64{"evalsha": 1}
	for _, c := range []struct {
		what  string
		trips int64
		sent  map[string]int64
		run   func(context.Context)
	}{
		{"validate, malformed", 0, none, validating("ls1_", primary, session.TouchForce, false)},
		{"validate, first", 1, read, validating(token, cached, session.TouchAuto, true)},
		{"validate, second", 1, map[string]int64{"hgetall": 1}, validating(token, cached, session.TouchAuto, true)},
		{"validate, near-cached", 0, none, validating(token, cached, session.TouchAuto, true)},
		{"validate, primary", 1, read, validating(token, primary, session.TouchAuto, true)},
		{"validate, near-cached with touch", 1, write, validating(token, cached, session.TouchForce, true)},
		{"validate, after a touch", 1, read, validating(token, cached, session.TouchNever, true)},
		{"validate, near-cached again", 0, none, validating(token, cached, session.TouchNever, true)},
		{"validate, wrong secret", 1, read, validating(stranger, cached, session.TouchForce, false)},
		{"validate, anonymous first", 1, read, validating(anonymous, cached, session.TouchNever, true)},
		{"validate, anonymous near-cached", 0, none, validating(anonymous, cached, session.TouchNever, true)},
		{"get", 1, read, func(ctx context.Context) {
			_, err := s.Sessions.Get(ctx, "n", created.ID)
			must(err)
		}},
		{"create", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.Create(ctx, "n", sessionOf("ann"))
			must(err)
		}},
		{"create anonymous", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.Create(ctx, "n", sessionOf(""))
			must(err)
		}},
		{"update", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.Update(ctx, "n", byToken(token), update)
			must(err)
		}},
		{"list 2", 1, read, func(ctx context.Context) {
			_, _, err := s.Sessions.ListSubject(ctx, "n", "ann", session.SubjectList{Count: 50})
			must(err)
		}},
		{"list none", 1, read, func(ctx context.Context) {
			_, _, err := s.Sessions.ListSubject(ctx, "n", "nobody", session.SubjectList{Count: 50})
			must(err)
		}},
		{"revoke", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.Revoke(ctx, "n", byToken(anonymous))
			must(err)
		}},
		{"revoke subject", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.RevokeSubject(ctx, "n", "ann", session.SubjectRevocation{Except: created.ID, Longest: longest})
			must(err)
		}},
		{"revoke a class", 1, write, func(ctx context.Context) {
			_, err := s.Sessions.RevokeSubject(ctx, "n", "ann", session.SubjectRevocation{Class: "mobile", Except: created.ID, Longest: longest})
			must(err)
		}},
		{"subject", 1, map[string]int64{"hgetall": 1}, func(ctx context.Context) {
			_, err := s.Sessions.SubjectEpoch(ctx, "n", "ann")
			must(err)
		}},
		{"create with limits", 1, write, func(ctx context.Context) {
			n := sessionOf("ann")
			n.Device.Class, n.Limits = "mobile", session.Limits{PerSubject: 100, PerClass: 1}
			_, err := s.Sessions.Create(ctx, "n", n)
			must(err)
		}},
		{"create at the limits", 1, write, func(ctx context.Context) {
			n := sessionOf("ann")
			n.Device.Class, n.Limits = "mobile", session.Limits{PerSubject: 100, PerClass: 1}
			_, err := s.Sessions.Create(ctx, "n", n)
			must(err)
		}},
		{"validate, after a revocation that kept it", 1, read, validating(token, cached, session.TouchNever, true)},
	} {
		trips, sent := cost(t, server, c.run)
		if diff := cmp.Diff(c.sent, sent); diff != "" || trips != c.trips {
			t.Errorf("%s: %d round trips, want %d (-want +got):\n%s", c.what, trips, c.trips, diff)
		}
	}
}

// The round trips are the same in every topology of Redis.
func TestSessionRoundTrips(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		trips := []int64{1, 1, 0, 0}
		if s.Redis.Mode() == redis.Embedded {
			trips = []int64{1, 1, 1, 1} // it has no near cache
		}
		for i, want := range trips {
			ctx, timer := redis.WithTimer(t.Context())
			if got, err := s.Sessions.ValidateSession(ctx, namespace, token, cached, session.TouchAuto); got == nil || err != nil || timer.Trips() != want {
				t.Errorf("validation %d: %d round trips, want %d; %v, %v", i, timer.Trips(), want, got, err)
			}
		}
		for what, run := range map[string]func(context.Context) error{
			"create": func(ctx context.Context) error {
				_, err := s.Sessions.Create(ctx, namespace, sessionOf("ann"))
				return err
			},
			"update": func(ctx context.Context) error {
				_, err := s.Sessions.Update(ctx, namespace, byID(sess), session.Changes{Set: map[string]string{"a": "b"}})
				return err
			},
			"revoke": func(ctx context.Context) error {
				_, err := s.Sessions.Revoke(ctx, namespace, byID(sess))
				return err
			},
			"revoke subject": func(ctx context.Context) error {
				_, err := s.Sessions.RevokeSubject(ctx, namespace, "ann", session.SubjectRevocation{Except: sess.ID, Longest: longest})
				return err
			},
		} {
			ctx, timer := redis.WithTimer(t.Context())
			if err := run(ctx); err != nil || timer.Trips() != 1 {
				t.Errorf("%s: %d round trips, error %v; want 1, none", what, timer.Trips(), err)
			}
		}
	})
}
