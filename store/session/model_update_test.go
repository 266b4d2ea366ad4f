package session_test

import (
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
)

// tooLate may give a login an earlier epoch of its subject, and reports whether it was refused: it must be if the subject or
// the class was revoked since.
func (m *sessionModel) tooLate(t *rapid.T, n *session.Creation) bool {
	known := m.epochs[n.Subject]
	if n.Subject == "" || !rapid.Bool().Draw(t, "with an epoch") {
		return false
	}
	since := rapid.IntRange(0, len(known)).Draw(t, "known since")
	epoch := int64(0)
	if since > 0 {
		epoch = known[since-1].epoch
	}
	n.IfSubjectEpoch = &epoch
	if len(known) == since {
		if got := subjectEpoch(m.t, m.store(t), m.namespace, n.Subject); got != epoch {
			t.Fatalf("the epoch of %s is %d, want %d", n.Subject, got, epoch)
		}
	}
	if !slices.ContainsFunc(known[since:], func(e modelEpoch) bool { return e.class == "" || e.class == n.Device.Class }) {
		return false
	}
	if _, err := m.store(t).Sessions.Create(m.t.Context(), m.namespace, *n); !errors.Is(err, session.ErrSubjectEpochChanged) {
		t.Fatalf("Create with an epoch from before a revocation: error %v, want ErrSubjectEpochChanged", err)
	}
	return true
}

func (m *sessionModel) update(t *rapid.T) {
	s := m.pick(t)
	name := rapid.SampledFrom([]string{"made", "a", "b"})
	u := session.Changes{ExpectedVersion: rapid.Int64Range(0, 3).Draw(t, "expected version")}
	changed := name.Draw(t, "name")
	old, there := s.attributes[changed]
	value := rapid.SampledFrom([]string{"1", "2", ""}).Draw(t, "value")
	after := maps.Clone(s.attributes)
	var want session.Updated
	notCounter := false
	switch rapid.SampledFrom([]string{"set", "set if absent", "increment", "delete"}).Draw(t, "change") {
	case "set":
		u.Set = map[string]string{changed: value}
		after[changed] = value
	case "set if absent":
		u.SetIfAbsent = map[string]string{changed: value}
		if !there {
			after[changed] = value
			want.SetIfAbsent = []string{changed}
		}
	case "increment":
		delta := rapid.Int64Range(-2, 2).Draw(t, "delta")
		u.Increment = map[string]int64{changed: delta}
		n, err := strconv.ParseInt(old, 10, 64)
		notCounter = there && err != nil
		after[changed] = strconv.FormatInt(n+delta, 10)
		want.Incremented = map[string]int64{changed: n + delta}
	case "delete":
		u.Delete = []string{changed}
		delete(after, changed)
	}
	updated, err := m.store(t).Sessions.Update(m.t.Context(), m.namespace, m.target(t, s), u)
	version := updated.Version
	switch {
	case !s.active():
		if version != 0 || err != nil {
			t.Fatalf("Update of an ended session = version %d, %v; want 0, no error", version, err)
		}
	case u.ExpectedVersion != 0 && u.ExpectedVersion != s.version:
		if !errors.Is(err, session.ErrVersionMismatch) {
			t.Fatalf("Update that expects version %d of version %d = %d, %v; want ErrVersionMismatch", u.ExpectedVersion, s.version, version, err)
		}
	case notCounter:
		if !errors.Is(err, redis.ErrNotCounter) {
			t.Fatalf("Update that increments %q = %+v, %v; want ErrNotCounter", old, updated, err)
		}
	default:
		if !maps.Equal(after, s.attributes) {
			s.version++
		}
		s.attributes, want.Version = after, s.version
		if diff := cmp.Diff(want, updated); diff != "" || err != nil {
			t.Fatalf("%v, updated (-want +got):\n%s", err, diff)
		}
	}
}
