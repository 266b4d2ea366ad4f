package lock_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthcare/larder/store/lock"
)

// A tenure is what one holder was told: from when until when it had the lock, in the time of Redis.
type tenure struct {
	who         string
	fence       int64
	permits     int
	from, until time.Time
}

// A history is the tenures of one lock, by its holders.
type history struct {
	mu      sync.Mutex
	tenures []*tenure
}

// granted notes a grant.
func (h *history) granted(who string, permits int, g *lock.Grant) *tenure {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &tenure{who, g.Fence, permits, g.At, g.Expiry}
	h.tenures = append(h.tenures, t)
	return t
}

// renewed notes that a tenure is longer.
func (h *history) renewed(t *tenure, g *lock.Grant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g.Expiry.After(t.until) {
		t.until = g.Expiry
	}
}

// ended notes that a tenure ended at a time; a zero time means that its holder has let go of it, and does not know when that
// reached Redis.
func (h *history) ended(t *tenure, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.IsZero() {
		at = t.from
	}
	if at.Before(t.until) {
		t.until = at
	}
}

// violations returns what a history has that no lock may have: at the time of a grant, as many others as there are permits already
// have the lock, or a later grant has no higher fencing token.
func violations(tenures []*tenure) (found []string) {
	all := slices.Clone(tenures)
	slices.SortFunc(all, func(a, b *tenure) int { return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.fence, b.fence)) })
	for i, t := range all {
		if i > 0 && t.fence <= all[i-1].fence {
			found = append(found, fmt.Sprintf("%s has token %d, acquired after %d of %s", t.who, t.fence, all[i-1].fence, all[i-1].who))
		}
		beside := 0
		for _, other := range all[:i] {
			if other.until.After(t.from) {
				beside++
			}
		}
		if beside >= t.permits {
			found = append(found, fmt.Sprintf("%s acquired token %d beside %d others, and there are %d permits", t.who, t.fence, beside, t.permits))
		}
	}
	return found
}

// The checker finds what is wrong, and nothing where nothing is.
func TestViolations(t *testing.T) {
	t.Parallel()
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	for name, tt := range map[string]struct {
		tenures []*tenure
		want    int
	}{
		"one after the other": {[]*tenure{{"b", 2, 1, at(10), at(20)}, {"a", 1, 1, at(0), at(10)}}, 0},
		"overlap":             {[]*tenure{{"a", 1, 1, at(0), at(11)}, {"b", 2, 1, at(10), at(20)}}, 1},
		"long overlap":        {[]*tenure{{"a", 1, 1, at(0), at(50)}, {"b", 2, 1, at(10), at(20)}, {"c", 3, 1, at(30), at(40)}}, 2},
		"permits":             {[]*tenure{{"a", 1, 2, at(0), at(50)}, {"b", 2, 2, at(10), at(20)}, {"c", 3, 2, at(20), at(40)}}, 0},
		"too many":            {[]*tenure{{"a", 1, 2, at(0), at(50)}, {"b", 2, 2, at(10), at(21)}, {"c", 3, 2, at(20), at(40)}}, 1},
		"same token":          {[]*tenure{{"a", 1, 1, at(0), at(10)}, {"b", 1, 1, at(10), at(20)}}, 1},
		"lower token":         {[]*tenure{{"a", 2, 1, at(0), at(10)}, {"b", 1, 1, at(10), at(20)}}, 1},
	} {
		if got := violations(tt.tenures); len(got) != tt.want {
			t.Errorf("%s: violations = %q, want %d", name, got, tt.want)
		}
	}
}

func FuzzViolations(f *testing.F) {
	f.Add([]byte{1, 3, 9, 200, 4, 4, 0, 0, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		// A lock that is granted only while it is free, and then some holder more.
		var tenures []*tenure
		now := time.UnixMilli(0)
		for i, d := range b {
			end := now.Add(time.Duration(d) * time.Millisecond)
			tenures = append(tenures, &tenure{fmt.Sprint(i), int64(i + 1), 1, now, end})
			now = end
		}
		if got := violations(tenures); len(got) > 0 {
			t.Fatalf("violations of a lock that was held by one at a time = %q, want none", got)
		}
		for i, one := range tenures {
			if one.until.After(one.from) {
				more := append(slices.Clone(tenures), &tenure{"more", int64(len(b) + 1), 1, one.until.Add(-time.Microsecond), one.until})
				if len(violations(more)) == 0 {
					t.Fatalf("violations with a second holder beside number %d = none, want some", i)
				}
			}
		}
	})
}
