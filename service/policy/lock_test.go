package policy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func lockPolicy(defaults Lock, ns Lock) *Policy {
	return &Policy{Locks: Section[Lock]{Defaults: defaults, Namespaces: map[string]Lock{"n": ns}}}
}

func TestLockPolicyCheck(t *testing.T) {
	t.Parallel()
	for field, bad := range map[string][]Lock{
		"max_ttl":     {{MaxTTL: new(24*time.Hour + 1)}, {MaxTTL: new(100*time.Millisecond - 1)}, {MaxTTL: new(-time.Second)}},
		"default_ttl": {{DefaultTTL: new(24*time.Hour + 1)}, {DefaultTTL: new(time.Duration(0))}, {DefaultTTL: new(2 * time.Second), MaxTTL: new(time.Second)}},
		"max_permits": {{MaxPermits: new(0)}, {MaxPermits: new(1001)}},
	} {
		for _, l := range bad {
			wantFault(t, lockPolicy(Lock{}, l).Check(Limits{}), "locks.namespaces.n."+field)
			wantFault(t, lockPolicy(l, Lock{}).Check(Limits{}), "locks.defaults."+field)
		}
	}
	good := lockPolicy(Lock{MaxTTL: new(24 * time.Hour), DefaultTTL: new(time.Hour), MaxPermits: new(1000)}, Lock{MaxTTL: new(100 * time.Millisecond), MaxPermits: new(1)})
	if err := good.Check(Limits{}); err != nil {
		t.Errorf("Check = %v, want nil", err)
	}
}

func TestLockRules(t *testing.T) {
	t.Parallel()
	p := New(Limits{})
	if err := p.Set(lockPolicy(Lock{DefaultTTL: new(time.Hour)}, Lock{MaxTTL: new(time.Minute)})); err != nil {
		t.Fatalf("Set = %v, want nil", err)
	}
	for ns, want := range map[string]LockRules{
		"n":     {DefaultTTL: time.Minute, MaxTTL: time.Minute, MaxPermits: 1000}, // what it inherits is cut to fit
		"other": {DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour, MaxPermits: 1000},
	} {
		if diff := cmp.Diff(want, p.Current().Of(ns).Locks); diff != "" {
			t.Errorf("rules of %s (-want +got):\n%s", ns, diff)
		}
	}
	if diff := cmp.Diff(LockRules{30 * time.Second, 24 * time.Hour, 1000}, New(Limits{}).Current().Defaults().Locks); diff != "" {
		t.Errorf("rules without a policy (-want +got):\n%s", diff)
	}
	if !p.Named("n") {
		t.Error("a namespace of the section is not named, want that it is")
	}
}
