package policy

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store/session"
)

// cachePolicy is a policy for one namespace of CacheService.
func cachePolicy(ns string, p Cache) *Policy {
	return &Policy{Cache: Section[Cache]{Namespaces: map[string]Cache{ns: p}}}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"720h": 720 * time.Hour, "10h": 10 * time.Hour, "30m": 30 * time.Minute, "1h10m": 70 * time.Minute, "1h0m5s": time.Hour + 5*time.Second,
		"10s": 10 * time.Second, "1m30s": 90 * time.Second, "1ms": time.Millisecond, "0s": 0,
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestDefaultLimits(t *testing.T) {
	t.Parallel()
	want := Limits{
		MaxValueBytes: 1 << 20, MaxBatchBytes: 3670016, DefaultTTL: time.Hour, MaxTTL: 720 * time.Hour,
		SessionIdleTimeout: 30 * time.Minute, SessionAbsoluteTimeout: 12 * time.Hour,
		SessionRotationGrace: 30 * time.Second, SessionCacheFor: 5 * time.Second,
		SessionLimitPolicy: session.EvictLeastRecentlyUsed,
	}
	if diff := cmp.Diff(want, Limits{}.WithDefaults()); diff != "" {
		t.Errorf("default limits (-want +got):\n%s", diff)
	}
	want.DefaultTTL, want.MaxTTL = time.Minute, time.Minute
	if diff := cmp.Diff(want, Limits{MaxTTL: time.Minute}.WithDefaults()); diff != "" {
		t.Errorf("limits with a low maximum (-want +got):\n%s", diff)
	}
}

// Each fault has the path at which it stands in a file.
func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	limits := Limits{MaxValueBytes: 100, DefaultTTL: time.Minute, MaxTTL: time.Hour, SessionIdleTimeout: 20 * time.Minute, SessionAbsoluteTimeout: 2 * time.Hour, SessionsPerSubject: 10}
	p := func(f float64) *Percent { return (*Percent)(&f) }
	const ns = "cache.namespaces.n."
	for field, bad := range map[string][]Cache{
		"max_ttl":           {{MaxTTL: new(time.Hour + 1)}, {MaxTTL: new(time.Duration(0))}, {MaxTTL: new(-time.Second)}},
		"default_ttl":       {{DefaultTTL: new(time.Hour + 1)}, {DefaultTTL: new(time.Millisecond - 1)}, {DefaultTTL: new(2 * time.Second), MaxTTL: new(time.Second)}},
		"jitter":            {{Jitter: p(-1)}, {Jitter: p(100.1)}, {Jitter: p(math.NaN())}},
		"max_value_bytes":   {{MaxValueBytes: new(101)}, {MaxValueBytes: new(0)}},
		"default_stale_ttl": {{DefaultStaleTTL: new(time.Hour + 1)}, {DefaultStaleTTL: new(time.Duration(-1))}},
		"encrypt":           {{Encrypt: new(true)}},
	} {
		for _, c := range bad {
			wantFault(t, cachePolicy("n", c).Check(limits), ns+field)
			wantFault(t, (&Policy{Cache: Section[Cache]{Defaults: c}}).Check(limits), "cache.defaults."+field)
		}
	}
	for field, bad := range map[string][]Session{
		"preset":                   {{Preset: "aal4"}, {Preset: "AAL1"}},
		"absolute_timeout":         {{AbsoluteTimeout: new(2*time.Hour + 1)}, {AbsoluteTimeout: new(time.Second - 1)}},
		"idle_timeout":             {{IdleTimeout: new(20*time.Minute + 1)}, {IdleTimeout: new(time.Duration(0))}, {Preset: AAL3, IdleTimeout: new(16 * time.Minute)}, {IdleTimeout: new(time.Minute), AbsoluteTimeout: new(time.Second)}},
		"rotation_grace":           {{RotationGrace: new(30*time.Second + 1)}, {RotationGrace: new(time.Duration(-1))}},
		"max_sessions_per_subject": {{MaxSessionsPerSubject: new(-1)}, {MaxSessionsPerSubject: new(11)}},
		"max_sessions_per_class":   {{MaxSessionsPerClass: new(-1)}, {MaxSessionsPerClass: new(1<<20 + 1)}},
		"limit_policy":             {{LimitPolicy: "evict"}},
		"touch_interval":           {{TouchInterval: new(time.Second - 1)}, {TouchInterval: new(21 * time.Minute)}},
	} {
		for _, c := range bad {
			wantFault(t, (&Policy{Sessions: Section[Session]{Namespaces: map[string]Session{"n": c}}}).Check(limits), "sessions.namespaces.n."+field)
		}
	}
	// A preset of the defaults binds what a namespace writes.
	bound := &Policy{Sessions: Section[Session]{Defaults: Session{Preset: AAL3}, Namespaces: map[string]Session{"n": {IdleTimeout: new(16 * time.Minute)}}}}
	wantFault(t, bound.Check(limits), "sessions.namespaces.n.idle_timeout")
	wantFault(t, cachePolicy("No", Cache{}).Check(limits), "cache.namespaces.No")
	wantFault(t, cachePolicy("", Cache{}).Check(limits), "cache.namespaces.")

	good := &Policy{
		Cache: Section[Cache]{
			Defaults: Cache{MaxTTL: new(time.Hour), DefaultTTL: new(time.Hour), Jitter: p(100), MaxValueBytes: new(100), DefaultStaleTTL: new(time.Hour)},
			// What it inherits is cut to fit.
			Namespaces: map[string]Cache{"n": {MaxTTL: new(time.Millisecond), MaxValueBytes: new(1), DefaultStaleTTL: new(time.Duration(0))}},
		},
		Sessions: Section[Session]{
			Defaults:   Session{IdleTimeout: new(20 * time.Minute), AbsoluteTimeout: new(2 * time.Hour)},
			Namespaces: map[string]Session{"n": {Preset: AAL3, MaxSessionsPerSubject: new(0), RotationGrace: new(time.Duration(0)), LimitPolicy: session.Reject}, "m": {AbsoluteTimeout: new(time.Second)}},
		},
	}
	for _, policy := range []*Policy{{}, good} {
		if err := policy.Check(limits); err != nil {
			t.Errorf("Check = %v, want nil", err)
		}
	}
}

