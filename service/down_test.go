package service

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

// requests are good requests, one for each method, that cannot be answered without Redis. Their text is not to be told.
var requests = map[string]string{
	"Get":                   `key: "canary-k" consistency: CONSISTENCY_PRIMARY`,
	"Set":                   `key: "canary-k" value: "canary-v"`,
	"Delete":                `key: "canary-k"`,
	"Touch":                 `key: "canary-k"`,
	"Increment":             `key: "canary-n"`,
	"BatchGet":              `keys: "canary-k" keys: "canary-none" consistency: CONSISTENCY_PRIMARY`,
	"BatchSet":              `items {key: "canary-k" value: "canary-v"} items {key: "canary-2"}`,
	"BatchDelete":           `keys: "canary-k" keys: "canary-none"`,
	"DeleteMatching":        `pattern: "canary-none*"`,
	"GetOrLease":            `key: "canary-unread"`,
	"Fill":                  `key: "canary-k" value: "canary-v" lease_token: "$LEASE"`,
	"ReleaseLease":          `key: "canary-k" lease_token: "$LEASE"`,
	"InvalidateTags":        `tags: "canary-t"`,
	"ClearNamespace":        `namespace: "other"`,
	"Watch":                 ``,
	"ListKeys":              `pattern: "canary*"`,
	"CreateSession":         `subject: "canary-ann" attributes {key: "canary" value: "canary-v"}`,
	"ValidateSession":       `session_token: "$TOKEN" consistency: CONSISTENCY_PRIMARY`,
	"BatchValidateSessions": `items {session_token: "$TOKEN" consistency: CONSISTENCY_PRIMARY} items {session_token: "$TOKEN" touch: TOUCH_FORCE require {}}`,
	"RotateSession":         `session_token: "$TOKEN"`,
	"PromoteSession":        `session_token: "$TOKEN" subject: "canary-bob"`,
	"ReauthenticateSession": `session_token: "$STRANGER" aal: 2 amr: "otp"`,
	"GetSession":            `session_id: "$ID"`,
	"UpdateSession":         `session_token: "$TOKEN" set_attributes {key: "canary" value: "canary-v"}`,
	"RevokeSession":         `session_id: "$OTHER"`,
	"RevokeSubjectSessions": `subject: "canary-bob"`,
	"GetSubject":            `subject: "canary-ann"`,
	"ListSubjectSessions":   `subject: "canary-ann"`,
	"WatchSessionEvents":    `subject: "canary-ann"`,
	"Refund":                `subject: "canary-ann" limits {inline {capacity: 1 period {seconds: 1}}}`,
	"Commit":                `reservation_id: "$RESERVATION"`,
	"Cancel":                `reservation_id: "$RESERVATION"`,
	"Reset":                 `subject: "canary-ann"`,
	"IssueToken":            `subject: "canary-ann" purpose: "canary-p" kind: TOKEN_KIND_RECOVERY payload: "canary-v"`,
	"ConsumeToken":          `subject: "canary-ann" purpose: "canary-p" code: "canary-c" source: "canary-source" request_id: "canary-r"`,
	"ExchangeToken":         `token: "` + linkNobodyHas + `" purpose: "canary-p" binding: "canary-b"`,
	"InspectToken":          `token: "` + linkNobodyHas + `" purpose: "canary-p"`,
	"RevokeToken":           `subject: "canary-bob" purpose: "canary-p"`,
	"InspectSubject":        `subject: "canary-ann" purpose: "canary-p"`,
	"ResetSubject":          `subject: "canary-ann" purpose: "canary-p"`,
	"ClaimOnce":             `scope: "canary-s" id: "canary-id" ttl {seconds: 60}`,
	"ClaimCounter":          `scope: "canary-s" id: "canary-id" value: 1 request_id: "canary-r"`,
}

// undaunted are the methods that decide without Redis, by failure policies: TestFailurePolicies has them.
var undaunted = []string{"Consume", "BatchConsume", "Peek", "Reserve"}

