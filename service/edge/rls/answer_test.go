package rls

import (
	"math"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

const answering = `
domain: d
descriptors:
  - {key: ten, rate_limit: {name: ten-a-minute, unit: minute, requests_per_unit: 10}, metadata: {who: ten, deep: {a: 1}}}
  - {key: five, rate_limit: {unit: hour, requests_per_unit: 5}, metadata: {who: five, deep: {a: 2, b: 3}}}
  - {key: none, rate_limit: {unit: hour, requests_per_unit: 0}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: shadow, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 5}}
  - {key: quota, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 5}}
  - {key: named, rate_limit: {name: n, unit: hour, requests_per_unit: 5}}
  - {key: replaces, rate_limit: {unit: hour, requests_per_unit: 7, replaces: [{name: n}, {name: missing}]}}
  - {key: frees, rate_limit: {unlimited: true, replaces: [{name: n}]}}
`

const (
	ok   = envoy.RateLimitResponse_OK
	over = envoy.RateLimitResponse_OVER_LIMIT
)

// A counter is a model of the engine for rules of one window: all or nothing.
type counter struct{ used map[string]uint64 }

func (c *counter) consume(p *Plan, all bool) []Result {
	results := make([]Result, len(p.Charges))
	denied := false
	for i, charge := range p.Charges {
		used := c.used[charge.Subject]
		if charge.Refund {
			c.used[charge.Subject] -= min(charge.Hits, used)
			results[i] = Result{Charged: true, Used: c.used[charge.Subject]}
			continue
		}
		results[i] = Result{Used: used, Over: used+charge.Hits > charge.Rule.Capacity()}
		denied = denied || results[i].Over && charge.Enforced
	}
	for i, charge := range p.Charges {
		if !charge.Refund && (all || !denied && !results[i].Over) {
			results[i].Charged = true
			c.used[charge.Subject] += charge.Hits
		}
	}
	return results
}

// A server answers requests by a configuration and a model of the engine.
type server struct {
	config  *Config
	options Options
	stats   Stats
	counter counter
}

func serve(t testing.TB, text string, o Options) *server {
	t.Helper()
	s := &server{config: load(t, text), options: o, counter: counter{map[string]uint64{}}}
	s.stats.Adopt(s.config)
	return s
}

// noon is a time 30 s after the beginning of a minute, an hour and a day.
var noon = time.Date(2026, 11, 25, 0, 0, 30, 400e6, time.UTC)

func (s *server) ask(t testing.TB, r *envoy.RateLimitRequest) *envoy.RateLimitResponse {
	t.Helper()
	p, err := s.config.Plan(r, &s.options)
	if err != nil {
		t.Fatalf("Plan(%v) = %v, want nil", r, err)
	}
	answer, denied := p.Answer(s.counter.consume(p, s.options.ChargeAll), noon, &s.stats)
	if denied != (answer.GetOverallCode() == over) {
		t.Errorf("Answer says denied: %t, and the overall code is %v", denied, answer.GetOverallCode())
	}
	return answer
}

// codes are the overall code of an answer and those of its statuses.
func codes(a *envoy.RateLimitResponse) []envoy.RateLimitResponse_Code {
	all := []envoy.RateLimitResponse_Code{a.GetOverallCode()}
	for _, s := range a.GetStatuses() {
		all = append(all, s.GetCode())
	}
	return all
}

func TestAnswerOfOneDescriptor(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	limit := &envoy.RateLimitResponse_RateLimit{Name: "ten-a-minute", RequestsPerUnit: 10, Unit: envoy.RateLimitResponse_RateLimit_MINUTE}
	for i := range 10 {
		want := &envoy.RateLimitResponse{OverallCode: ok, Statuses: []*envoy.RateLimitResponse_DescriptorStatus{
			{Code: ok, CurrentLimit: limit, LimitRemaining: uint32(9 - i), DurationUntilReset: &durationpb.Duration{Seconds: 30}},
		}}
		if got := s.ask(t, request("d", descriptor("ten=a"))); !proto.Equal(got, want) {
			t.Fatalf("answer %d = %v, want %v", i+1, got, want)
		}
	}
	want := &envoy.RateLimitResponse{OverallCode: over, Statuses: []*envoy.RateLimitResponse_DescriptorStatus{
		{Code: over, CurrentLimit: limit, DurationUntilReset: &durationpb.Duration{Seconds: 30}},
	}}
	if got := s.ask(t, request("d", descriptor("ten=a"))); !proto.Equal(got, want) {
		t.Errorf("answer 11 = %v, want %v", got, want)
	}
	if got := s.ask(t, request("d", descriptor("ten=b"))); got.GetOverallCode() != ok {
		t.Errorf("answer for another value = %v, want OK", got)
	}
}

// Without a rule, or of a domain without rules, a request passes, and nothing is counted.
func TestRequestsWithoutRulesPass(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	want := &envoy.RateLimitResponse{OverallCode: ok, Statuses: []*envoy.RateLimitResponse_DescriptorStatus{{Code: ok}, {Code: ok}}}
	for _, domain := range []string{"d", "elsewhere"} {
		r := request(domain, descriptor("unknown=a"), descriptor("ten=a", "more=b"))
		if got := s.ask(t, r); !proto.Equal(got, want) {
			t.Errorf("answer in %s = %v, want %v", domain, got, want)
		}
		p, err := s.config.Plan(r, &s.options)
		if err != nil || len(p.Charges) > 0 || p.UnknownDomain != (domain != "d") {
			t.Errorf("Plan in %s = %+v, %v, want no charges", domain, p, err)
		}
	}
}

func TestInvalidRequests(t *testing.T) {
	t.Parallel()
	c := load(t, answering)
	for want, r := range map[string]*envoy.RateLimitRequest{
		"domain: must not be empty":                         request("", descriptor("ten=a")),
		"descriptors: must have 1 to 64 items":              request("d"),
		"descriptors[1].limit.unit: must be a defined unit": request("d", descriptor("ten=a"), &common.RateLimitDescriptor{Limit: &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1}}),
	} {
		if _, err := c.Plan(r, new(Options)); err == nil || err.Error() != want {
			t.Errorf("Plan = %v, want %s", err, want)
		}
	}
	if _, err := c.Plan(request("d", make([]*common.RateLimitDescriptor, 65)...), new(Options)); err == nil {
		t.Error("Plan of 65 descriptors = nil, want an error")
	}
}