func wantFault(t testing.TB, err error, field string) {
	t.Helper()
	var fault *FieldError
	if !errors.As(err, &fault) || fault.Field != field {
		t.Errorf("error = %v, want a FieldError of %s", err, field)
	}
}

func TestBadPolicyLeavesTheOldOne(t *testing.T) {
	t.Parallel()
	p := New(Limits{})
	if err := p.Set(cachePolicy("n", Cache{MaxTTL: new(time.Minute)})); err != nil {
		t.Fatalf("Set = %v, want nil", err)
	}
	wantFault(t, p.Set(cachePolicy("m", Cache{MaxTTL: new(time.Duration(-1))})), "cache.namespaces.m.max_ttl")
	want := map[string]bool{"n": true, "m": false, "default": false}
	got := map[string]bool{}
	for ns := range want {
		got[ns] = p.Named(ns)
	}
	if diff := cmp.Diff(want, got); diff != "" || p.Current().Of("n").Cache.MaxTTL != time.Minute {
		t.Errorf("max ttl = %v, want 1 min; named (-want +got):\n%s", p.Current().Of("n").Cache.MaxTTL, diff)
	}
	if err := p.Set(&Policy{Sessions: Section[Session]{Namespaces: map[string]Session{"s": {}}}}); err != nil || !p.Named("s") || p.Named("n") {
		t.Errorf("Set = %v, named s: %t, n: %t, want nil, true and false", err, p.Named("s"), p.Named("n"))
	}
}

func TestPolicyLookUpAllocatesNothing(t *testing.T) {
	p := New(Limits{})
	if err := p.Set(cachePolicy("n", Cache{NearCache: new(false)})); err != nil {
		t.Fatalf("Set = %v, want nil", err)
	}
	names := []string{"n", "unknown"}
	if n := testing.AllocsPerRun(100, func() {
		for _, ns := range names {
			if p.Current().Of(ns).Cache.NearCache == p.Named(ns) {
				t.Errorf("near cache of %s = %t, want %t", ns, p.Named(ns), !p.Named(ns))
			}
		}
	}); n != 0 {
		t.Errorf("a lookup allocates %v times, want 0", n)
	}
}

func BenchmarkPolicyLookUp(b *testing.B) {
	p := New(Limits{})
	if err := p.Set(cachePolicy("n", Cache{NearCache: new(false)})); err != nil {
		b.Fatalf("Set = %v, want nil", err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p.Current().Of("n").Cache.NearCache {
			b.Fatal("near cache = true, want false")
		}
	}
}
