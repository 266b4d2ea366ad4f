package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// A costs is a server whose calls are weighed one at a time.
type costs struct {
	*api
	t       testing.TB
	session *sessionv1.CreateSessionResponse
	lease   string
	// reservation is the id of the last one.
	reservation string
	fresh       int
	grant       *lockv1.AcquireLockResponse
	token       *tokenv1.IssueTokenResponse
}

// costCases are calls, each with what it finds. $NEW is a name that was not used before, $HELD a lease of "k".
var costCases = []struct {
	rpc, when string
	prepare   func(c *costs)
	request   string
}{
	{"Get", "near-cached", (*costs).held, `key: "k"`},
	{"Get", "else", (*costs).set, `key: "k"`},
	{"Get", "else, the first of its namespace", (*costs).name, `namespace: "$NEW" key: "k"`},
	{"Get", "else, with a tag that is not", (*costs).tagged, `key: "k"`},
	{"Get", "else, a plain value, of which only Redis knows the ttl", (*costs).plain, `key: "$NEW"`},
	{"Get", "PRIMARY", (*costs).held, `key: "k" consistency: CONSISTENCY_PRIMARY`},
	{"Set", "", (*costs).held, `key: "k" value: "v"`},
	{"Set", "ttl up to 60 s, which revokes the lease", (*costs).held, `key: "k" value: "v" ttl {seconds: 60}`},
	{"Set", "if_absent", (*costs).none, `key: "k" value: "v" if_absent: true`},
	{"Set", "if_present", (*costs).held, `key: "k" value: "v" if_present: true`},
	{"Set", "if_present, tagged", (*costs).tagged, `key: "k" value: "v" if_present: true`},
	{"Delete", "", (*costs).held, `key: "k"`},
	{"Delete", "tagged", (*costs).tagged, `key: "k"`},
	{"Touch", "", (*costs).held, `key: "k"`},
	{"Increment", "", (*costs).counter, `key: "n"`},
	{"BatchGet", "3 keys, near-cached", (*costs).held, `keys: "k" keys: "k" keys: "k"`},
	{"BatchGet", "3 keys, else", (*costs).three, `keys: "a" keys: "b" keys: "c"`},
	{"BatchSet", "3 entries", nil, `items {key: "a"} items {key: "b"} items {key: "c"}`},
	{"BatchDelete", "3 keys", (*costs).three, `keys: "a" keys: "b" keys: "c"`},
	{"DeleteMatching", "3 of 3 keys", (*costs).onlyThree, `pattern: "*"`},
	{"ListKeys", "3 of 3 keys", (*costs).onlyThree, ``},
	{"GetOrLease", "fresh and near-cached", (*costs).held, `key: "k" beta: 0`},
	{"GetOrLease", "nothing there", (*costs).none, `key: "k"`},
	{"GetOrLease", "nothing there, leased to another", (*costs).leased, `key: "k"`},
	{"Fill", "", (*costs).leased, `key: "k" lease_token: "$HELD" value: "v"`},
	{"ReleaseLease", "", (*costs).leased, `key: "k" lease_token: "$HELD"`},
	{"InvalidateTags", "2 tags", nil, `tags: "t" tags: "u"`},
	{"ClearNamespace", "", (*costs).name, `namespace: "$NEW"`},
	{"GetStats", "", nil, ``},
	{"Watch", "beside another of the namespace", nil, ``},
	{"CreateSession", "", nil, `subject: "ann"`},
	{"CreateSession", "anonymous", nil, ``},
	{"ValidateSession", "near-cached", (*costs).validated, `session_token: "$TOKEN"`},
	{"ValidateSession", "else", (*costs).signIn, `session_token: "$TOKEN"`},
	{"ValidateSession", "PRIMARY", (*costs).validated, `session_token: "$TOKEN" consistency: CONSISTENCY_PRIMARY`},
	{"ValidateSession", "TOUCH_FORCE", (*costs).validated, `session_token: "$TOKEN" touch: TOUCH_FORCE`},
	{"BatchValidateSessions", "2 tokens, near-cached", (*costs).validated, `items {session_token: "$TOKEN"} items {session_token: "$TOKEN"}`},
	{"BatchValidateSessions", "2 tokens, else", (*costs).validated, `items {session_token: "$TOKEN" consistency: CONSISTENCY_PRIMARY} items {session_token: "$TOKEN" consistency: CONSISTENCY_PRIMARY}`},
	{"RotateSession", "", (*costs).signIn, `session_token: "$TOKEN"`},
	{"PromoteSession", "", (*costs).anonymous, `session_token: "$TOKEN" subject: "ann"`},
	{"ReauthenticateSession", "", (*costs).signIn, `session_token: "$TOKEN" aal: 2 amr: "otp"`},
	{"WatchSessionEvents", "beginning", nil, `subject: "$NEW"`},
	{"GetSubject", "", (*costs).signIn, `subject: "ann"`},
	{"GetSession", "", (*costs).signIn, `session_id: "$ID"`},
	{"UpdateSession", "", (*costs).signIn, `session_token: "$TOKEN" set_attributes {key: "a" value: "b"}`},
	{"RevokeSession", "", (*costs).signIn, `session_token: "$TOKEN"`},
	{"RevokeSubjectSessions", "", (*costs).signIn, `subject: "$NEW"`},
	{"ListSubjectSessions", "1 session", (*costs).signIn, `subject: "$NEW"`},
	{"Consume", "", (*costs).name, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}`},
	{"Consume", "3 limits", (*costs).name, `subject: "$NEW" limits {inline {name: "a" capacity: 9 period {seconds: 60}}} limits {inline {name: "b" capacity: 9 period {seconds: 60} algorithm: ALGORITHM_SLIDING_WINDOW}} limits {inline {name: "c" capacity: 9 period {seconds: 60} algorithm: ALGORITHM_FIXED_WINDOW}}`},
	{"Consume", "denied", (*costs).exhausted, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}} cost: 9`},
	{"Consume", "denied again within 1 s", (*costs).denied, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}} cost: 9`},
	{"Consume", "request_id", (*costs).name, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}} request_id: "r"`},
	{"BatchConsume", "2 calls", (*costs).name, `items {subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}} items {subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}}`},
	{"Peek", "", (*costs).exhausted, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}`},
	{"Refund", "", (*costs).exhausted, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}`},
	{"Reserve", "", (*costs).name, `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}`},
	{"Commit", "", (*costs).reserved, `reservation_id: "$RESERVED" cost: 3`},
	{"Cancel", "", (*costs).reserved, `reservation_id: "$RESERVED"`},
	{"Reset", "1 name", (*costs).exhausted, `subject: "$NEW" names: "a"`},
	{"IssueToken", "LINK or CODE", (*costs).name, `subject: "$NEW" purpose: "p" kind: TOKEN_KIND_LINK`},
	{"IssueToken", "LINK or CODE, in the cooldown", (*costs).code, `subject: "$NEW" purpose: "p" kind: TOKEN_KIND_CODE`},
	{"IssueToken", "RECOVERY", (*costs).name, `subject: "$NEW" purpose: "p" kind: TOKEN_KIND_RECOVERY`},
	{"ConsumeToken", "LINK or CODE, accepted", (*costs).code, `token_id: "$TOKEN_ID" code: "$CODE" purpose: "p"`},
	{"ConsumeToken", "LINK or CODE, accepted, with a source", (*costs).code, `token_id: "$TOKEN_ID" code: "$CODE" purpose: "p" source: "$NEW"`},
	{"ConsumeToken", "LINK or CODE, accepted, which ends the sessions of its subject", (*costs).codeOfSession, `token_id: "$TOKEN_ID" code: "$CODE" purpose: "p"`},
	{"ConsumeToken", "LINK or CODE, incorrect", (*costs).code, `token_id: "$TOKEN_ID" code: "wrong" purpose: "p"`},
	{"ConsumeToken", "LINK or CODE, incorrect, with a source", (*costs).code, `token_id: "$TOKEN_ID" code: "wrong" purpose: "p" source: "$NEW"`},
	{"ConsumeToken", "RECOVERY, incorrect", (*costs).code, `subject: "$NEW" code: "wrong" purpose: "p"`},
	{"InspectToken", "", (*costs).code, `token_id: "$TOKEN_ID"`},
	{"ExchangeToken", "accepted", (*costs).code, `token_id: "$TOKEN_ID" code: "$CODE" purpose: "p"`},
	{"RevokeToken", "one", (*costs).code, `token_id: "$TOKEN_ID"`},
	{"RevokeToken", "all of a subject and purpose", (*costs).code, `subject: "$NEW" purpose: "p"`},
	{"InspectSubject", "", (*costs).code, `subject: "$NEW" purpose: "p"`},
	{"ResetSubject", "", (*costs).code, `subject: "$NEW" purpose: "p"`},
	{"ClaimOnce", "", (*costs).name, `scope: "s" id: "$NEW" ttl {seconds: 60}`},
	{"ClaimOnce", "claimed before", (*costs).claimed, `scope: "s" id: "$NEW" ttl {seconds: 60}`},
	{"ClaimCounter", "", (*costs).name, `scope: "s" id: "$NEW" value: 1`},
	{"AcquireLock", "", (*costs).name, `name: "$NEW"`},
	{"AcquireLock", "held by another", (*costs).locked, `name: "$NEW"`},
	{"AcquireLock", "one permit of 10, of which 1 is held", (*costs).locked, `name: "$NEW" permits: 10`},
	{"RenewLock", "", (*costs).locked, `name: "$NEW" lock_token: "$LOCK"`},
	{"ReleaseLock", "", (*costs).locked, `name: "$NEW" lock_token: "$LOCK"`},
	{"GetLock", "", (*costs).locked, `name: "$NEW"`},
	{"ListLocks", "1 lock", (*costs).onlyLocked, ``},
	{"ForceReleaseLock", "", (*costs).locked, `name: "$NEW"`},
	{"HoldLock", "free, and ended before the first renewal", (*costs).name, `name: "$NEW"`},
	{"WatchLock", "held by another", (*costs).locked, `name: "$NEW"`},
	{"Set", "under a fence", (*costs).fenced, `key: "k" value: "v" fence {lock_name: "$NEW" fencing_token: $FENCE}`},
	{"Delete", "under a fence", (*costs).fenced, `key: "k" fence {lock_name: "$NEW" fencing_token: $FENCE}`},
}