func TestUnlimitedRules(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	want := &envoy.RateLimitResponse{OverallCode: ok, Statuses: []*envoy.RateLimitResponse_DescriptorStatus{{Code: ok, LimitRemaining: math.MaxUint32}}}
	if got := s.ask(t, request("d", descriptor("free=a"))); !proto.Equal(got, want) || len(s.counter.used) > 0 {
		t.Errorf("answer = %v, %d counters, want %v and none", got, len(s.counter.used), want)
	}
}

func TestReplacedRulesAreNotCounted(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"replaces=a", "frees=a"} {
		s := serve(t, answering, Options{})
		for range 6 {
			got := s.ask(t, request("d", descriptor("named=a"), descriptor(by)))
			if got.GetOverallCode() != ok || !proto.Equal(got.GetStatuses()[0], &envoy.RateLimitResponse_DescriptorStatus{Code: ok}) {
				t.Fatalf("answer with %s = %v, want OK and no limit for the replaced rule", by, got)
			}
		}
		if got := s.ask(t, request("d", descriptor("named=a"))); got.GetStatuses()[0].GetLimitRemaining() != 4 {
			t.Errorf("answer of the rule alone = %v, want 4 remaining", got)
		}
	}
}

func TestShadowMode(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	got := s.ask(t, request("d", hits(descriptor("shadow=a"), 6)))
	if status := got.GetStatuses()[0]; got.GetOverallCode() != ok || status.GetCode() != ok || status.GetLimitRemaining() != 0 || status.GetCurrentLimit() == nil {
		t.Errorf("answer of a rule in shadow mode = %v, want OK with nothing remaining", got)
	}
	if got := s.ask(t, request("d", hits(descriptor("shadow=a"), 6), descriptor("five=a"))); got.GetStatuses()[1].GetLimitRemaining() != 4 {
		t.Errorf("answer of another rule beside it = %v, want it counted", got)
	}
	s = serve(t, answering, Options{Shadow: true})
	if got := s.ask(t, request("d", descriptor("none=a"), descriptor("five=a"))); got.GetStatuses()[1].GetLimitRemaining() != 4 {
		t.Errorf("answer beside a rule over its limit in global shadow mode = %v, want it counted", got)
	}
	s = serve(t, answering, Options{Shadow: true})
	got = s.ask(t, request("d", descriptor("none=a")))
	if diff := cmp.Diff([]envoy.RateLimitResponse_Code{ok, over}, codes(got)); diff != "" || s.stats.GlobalShadow() != 1 {
		t.Errorf("codes in global shadow mode (-want +got):\n%s\n%d requests counted, want 1", diff, s.stats.GlobalShadow())
	}
}

