package service

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// under puts a policy in force.
func (a *api) under(t testing.TB, p *policy.Policy) {
	t.Helper()
	if err := a.SetPolicy(p); err != nil {
		t.Fatalf("SetPolicy = %v, want nil", err)
	}
}

// cachePolicy is one namespace's.
func cachePolicy(ns string, p policy.Cache) *policy.Policy {
	return &policy.Policy{Cache: policy.Section[policy.Cache]{Namespaces: map[string]policy.Cache{ns: p}}}
}

func TestPolicyDefaultTTL(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	p := cachePolicy("own", policy.Cache{DefaultTTL: new(20 * time.Minute)})
	p.Cache.Defaults.DefaultTTL = new(40 * time.Minute)
	a.under(t, p)
	for ns, want := range map[string]time.Duration{"own": 20 * time.Minute, "other": 40 * time.Minute} {
		a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "set"})
		must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Namespace: ns, Items: []*cachev1.BatchSetItem{{Key: "batch"}}}))
		leased := a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "filled"}, leaseMiss, true)
		must[*cachev1.FillResponse](t)(a.cache.Fill(t.Context(), &cachev1.FillRequest{Namespace: ns, Key: "filled", LeaseToken: leased.LeaseToken}))
		a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "touched", Expiry: setTTL(time.Second * 90)})
		must[*cachev1.TouchResponse](t)(a.cache.Touch(t.Context(), &cachev1.TouchRequest{Namespace: ns, Key: "touched"}))
		for _, key := range []string{"set", "batch", "filled", "touched"} {
			remains(t, ns+" "+key, &a.get(t, &cachev1.GetRequest{Namespace: ns, Key: key}).Ttl, want)
		}
		counted := must[*cachev1.IncrementResponse](t)(a.cache.Increment(t.Context(), &cachev1.IncrementRequest{Namespace: ns, Key: "counter"}))
		remains(t, ns+" counter", &counted.Ttl, want)
	}
}

func TestPolicyMaxTTL(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, cachePolicy("short", policy.Cache{MaxTTL: new(time.Minute)}))
	most, more := durationpb.New(time.Minute), durationpb.New(time.Minute+1)
	for _, test := range []struct {
		req   proto.Message
		rpc   string
		field string // empty: it is good
	}{
		{&cachev1.SetRequest{Namespace: "short", Key: "k", Expiry: &cachev1.SetRequest_Ttl{Ttl: most}}, "Set", ""},
		{&cachev1.SetRequest{Namespace: "short", Key: "k", Expiry: &cachev1.SetRequest_Ttl{Ttl: more}}, "Set", "ttl"},
		{&cachev1.SetRequest{Namespace: "long", Key: "k", Expiry: &cachev1.SetRequest_Ttl{Ttl: more}}, "Set", ""},
		{&cachev1.SetRequest{Namespace: "short", Key: "k", Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(2 * time.Minute))}}, "Set", "expire_time"},
		{&cachev1.SetRequest{Namespace: "short", Key: "k", Expiry: setTTL(30 * time.Second), StaleTtl: durationpb.New(30*time.Second + 1)}, "Set", "stale_ttl"},
		{&cachev1.SetRequest{Namespace: "short", Key: "k", Expiry: &cachev1.SetRequest_Never{Never: true}}, "Set", ""},
		{&cachev1.BatchSetRequest{Namespace: "short", Items: []*cachev1.BatchSetItem{{Key: "k", Expiry: &cachev1.BatchSetItem_Ttl{Ttl: more}}}}, "BatchSet", "items[0].ttl"},
		{&cachev1.TouchRequest{Namespace: "short", Key: "k", Expiry: &cachev1.TouchRequest_Ttl{Ttl: more}}, "Touch", "ttl"},
		{&cachev1.IncrementRequest{Namespace: "short", Key: "n", Expiry: &cachev1.IncrementRequest_Ttl{Ttl: more}}, "Increment", "ttl"},
		{&cachev1.IncrementRequest{Namespace: "short", Key: "n", Expiry: &cachev1.IncrementRequest_Ttl{Ttl: most}}, "Increment", ""},
	} {
		_, err := a.call(t.Context(), t, methodOf(t, test.rpc), test.req)
		switch {
		case test.field != "":
			wantInvalid(t, test.req, err, test.field)
		case err != nil:
			t.Errorf("%v = %v, want nil", test.req, err)
		}
	}
	// The default of the settings, 1 h, is cut to fit.
	a.set(t, &cachev1.SetRequest{Namespace: "short", Key: "default"})
	remains(t, "ttl", &a.get(t, &cachev1.GetRequest{Namespace: "short", Key: "default"}).Ttl, time.Minute)
}