// eachMethod calls every method at once, each with the time that a careful caller gives, and hands over how it ended.
func (a *api) eachMethod(t testing.TB, s *sessionv1.CreateSessionResponse, ended func(m protoreflect.MethodDescriptor, took time.Duration, err error)) {
	t.Helper()
	var calls sync.WaitGroup
	for _, m := range methods() {
		if m.Name() == "GetStats" || slices.Contains(undaunted, string(m.Name())) { // needs no Redis
			continue
		}
		text, ok := requests[string(m.Name())]
		if !ok {
			t.Fatalf("requests has none of %s, want one", m.Name())
		}
		// A session that is not there, or the others would find none.
		text = strings.ReplaceAll(text, "$OTHER", flip(s.Session.SessionId[0])+s.Session.SessionId[1:])
		text = strings.ReplaceAll(text, "$STRANGER", s.SessionToken[:30]+flip(s.SessionToken[30])+s.SessionToken[31:])
		_, req := parse(t, string(m.Name()), text, s)
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			start := time.Now()
			_, err := a.call(ctx, t, m, req)
			ended(m, time.Since(start), err)
		})
	}
	calls.Wait()
	// A Watch that begins while another has not ended yet shares its connections and needs no answer of Redis.
	eventually(t, "done with all streams", func() bool { return a.metrics.streams.inFlight.Load() == 0 })
}

// allSucceed waits until every method does.
func (a *api) allSucceed(t testing.TB, s *sessionv1.CreateSessionResponse) {
	t.Helper()
	eventually(t, "recovered", func() bool {
		var mu sync.Mutex
		failed := 0
		a.eachMethod(t, s, func(m protoreflect.MethodDescriptor, _ time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				if code := status.Code(err); code != codes.Unavailable {
					t.Errorf("%s = %v, want nil or UNAVAILABLE", m.Name(), err)
				}
			}
		})
		return failed == 0
	})
}

func (a *api) canary(t testing.TB) *sessionv1.CreateSessionResponse {
	t.Helper()
	a.set(t, &cachev1.SetRequest{Key: "canary-k", Value: []byte("canary-v")})
	return a.create(t, &sessionv1.CreateSessionRequest{Subject: "canary-ann", Attributes: map[string]string{"canary": "canary-v"}})
}

func TestEveryMethodWhileRedisIsDown(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	s := a.canary(t)
	a.allSucceed(t, s)

	a.redis.Kill()
	for _, when := range []string{"at once", "once the probes know"} {
		if when != "at once" {
			eventually(t, "known to be down", func() bool { return !a.health.Redis() })
		}
		a.eachMethod(t, s, func(m protoreflect.MethodDescriptor, took time.Duration, err error) {
			got := answerOf(t, err)
			sent := got.Reason == "WRITE_OUTCOME_UNKNOWN" && when == "at once"
			if got.Code != codes.Unavailable || !got.Retry || got.Reason != "REDIS_UNAVAILABLE" && !sent {
				t.Errorf("%s: %s = %v, want UNAVAILABLE with REDIS_UNAVAILABLE and RetryInfo", when, m.Name(), err)
			}
			if took > 1500*time.Millisecond {
				t.Errorf("%s: %s took %v, want at most 1.5 s", when, m.Name(), took)
			}
		})
	}

	a.redis.Restart(t) // empty: what was there is forgotten, and nobody has to do anything
	fresh := func() (s *sessionv1.CreateSessionResponse) {
		eventually(t, "recovered", func() bool {
			var err error
			s, err = a.session.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{Subject: "canary-ann"})
			return err == nil
		})
		return s
	}()
	a.allSucceed(t, fresh)
}