func (c *costs) do(rpc, request string) {
	c.t.Helper()
	request = strings.NewReplacer(
		"$NEW", c.new(), "$HELD", c.lease, "$RESERVED", c.reservation, "$TOKEN_ID", c.token.GetTokenId(), "$CODE", c.token.GetCode(),
		"$LOCK", c.grant.GetLockToken(), "$FENCE", fmt.Sprint(c.grant.GetFencingToken()),
	).Replace(request)
	m, req := parse(c.t, rpc, request, c.session)
	if rpc == "HoldLock" {
		c.hold(req.(*lockv1.HoldLockRequest))
		return
	}
	if _, err := c.call(c.t.Context(), c.t, m, req); err != nil {
		c.t.Fatalf("%s %s = %v, want nil", rpc, request, err)
	}
}

// hold holds a lock until the server has looked at it, and ends the call.
func (c *costs) hold(req *lockv1.HoldLockRequest) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	before := c.trips()
	stream, err := c.lock.HoldLock(ctx, req)
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		c.t.Fatalf("HoldLock = %v, want nil", err)
	}
	eventually(c.t, "acquired and read", func() bool { return c.trips() == before+2 })
	cancel()
	eventually(c.t, "released", func() bool { return c.trips() == before+3 })
}

// trips is how often the store has waited for Redis, beside what it does by itself.
func (c *costs) trips() (n uint64) {
	c.t.Helper()
	families, err := c.metrics.registry.Gather()
	if err != nil {
		c.t.Fatalf("Gather = %v, want nil", err)
	}
	for _, family := range families {
		if family.GetName() != "larder_redis_command_duration_seconds" {
			continue
		}
		for _, m := range family.Metric {
			if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return byItself(l.GetValue()) }) {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

// kept repeats a call until the near cache answers it.
func (c *costs) kept(rpc, request string) {
	c.t.Helper()
	eventually(c.t, "near-cached", func() bool {
		before := c.trips()
		c.do(rpc, request)
		return c.trips() == before
	})
}

func (c *costs) new() string { return fmt.Sprint("new-", c.fresh) }

func (c *costs) name()    { c.fresh++ }
func (c *costs) set()     { c.do("Set", `key: "k" value: "v"`) }
func (c *costs) held()    { c.set(); c.kept("Get", `key: "k"`) }
func (c *costs) none()    { c.do("Delete", `key: "k"`); c.kept("Get", `key: "k"`) }
func (c *costs) counter() { c.do("Increment", `key: "n"`) }
func (c *costs) three()   { c.do("BatchSet", `items {key: "a"} items {key: "b"} items {key: "c"}`) }
func (c *costs) tagged()  { c.name(); c.do("Set", `key: "k" value: "v" tags: "$NEW"`) }
func (c *costs) plain()   { c.name(); c.redis.Do(c.t, "SET", "ld:c:{default:"+c.new()+"}", "v") }

func (c *costs) locked() {
	c.name()
	c.grant = c.acquire(c.t, &lockv1.AcquireLockRequest{Name: c.new(), Owner: "host-1"})
}

func (c *costs) onlyLocked() {
	c.redis.Do(c.t, "FLUSHALL")
	c.locked()
}

func (c *costs) fenced() {
	c.locked()
	c.held()
}

func (c *costs) onlyThree() {
	c.redis.Do(c.t, "FLUSHALL")
	c.three()
	c.kept("Get", `key: "a"`)
}

func (c *costs) leased() {
	c.none()
	r := must[*cachev1.GetOrLeaseResponse](c.t)(c.cache.GetOrLease(c.t.Context(), &cachev1.GetOrLeaseRequest{Key: "k"}))
	c.lease = r.LeaseToken
	c.kept("Get", `key: "k"`)
}

func (c *costs) signIn() {
	c.name()
	c.session = c.create(c.t, &sessionv1.CreateSessionRequest{Subject: c.new()})
}

func (c *costs) code() {
	c.name()
	c.issue(false)
}

func (c *costs) issue(revokes bool) {
	req := &tokenv1.IssueTokenRequest{Subject: c.new(), Purpose: "p", Kind: tokenv1.TokenKind_TOKEN_KIND_CODE}
	if revokes {
		req.OnSuccess = tokenv1.OnSuccess_ON_SUCCESS_REVOKE_SUBJECT_SESSIONS
	}
	c.token = must[*tokenv1.IssueTokenResponse](c.t)(c.tokens.IssueToken(c.t.Context(), req))
}

func (c *costs) codeOfSession() { c.signIn(); c.issue(true) }

func (c *costs) claimed() {
	c.name()
	c.do("ClaimOnce", `scope: "s" id: "$NEW" ttl {seconds: 60}`)
}

func (c *costs) anonymous() {
	c.name()
	c.session = c.create(c.t, &sessionv1.CreateSessionRequest{Attributes: map[string]string{"a": "b"}})
}

func (c *costs) validated() {
	c.signIn()
	c.kept("ValidateSession", `session_token: "$TOKEN"`)
}

// byItself says whether a command keeps connections and the clock, whatever calls are made.
func byItself(name string) bool {
	container, _, _ := strings.Cut(name, "|")
	return slices.Contains([]string{"ping", "time", "role", "info", "hello", "auth", "echo", "monitor", "client", "config", "cluster"}, container)
}

// weigh makes a call and returns a row of the table.
func (c *costs) weigh(rpc, when, request string) string {
	c.t.Helper()
	c.redis.ResetCommandCalls(c.t)
	monitor := c.redis.StartMonitor(c.t)
	trips := c.trips()
	c.do(rpc, request)
	trips = c.trips() - trips
	sent, scripted := monitor.Stop(c.t)
	total := c.redis.CommandCalls(c.t)

	maps.DeleteFunc(sent, func(name string, _ int64) bool { return byItself(name) })
	both := maps.Clone(sent)
	for name, n := range scripted {
		both[name] += n
	}
	for name, n := range total {
		if !byItself(name) && both[name] != n {
			c.t.Errorf("%s, %s: calls of %s = %d by INFO commandstats, want %d as in MONITOR", rpc, when, name, n, both[name])
		}
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %s |\n", rpc, when, trips, counts(sent), counts(scripted))
}

func counts(calls map[string]int64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		part := strings.ReplaceAll(name, "|", `\|`) // else it would end the cell
		if n := calls[name]; n > 1 {
			part = fmt.Sprintf("%d %s", n, part)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// `go test ./service -run Docs -update` writes the table.
func TestDocsTellWhatEachCallCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	a := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, CommandTimeout: 10 * time.Second, NearCacheTTL: time.Hour}}, policy.Limits{})
	a.redis, a.addr = server, server.Addr
	a.stopProbes() // which read and run scripts as calls do
	c := &costs{api: a, t: t}
	c.signIn()
	watch := must[interface {
		Recv() (*cachev1.WatchResponse, error)
	}](t)
	_ = must[*cachev1.WatchResponse](t)(watch(a.cache.Watch(t.Context(), &cachev1.WatchRequest{})).Recv())

	covered := map[string]bool{}
	for _, cc := range costCases { // teaches Redis the scripts
		covered[cc.rpc] = true
		if cc.prepare != nil {
			cc.prepare(c)
		}
		c.do(cc.rpc, cc.request)
	}
	for _, m := range methods() {
		if !covered[string(m.Name())] {
			t.Errorf("costCases has no case of %s, want at least one", m.Name())
		}
	}
	var table strings.Builder
	table.WriteString("\n| Call | When | Round trips | Commands | Called by scripts |\n|---|---|---|---|---|\n")
	for _, cc := range costCases {
		if cc.prepare != nil {
			cc.prepare(c)
		}
		table.WriteString(c.weigh(cc.rpc, cc.when, cc.request))
	}
	table.WriteString("\n")
	checkBlock(t, "costs", table.String())
}