// Jitter only takes away, a different part each time, and what is kept after the ttl stays as long as it was.
func TestPolicyJitter(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	half := policy.Percent(50)
	a.under(t, cachePolicy("jitter", policy.Cache{Jitter: &half, DefaultTTL: new(2 * time.Hour)}))
	const n, ttl, stale = 200, 2 * time.Hour, 30 * time.Minute
	items := make([]*cachev1.BatchSetItem, n)
	keys := make([]string, n)
	for i := range items {
		keys[i] = string(rune('a'+i%26)) + string(rune('a'+i/26))
		items[i] = &cachev1.BatchSetItem{Key: keys[i], StaleTtl: durationpb.New(stale)}
		if i%2 == 0 {
			items[i].Expiry = &cachev1.BatchSetItem_Ttl{Ttl: durationpb.New(ttl)}
		}
	}
	must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Namespace: "jitter", Items: items}))
	got := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: "jitter", Keys: keys}))
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	for _, r := range got.Results {
		left := r.Ttl.AsDuration()
		if least, most = min(least, left), max(most, left); r.StaleTtl.AsDuration() != stale {
			t.Errorf("stale_ttl = %v, want %v", r.StaleTtl.AsDuration(), stale)
		}
	}
	// The chance that none of 200 is in the first tenth, or in the last, is below 1e-9.
	if most > ttl || most < ttl*9/10 || least < ttl/2-time.Minute || least > ttl*6/10 {
		t.Errorf("ttls = %v to %v, want them spread from about %v to %v", least, most, ttl/2, ttl)
	}

	all := policy.Percent(100)
	a.under(t, cachePolicy("jitter", policy.Cache{Jitter: &all}))
	in := time.Now().Add(time.Hour)
	a.set(t, &cachev1.SetRequest{Namespace: "jitter", Key: "k", Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(in)}})
	remains(t, "ttl of an expire_time", &a.get(t, &cachev1.GetRequest{Namespace: "jitter", Key: "k"}).Ttl, time.Hour)
	a.set(t, &cachev1.SetRequest{Namespace: "jitter", Key: "k", Expiry: &cachev1.SetRequest_Never{Never: true}})
	if got := a.get(t, &cachev1.GetRequest{Namespace: "jitter", Key: "k"}); got.Outcome != cachev1.GetOutcome_GET_OUTCOME_HIT || got.Ttl != nil {
		t.Errorf("Get of an entry that never expires = %v, want a HIT without ttl", got)
	}
	counted := must[*cachev1.IncrementResponse](t)(a.cache.Increment(t.Context(), &cachev1.IncrementRequest{Namespace: "jitter", Key: "n"}))
	remains(t, "ttl of a counter", &counted.Ttl, time.Hour)
	for range 50 { // nothing is as short as to be no ttl at all
		a.set(t, &cachev1.SetRequest{Namespace: "jitter", Key: "k", Expiry: setTTL(time.Millisecond)})
	}
}

func TestPolicyMaxValueBytes(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{MaxValueBytes: 100})
	a.under(t, cachePolicy("small", policy.Cache{MaxValueBytes: new(10)}))
	a.set(t, &cachev1.SetRequest{Namespace: "small", Key: "k", Value: make([]byte, 10)})
	a.set(t, &cachev1.SetRequest{Namespace: "other", Key: "k", Value: make([]byte, 100)})
	for ns, n := range map[string]int{"small": 11, "other": 101} {
		r := &cachev1.SetRequest{Namespace: ns, Key: "k", Value: make([]byte, n)}
		_, err := a.cache.Set(t.Context(), r)
		wantInvalid(t, r, err, "value")
	}
}