// A request is over its quotas only if it is over all of them.
func TestQuotaMode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		options Options
		request *envoy.RateLimitRequest
		want    []envoy.RateLimitResponse_Code
	}{
		{"one of two", Options{}, request("d", hits(descriptor("quota=a"), 6), descriptor("quota=b")), []envoy.RateLimitResponse_Code{ok, over, ok}},
		{"both", Options{}, request("d", hits(descriptor("quota=a"), 6), hits(descriptor("quota=b"), 6)), []envoy.RateLimitResponse_Code{over, over, over}},
		{"the only one", Options{}, request("d", hits(descriptor("quota=a"), 6), descriptor("ten=a")), []envoy.RateLimitResponse_Code{over, over, ok}},
		{"another rule", Options{}, request("d", descriptor("quota=a"), descriptor("none=a")), []envoy.RateLimitResponse_Code{over, ok, over}},
		{"global", Options{Quota: true}, request("d", descriptor("none=a"), descriptor("five=a")), []envoy.RateLimitResponse_Code{ok, over, ok}},
		{"global, all", Options{Quota: true}, request("d", descriptor("none=a"), hits(descriptor("five=a"), 6)), []envoy.RateLimitResponse_Code{over, over, over}},
		{"global, without a rule", Options{Quota: true}, request("d", descriptor("none=a"), descriptor("unknown=a")), []envoy.RateLimitResponse_Code{ok, over, ok}},
	} {
		if diff := cmp.Diff(tt.want, codes(serve(t, answering, tt.options).ask(t, tt.request))); diff != "" {
			t.Errorf("%s: codes (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestHits(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	left := func(r *envoy.RateLimitRequest) uint32 {
		t.Helper()
		return s.ask(t, r).GetStatuses()[0].GetLimitRemaining()
	}
	if got := left(request("d", descriptor("ten=a"))); got != 9 {
		t.Errorf("remaining after a request without hits_addend = %d, want 9", got)
	}
	r := request("d", descriptor("ten=a"))
	r.HitsAddend = 3
	if got := left(r); got != 6 {
		t.Errorf("remaining after a hits_addend of 3 = %d, want 6", got)
	}
	r = request("d", hits(descriptor("ten=a"), 2))
	r.HitsAddend = 5
	if got := left(r); got != 4 {
		t.Errorf("remaining after a hits_addend of 2 for the descriptor = %d, want 4", got)
	}
	if got := left(request("d", hits(descriptor("ten=a"), 0))); got != 4 {
		t.Errorf("remaining after a hits_addend of 0 for the descriptor = %d, want 4", got)
	}
	d := hits(descriptor("ten=a"), 5)
	d.IsNegativeHits = true
	if got := left(request("d", d)); got != 9 {
		t.Errorf("remaining after 5 negative hits = %d, want 9", got)
	}
	if got := left(request("d", d)); got != 10 {
		t.Errorf("remaining after 5 more negative hits = %d, want the whole limit", got)
	}
	if got := s.ask(t, request("d", hits(descriptor("ten=a"), math.MaxUint64))); got.GetOverallCode() != over {
		t.Errorf("answer to 2^64-1 hits = %v, want OVER_LIMIT", got)
	}
	if got := s.ask(t, request("d", descriptor("ten=b"), descriptor("ten=b"))); got.GetStatuses()[1].GetLimitRemaining() != 8 {
		t.Errorf("answer to a descriptor that is there twice = %v, want two hits counted", got)
	}
}

// A request that is denied is counted nowhere; with ChargeAll, everywhere.
func TestDeniedRequestsCountNothing(t *testing.T) {
	t.Parallel()
	r := request("d", descriptor("five=a"), descriptor("none=a"))
	for all, want := range map[bool]uint32{false: 5, true: 3} {
		s := serve(t, answering, Options{ChargeAll: all})
		s.ask(t, r)
		if got := s.ask(t, r).GetStatuses()[0]; got.GetCode() != ok || got.GetLimitRemaining() != want {
			t.Errorf("status of the other descriptor (ChargeAll %t) = %v, want OK with %d remaining", all, got, want)
		}
	}
}

func TestLimitOfTheRequest(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	d := descriptor("shadow=a")
	d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 2, Unit: typev3.RateLimitUnit_DAY}
	for i, want := range []envoy.RateLimitResponse_Code{ok, ok, over} { // never in shadow mode
		got := s.ask(t, request("d", d))
		limit := &envoy.RateLimitResponse_RateLimit{RequestsPerUnit: 2, Unit: envoy.RateLimitResponse_RateLimit_DAY}
		if got.GetOverallCode() != want || !proto.Equal(got.GetStatuses()[0].GetCurrentLimit(), limit) {
			t.Errorf("answer %d = %v, want %v of 2 a day", i+1, got, want)
		}
	}
	if got := s.ask(t, request("elsewhere", d)); got.GetStatuses()[0].GetCurrentLimit() != nil {
		t.Errorf("answer of an unknown domain = %v, want no limit", got)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	names := HeaderNames{"RateLimit-Limit", "RateLimit-Remaining", "x-reset"}
	for _, tt := range []struct {
		name string
		r    *envoy.RateLimitRequest
		want []string // limit, remaining, reset
	}{
		{"the least remaining", request("d", descriptor("ten=a"), descriptor("five=a")), []string{"5", "4", "3570"}},
		{"a rule over its limit", request("d", descriptor("none=a"), descriptor("five=a")), []string{"0", "0", "3570"}},
		{"the last rule over its limit", request("d", hits(descriptor("ten=a"), 11), hits(descriptor("five=a"), 6)), []string{"5", "0", "3570"}},
		{"a rule over its limit before a quota", request("d", hits(descriptor("ten=a"), 11), hits(descriptor("quota=a"), 6)), []string{"10", "0", "30"}},
		{"no rule", request("d", descriptor("unknown=a"), descriptor("free=a")), nil},
	} {
		answer := serve(t, answering, Options{Headers: true, HeaderNames: names}).ask(t, tt.r)
		var got []string
		for i, h := range answer.GetResponseHeadersToAdd() {
			if h.GetKey() != []string{names.Limit, names.Remaining, names.Reset}[i] {
				t.Errorf("%s: header %d = %s, want the settings' names", tt.name, i, h.GetKey())
			}
			got = append(got, h.GetValue())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", tt.name, diff)
		}
	}
	if got := serve(t, answering, Options{}).ask(t, request("d", descriptor("ten=a"))).GetResponseHeadersToAdd(); got != nil {
		t.Errorf("headers = %v, want none unless they are turned on", got)
	}
}

func TestDynamicMetadata(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{DynamicMetadata: true})
	limited := hits(descriptor("unknown=x", "b=y"), 4)
	limited.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_HOUR}
	r := request("d", descriptor("ten=a"), descriptor("five=a"), limited)
	r.HitsAddend = 2
	want := new(structpb.Struct)
	err := protojson.Unmarshal([]byte(`{
		"domain": "d", "hitsAddend": 2,
		"descriptors": [
			{"entries": ["ten=a"]},
			{"entries": ["five=a"]},
			{"entries": ["unknown=x", "b=y"], "limit": "requests_per_unit:1 unit:HOUR", "hitsAddend": 4}
		],
		"metadata": {"who": "ten", "deep": {"a": 1, "b": 3}}
	}`), want)
	if err != nil {
		t.Fatalf("Unmarshal: %v", err)
	}
	for range 2 { // merging changes no rule
		if got := s.ask(t, r).GetDynamicMetadata(); !proto.Equal(got, want) {
			t.Errorf("metadata = %v, want %v", got, want)
		}
	}
	got := s.ask(t, request("d", hits(descriptor("five=b"), 6))).GetDynamicMetadata()
	if got.GetFields()["metadata"] != nil {
		t.Errorf("metadata of a rule over its limit = %v, want none", got)
	}
}

