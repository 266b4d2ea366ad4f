package session_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// The command of docs/operating.md that creates Larder's user works as it stands, leaves no file behind, and gives rights
// that suffice for everything that Larder does.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	const path = "../../docs/operating.md"
	operating, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	command := regexp.MustCompile("(?s)```sh\n(redis-cli ACL SETUSER larder .*?)```").FindSubmatch(operating)
	if command == nil {
		t.Fatalf("%s has no command that creates a user, want one", path)
	}
	server := redistest.Start(t, redistest.Options{Password: "admin"})
	host, port, err := net.SplitHostPort(server.Addr)
	if err != nil {
		t.Fatalf("SplitHostPort: %v", err)
	}
	dir := t.TempDir()
	shell := exec.Command("bash", "-euo", "pipefail", "-c", fmt.Sprintf("redis-cli() { command redis-cli -h %s -p %s \"$@\"; }\n%s", host, port, command[1]))
	shell.Dir, shell.Env = dir, append(os.Environ(), "REDISCLI_AUTH=admin", "HOME="+dir)
	if out, err := shell.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "OK" {
		t.Fatalf("%s: %v, %q, want OK", path, err, out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%s leaves %v, %v, want nothing", path, left, err)
	}
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, Username: "larder", Password: "password", NearCacheBytes: 1 << 20}})
	ctx := t.Context()
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v: %s, want no error", what, err, redis.Cause(err))
		}
	}
	for _, cond := range []cache.ConditionKind{cache.Always, cache.IfPresent, cache.IfAbsent} {
		_, _, err = s.Cache.Set(ctx, "n", "key", cache.Write{Value: []byte("v"), Fresh: time.Hour}, cache.Condition{Kind: cond})
		ok("set", err)
	}
	_, err = s.Cache.Get(ctx, "n", "key", true)
	ok("get", err)
	for _, fresh := range []time.Duration{time.Minute, 0} {
		_, _, err = s.Cache.Touch(ctx, "n", "key", fresh, cache.TouchOverwrite)
		ok("touch", err)
	}
	for _, ttl := range []time.Duration{time.Minute, 0} {
		_, err = s.Cache.Increment(ctx, "n", "counter", cache.Increment{Delta: 1, TTL: ttl, Policy: cache.TTLAlways})
		ok("increment", err)
	}
	_, err = s.Cache.Get(ctx, "n", "counter", true)
	ok("get a counter", err)
	_, _, err = s.Cache.ListKeys(ctx, "n", "", "", 10)
	ok("list", err)
	ok("delete matching", s.Cache.DeleteMatching(ctx, "n", "*", "", func(int64, string) error { return nil }))
	_, _, err = s.Cache.Delete(ctx, "n", "key", nil)
	ok("delete", err)

	var created session.Created
	for range 2 { // the second takes the room of the first
		created, err = s.Sessions.Create(ctx, "n", session.Creation{
			Subject: "ann", Attributes: map[string]string{"a": "1"}, Idle: time.Minute, Absolute: time.Hour,
			Device: session.Device{Class: "mobile"}, Limits: session.Limits{PerSubject: 1, PerClass: 1},
		})
		ok("create a session", err)
	}
	if t.Failed() {
		return
	}
	secret, sess := created.Token, created.Session
	for range 2 {
		_, err = s.Sessions.ValidateSession(ctx, "n", secret, true, session.TouchForce)
		ok("validate", err)
	}
	_, err = s.Sessions.Update(ctx, "n", session.Target{ID: sess.ID}, session.Changes{
		Set: map[string]string{"b": "2"}, Increment: map[string]int64{"n": 1}, Delete: []string{"a"},
	})
	ok("update", err)
	_, _, err = s.Sessions.ListSubject(ctx, "n", "ann", session.SubjectList{Count: 10})
	ok("list sessions", err)
	_, err = s.Sessions.ValidateAll(ctx, "n", []session.Validation{{Token: secret, Near: true}, {Token: secret, Touch: session.TouchForce}})
	ok("validate in a batch", err)
	secret, _, err = s.Sessions.Rotate(ctx, "n", secret, time.Minute)
	ok("rotate", err)
	_, _, err = s.Sessions.Reauthenticate(ctx, "n", secret, session.Reauthentication{AAL: 2, ResetTimeouts: true})
	ok("reauthenticate", err)
	anonymous, err := s.Sessions.Create(ctx, "n", session.Creation{Idle: time.Minute, Absolute: time.Hour})
	ok("create an anonymous session", err)
	_, err = s.Sessions.Promote(ctx, "n", anonymous.Token, session.Promotion{Subject: "ann"})
	ok("promote", err)
	_, err = s.Sessions.SubjectEpoch(ctx, "n", "ann")
	ok("subject", err)
	_, err = s.Sessions.RevokeSubject(ctx, "n", "ann", session.SubjectRevocation{Class: "mobile", Except: sess.ID, Longest: time.Hour})
	ok("revoke a class of a subject's sessions", err)
	_, err = s.Sessions.RevokeSubject(ctx, "n", "ann", session.SubjectRevocation{Except: sess.ID, Longest: time.Hour})
	ok("revoke a subject's sessions", err)
	_, err = s.Sessions.Revoke(ctx, "n", session.Target{ID: sess.ID})
	ok("revoke", err)

	limits := token.Limits{Failures: 10, Window: time.Hour, Consecutive: 100, SourceFailures: 10, SourceWindow: time.Hour, Cooldown: time.Minute, MaxCooldown: time.Hour}
	issue := func(kind token.Kind, purpose string) token.Issued {
		issued, err := s.Tokens.Issue(ctx, "n", token.Issue{
			Subject: "ann", Purpose: purpose, Kind: kind, TTL: time.Minute, Alphabet: token.Digits, Length: 6, Count: 2, MaxAttempts: 5, MaxOpen: 1,
			RevokeSessions: kind == token.Link, Limits: limits, Request: purpose,
		})
		ok("issue a token", err)
		return issued
	}
	link, set := issue(token.Link, "p"), issue(token.Recovery, "p")
	issue(token.Code, "q")
	code := issue(token.Code, "q") // takes the place of the first
	presented := token.Presented{Link: link.Link, Purpose: "p", Source: "ip", Longest: time.Hour, Limits: limits}
	_, err = s.Tokens.Inspect(ctx, "n", presented)
	ok("inspect a token", err)
	_, err = s.Tokens.Consume(ctx, "n", presented)
	ok("consume a token", err)
	_, err = s.Tokens.Consume(ctx, "n", token.Presented{Subject: "ann", Code: set.RecoveryCodes[0], Purpose: "p", Limits: limits})
	ok("consume a recovery code", err)
	_, err = s.Tokens.Consume(ctx, "n", token.Presented{ID: code.ID, Code: "wrong", Purpose: "q", Source: "ip", Limits: limits})
	ok("fail to consume a token", err)
	_, err = s.Tokens.Exchange(ctx, "n", token.Presented{ID: code.ID, Code: code.Code, Purpose: "q", Limits: limits}, token.Grant{TTL: time.Minute, MaxAttempts: 5})
	ok("exchange a token", err)
	_, err = s.Tokens.Revoke(ctx, "n", set.ID)
	ok("revoke a token", err)
	_, err = s.Tokens.RevokeAll(ctx, "n", "ann", "q")
	ok("revoke all tokens", err)
	_, err = s.Tokens.InspectSubject(ctx, "n", "ann", "q", limits)
	ok("inspect a subject", err)
	ok("reset a subject", s.Tokens.ResetSubject(ctx, "n", "ann", "q"))
	ok("reset a source", s.Tokens.ResetSource(ctx, "n", "ip"))
	for _, ttl := range []time.Duration{time.Millisecond, time.Hour} { // the second removes the first
		_, err = s.Tokens.ClaimOnce(ctx, "n", token.Claim{Scope: "s", ID: "id", TTL: ttl})
		ok("claim", err)
		_, err = s.Tokens.ClaimCounter(ctx, "n", token.Claim{Scope: "s", ID: "id", TTL: ttl, Request: "r"}, 1)
		ok("claim a number", err)
	}

	other, err := s.Sessions.Create(ctx, "n", sessionOf("ann"))
	ok("create another session", err)
	ended := other.Session
	watch := watchEvents(t, s, "n", everybody, "", nil)
	key, member := endsOf("n", ended)
	server.Do(t, "HINCRBY", sessionKeysOf(t, "n", ended).record, "abs", "-86400000")
	server.Do(t, "ZADD", key, "1", member)
	sweep(t, s)
	storetest.Eventually(t, "the end", func() bool { return len(watch.seen()) == 1 })
	watch.stop(t)
}