// Without a near cache every answer comes from Redis, although reads elsewhere are answered from memory.
func TestPolicyNearCache(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, cachePolicy("off", policy.Cache{NearCache: new(false)}))
	for ns, want := range map[string]cachev1.Source{"off": cachev1.Source_SOURCE_REDIS, "on": cachev1.Source_SOURCE_NEAR_CACHE} {
		a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "k", Value: []byte("v")})
		var get, leased cachev1.Source
		var batch *cachev1.BatchGetResult
		for range 3 { // the first brings it into memory
			get = a.get(t, &cachev1.GetRequest{Namespace: ns, Key: "k"}).Source
			leased = a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "k", Beta: proto.Float64(0)}, leaseHit, false).Source
			batch = must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: ns, Keys: []string{"k"}})).Results[0]
		}
		if get != want || leased != want || batch.Source != want {
			t.Errorf("%s: source of Get = %v, of GetOrLease = %v, of BatchGet = %v, want %v", ns, get, leased, batch.Source, want)
		}
	}
}

// Who waits for a load in a namespace without near cache is woken by it, by whatever way the value comes.
func TestWaitersAreWokenWithoutNearCache(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	b := serveStore(t, store.Options{Redis: redis.Options{Addrs: []string{a.addr}, CommandTimeout: 10 * time.Second}}, policy.Limits{})
	for _, api := range []*api{a, b} {
		api.under(t, cachePolicy("off", policy.Cache{NearCache: new(false)}))
	}
	for key, write := range map[string]func(token string) error{
		"fill": func(token string) error {
			_, err := b.cache.Fill(t.Context(), &cachev1.FillRequest{Namespace: "off", Key: "fill", LeaseToken: token, Value: []byte("v")})
			return err
		},
		"set": func(string) error {
			_, err := b.cache.Set(t.Context(), &cachev1.SetRequest{Namespace: "off", Key: "set", Value: []byte("v")})
			return err
		},
	} {
		first := b.lease(t, &cachev1.GetOrLeaseRequest{Namespace: "off", Key: key, LeaseTtl: secs(60)}, leaseMiss, true)
		a.do(t, "CONFIG", "RESETSTAT")
		got := make(chan *cachev1.GetOrLeaseResponse, 1)
		start := time.Now()
		go func() {
			r, _ := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Namespace: "off", Key: key, WaitTimeout: secs(25)})
			got <- r
		}()
		// It asks for the lease, which looks at how long it is taken, and once more when it has begun to wait.
		eventually(t, "waiting", func() bool {
			return strings.Contains(fmt.Sprint(a.do(t, "INFO", "commandstats")), "cmdstat_pttl:calls=2,")
		})
		if err := write(first.LeaseToken); err != nil {
			t.Fatalf("%s: write = %v, want nil", key, err)
		}
		if r := <-got; r.GetOutcome() != leaseHit || string(r.GetValue()) != "v" || r.GetSource() != cachev1.Source_SOURCE_REDIS || time.Since(start) > 20*time.Second {
			t.Errorf("%s: GetOrLease = %v after %v, want a HIT of v from Redis in at most 20 s", key, r, time.Since(start))
		}
	}
}

func TestPolicyStale(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, cachePolicy("kept", policy.Cache{DefaultStaleTTL: new(10 * time.Minute), MaxTTL: new(time.Hour)}))
	for _, test := range []struct {
		req  *cachev1.SetRequest
		want time.Duration
	}{
		{&cachev1.SetRequest{Expiry: setTTL(time.Minute)}, 10 * time.Minute},
		{&cachev1.SetRequest{Expiry: setTTL(time.Minute), StaleTtl: secs(300)}, 5 * time.Minute},
		{&cachev1.SetRequest{Expiry: setTTL(time.Minute), StaleTtl: secs(0)}, 0},
		{&cachev1.SetRequest{Expiry: setTTL(55 * time.Minute)}, 5 * time.Minute},
		{&cachev1.SetRequest{}, 0}, // the default leaves no room
		{&cachev1.SetRequest{Expiry: setTTL(time.Minute), Negative: true}, 0},
		{&cachev1.SetRequest{Expiry: &cachev1.SetRequest_Never{Never: true}}, 0},
	} {
		test.req.Namespace, test.req.Key = "kept", "k"
		a.set(t, test.req)
		if got := a.get(t, &cachev1.GetRequest{Namespace: "kept", Key: "k"}).StaleTtl.AsDuration(); got != test.want {
			t.Errorf("%v: stale_ttl = %v, want %v", test.req, got, test.want)
		}
	}
}