// What Redis does not answer is answered by the failure policy.
func TestAnswerWithoutRedis(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	p, err := s.config.Plan(request("d", descriptor("five=a"), descriptor("ten=a")), &s.options)
	if err != nil {
		t.Fatalf("Plan = %v, want nil", err)
	}
	got, _ := p.Answer([]Result{{Degraded: true}, {Degraded: true, Over: true}}, noon, &s.stats)
	if diff := cmp.Diff([]envoy.RateLimitResponse_Code{over, ok, over}, codes(got)); diff != "" {
		t.Errorf("codes of fail open and fail closed (-want +got):\n%s", diff)
	}
	if status := got.GetStatuses()[0]; status.GetLimitRemaining() != 4 || status.GetDurationUntilReset().GetSeconds() != 3570 {
		t.Errorf("status of fail open = %v, want 4 of 5 remaining and the end of the hour", status)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := serve(t, answering, Options{})
	stats := func() map[string]uint64 {
		got := map[string]uint64{}
		s.stats.Each(func(domain, path string, o Outcome, hits uint64) {
			if domain != "d" {
				t.Errorf("domain of %s = %s, want d", path, domain)
			}
			got[path+" "+o.String()] = hits
		})
		return got
	}
	s.ask(t, request("d", hits(descriptor("ten=a"), 7))) // 7 of 10, near from 8 on
	s.ask(t, request("d", hits(descriptor("ten=a"), 2))) // 9: one of them near
	s.ask(t, request("d", hits(descriptor("ten=a"), 3))) // would be 12: one more near, two over
	s.ask(t, request("d", descriptor("ten=a")))          // 10: near
	s.ask(t, request("d", descriptor("ten=a")))          // over
	s.ask(t, request("d", hits(descriptor("shadow=a"), 6)))
	s.ask(t, request("d", descriptor("free=a")))
	s.ask(t, request("d", descriptor("five=a"), descriptor("none=a")))
	want := map[string]uint64{
		"d.ten total": 14, "d.ten within_limit": 10, "d.ten near_limit": 3, "d.ten over_limit": 3,
		"d.shadow total": 6, "d.shadow over_limit": 1, "d.shadow near_limit": 1, "d.shadow shadow_mode": 6,
		"d.free total": 1, "d.free within_limit": 1,
		"d.five total": 1, "d.five not_charged": 1, "d.none total": 1, "d.none over_limit": 1,
	}
	if diff := cmp.Diff(want, stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}

	// Counts outlast a change of the configuration, as far as their rules do.
	s.config = load(t, "domain: d\ndescriptors: [{key: ten, rate_limit: {unit: day, requests_per_unit: 100}}]\n")
	s.stats.Adopt(s.config)
	d := descriptor("secret=value")
	d.Limit = &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_DAY}
	s.ask(t, request("d", d, descriptor("ten=z")))
	want = map[string]uint64{
		"d.ten total": 15, "d.ten within_limit": 11, "d.ten near_limit": 3, "d.ten over_limit": 3,
		"d.<override> total": 1, "d.<override> within_limit": 1, "d.<override> near_limit": 1,
	}
	if diff := cmp.Diff(want, stats()); diff != "" {
		t.Errorf("stats after a change (-want +got):\n%s", diff)
	}
}