// What a caller is told of an error is what the table says, to the letter, whatever the network and Redis do.
func TestErrorsTellNothingOfTheServer(t *testing.T) {
	t.Parallel()
	a, proxy := behindProxy(t)
	s := a.canary(t)
	sayings := map[string]bool{}
	for _, row := range errorTable {
		sayings[row.err.Error()] = true
	}
	check := func(fault string) (failed map[string]string) {
		t.Helper()
		var mu sync.Mutex
		failed = map[string]string{}
		a.eachMethod(t, s, func(m protoreflect.MethodDescriptor, _ time.Duration, err error) {
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			failed[string(m.Name())] = answerOf(t, err).Reason
			st := status.Convert(err)
			if !sayings[st.Message()] {
				t.Errorf("%s: message of %s = %q, want one of the error table", fault, m.Name(), st.Message())
			}
			for _, d := range st.Details() {
				switch d := d.(type) {
				case *errdetails.ErrorInfo:
					d.Reason, d.Domain = "", ""
					if !proto.Equal(d, &errdetails.ErrorInfo{}) {
						t.Errorf("%s: ErrorInfo of %s = %v, want a domain and a reason only", fault, m.Name(), d)
					}
				case *errdetails.RetryInfo:
				default:
					t.Errorf("%s: detail of %s = %v, want ErrorInfo and RetryInfo only", fault, m.Name(), d)
				}
			}
			text := st.Proto().String()
			for _, secret := range []string{"canary", s.SessionToken[4:], s.Session.SessionId, a.addr, a.redis.Addr, "127.0.0.1"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s: answer of %s = %q, want it without %q", fault, m.Name(), text, secret)
				}
			}
		})
		return failed
	}
	mend := func() {
		t.Helper()
		proxy.Refuse(false)
		proxy.Blackhole(false)
		proxy.DropReplies(false)
		proxy.CutAll()
		eventually(t, "well", func() bool { return len(check("afterwards")) == 0 })
	}

	for _, fault := range []struct {
		name  string
		begin func()
	}{
		{"Refused", func() { proxy.Refuse(true); proxy.CutAll() }},
		{"Blackhole", func() { proxy.Blackhole(true) }},
		{"LostAnswers", func() { proxy.DropReplies(true) }},
	} {
		fault.begin()
		if failed := check(fault.name); len(failed) != len(requests) {
			t.Errorf("%s: failed methods = %v, want all %d", fault.name, failed, len(requests))
		}
		mend()
	}

	// Connections that are cut under calls in flight.
	proxy.Delay(20 * time.Millisecond)
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		for range 10 {
			<-time.After(10 * time.Millisecond)
			proxy.CutAll()
		}
	}()
	for open := true; open; {
		check("Cut")
		select {
		case <-cut:
			open = false
		default:
		}
	}
	proxy.Delay(0)
	mend()

	// What Redis itself says quotes keys, users and commands.
	a.do(t, "CONFIG", "SET", "maxmemory", "1")
	if got := check("OutOfMemory")["Set"]; got != "REDIS_OVERLOADED" {
		t.Errorf("reason of Set at full memory = %q, want REDIS_OVERLOADED", got)
	}
	a.do(t, "CONFIG", "SET", "maxmemory", "0")
	mend()
	a.do(t, "ACL", "SETUSER", "default", "resetkeys")
	failed := check("NoPermission")
	for rpc := range requests {
		// SCAN and a watch name no key that could be refused, and BatchGet says it of each key.
		if got := failed[rpc]; got != "REDIS_REFUSED" && !slices.Contains([]string{"ListKeys", "DeleteMatching", "BatchGet", "Watch"}, rpc) {
			t.Errorf("reason of %s without permission = %q, want REDIS_REFUSED", rpc, got)
		}
	}
	a.do(t, "ACL", "SETUSER", "default", "allkeys")
	mend()

	// Keys of another type.
	for _, key := range []string{"k", "n", "2", "none"} {
		a.do(t, "DEL", "ld:c:{default:canary-"+key+"}")
		a.do(t, "LPUSH", "ld:c:{default:canary-"+key+"}", "canary")
	}
	check("WrongType")
}