func TestPolicyAllowStale(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.under(t, cachePolicy("never", policy.Cache{AllowStale: new(false)}))
	for ns, want := range map[string]cachev1.GetOutcome{"never": cachev1.GetOutcome_GET_OUTCOME_MISS, "other": cachev1.GetOutcome_GET_OUTCOME_STALE} {
		a.set(t, &cachev1.SetRequest{Namespace: ns, Key: "k", Value: []byte("old"), Expiry: setTTL(time.Millisecond), StaleTtl: secs(600)})
		for asked, outcome := range map[*bool]cachev1.GetOutcome{
			nil: want, new(true): cachev1.GetOutcome_GET_OUTCOME_STALE, new(false): cachev1.GetOutcome_GET_OUTCOME_MISS,
		} {
			eventually(t, "as old as to be stale", func() bool {
				return a.get(t, &cachev1.GetRequest{Namespace: ns, Key: "k", AllowStale: asked}).Outcome == outcome
			})
		}
		batch := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: ns, Keys: []string{"k"}}))
		if got := cachev1.GetOutcome(batch.Results[0].Outcome); got != want || (len(batch.Results[0].Value) > 0) != (want == cachev1.GetOutcome_GET_OUTCOME_STALE) {
			t.Errorf("%s: BatchGet = %v, want %v, with a value only if it is stale", ns, batch, want)
		}
		// Whoever gets the lease is not shown the value, and others wait for the new one.
		first, then := leaseStale, leaseStale
		if ns == "never" {
			first, then = leaseMiss, leasePending
		}
		leased := a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "k"}, first, true)
		a.lease(t, &cachev1.GetOrLeaseRequest{Namespace: ns, Key: "k"}, then, false)
		if (len(leased.Value) > 0) != (first == leaseStale) {
			t.Errorf("%s: GetOrLease = %v, want a value: %t", ns, leased, first == leaseStale)
		}
	}
}

func TestPolicySessionTimeouts(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{SessionIdleTimeout: 100 * 24 * time.Hour, SessionAbsoluteTimeout: 200 * 24 * time.Hour})
	a.under(t, &policy.Policy{Sessions: policy.Section[policy.Session]{
		Defaults: policy.Session{IdleTimeout: new(50 * 24 * time.Hour)},
		Namespaces: map[string]policy.Session{
			"aal1": {Preset: policy.AAL1}, "aal2": {Preset: policy.AAL2}, "aal3": {Preset: policy.AAL3},
			"shorter": {Preset: policy.AAL2, IdleTimeout: new(10 * time.Minute), AbsoluteTimeout: new(2 * time.Hour)},
		},
	}})
	const day = 24 * time.Hour
	for ns, want := range map[string]struct{ idle, absolute time.Duration }{
		"other":   {50 * day, 200 * day},
		"aal1":    {30 * day, 30 * day}, // it has no bound of its own for idleness
		"aal2":    {time.Hour, 24 * time.Hour},
		"aal3":    {15 * time.Minute, 12 * time.Hour},
		"shorter": {10 * time.Minute, 2 * time.Hour},
	} {
		s := a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns}).Session
		created := s.CreatedAt.AsTime()
		if idle, absolute := s.IdleExpiresAt.AsTime().Sub(created), s.AbsoluteExpiresAt.AsTime().Sub(created); idle != want.idle || absolute != want.absolute {
			t.Errorf("%s: timeouts = %v idle and %v absolute, want %v", ns, idle, absolute, want)
		}
		s = a.create(t, &sessionv1.CreateSessionRequest{Namespace: ns, IdleTimeout: secs(60), AbsoluteTimeout: secs(120)}).Session
		if s.AbsoluteExpiresAt.AsTime().Sub(s.CreatedAt.AsTime()) != 2*time.Minute {
			t.Errorf("%s: session = %v, want an absolute timeout of 2 min", ns, s)
		}
		r := &sessionv1.CreateSessionRequest{Namespace: ns, IdleTimeout: durationpb.New(want.idle + 1), AbsoluteTimeout: durationpb.New(want.absolute + 1)}
		_, err := a.session.CreateSession(t.Context(), r)
		wantInvalid(t, r, err, "idle_timeout", "absolute_timeout")
	}
}