// Every request that can be sent is refused or answered, with a status for each descriptor.
func FuzzPlan(f *testing.F) {
	for _, r := range []*envoy.RateLimitRequest{
		request("d", descriptor("ten=a"), hits(descriptor("quota=a"), 3)), request("", descriptor()), request("d", descriptor("replaces=a"), descriptor("named=b")),
	} {
		text, err := proto.Marshal(r)
		if err != nil {
			f.Fatalf("Marshal: %v", err)
		}
		f.Add(text, uint8(0))
	}
	f.Fuzz(func(t *testing.T, text []byte, options uint8) {
		r, strict := new(envoy.RateLimitRequest), new(envoy.RateLimitRequest)
		unread := Unmarshal(text, r)
		if err := proto.Unmarshal(text, strict); err == nil && (unread != nil || !proto.Equal(r, strict)) {
			t.Fatalf("Unmarshal = %v, %v, want %v", r, unread, strict)
		}
		if unread != nil {
			return
		}
		s := serve(t, answering, Options{
			Shadow: options&1 != 0, Quota: options&2 != 0, ChargeAll: options&4 != 0, Headers: options&8 != 0, DynamicMetadata: options&16 != 0,
		})
		for range 3 {
			p, err := s.config.Plan(r, &s.options)
			if err != nil {
				return
			}
			for _, c := range p.Charges {
				if c.Rule.Period <= 0 || c.Hits > maxHits {
					t.Fatalf("charge = %+v, want a period, and hits up to %d", c, uint64(maxHits))
				}
			}
			answer, denied := p.Answer(s.counter.consume(p, s.options.ChargeAll), noon, &s.stats)
			if len(answer.GetStatuses()) != len(r.GetDescriptors()) || denied != (answer.GetOverallCode() == over) {
				t.Fatalf("answer to %v = %v, want a status for each descriptor", r, answer)
			}
		}
	})
}
