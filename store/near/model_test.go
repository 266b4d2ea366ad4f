package near

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestNearAgreesWithAModel: whatever is done in whatever order, nothing is found that should have been dropped, and the
// bookkeeping stays right.
func TestNearAgreesWithAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := New(64<<10, time.Hour)
		type read struct {
			key    string
			ticket Ticket
			value  int
			good   bool
		}
		kept := map[string]int{} // what may be found
		var reads []*read
		spoil := func(key string) {
			delete(kept, key)
			for _, r := range reads {
				if key == "" || r.key == key {
					r.good = false
				}
			}
		}
		next := 0
		keys := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "key")) })
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				next++
				reads = append(reads, &read{key, n.Begin(key), next, true})
			},
			"put": func(t *rapid.T) {
				if len(reads) == 0 {
					return
				}
				i := rapid.IntRange(0, len(reads)-1).Draw(t, "read")
				r := reads[i]
				reads = append(reads[:i], reads[i+1:]...)
				n.Put(r.key, r.ticket, r.value, rapid.IntRange(0, 3000).Draw(t, "size"), time.Hour)
				// Reads of one key that overlap and are all good may be kept in any order: they read the same.
				if r.good {
					kept[r.key] = r.value
				} else if v, ok := n.Get(r.key); ok && v == r.value {
					t.Fatalf("Get of %s = %v, which a spoiled read brought, want it not kept", r.key, v)
				}
			},
			"get": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				if v, ok := n.Get(key); ok {
					if want, may := kept[key]; !may || v != want {
						t.Fatalf("Get of %s = %v, want %v, kept: %v", key, v, want, may)
					}
				}
			},
			"forget":     func(t *rapid.T) { key := keys.Draw(t, "key"); n.Forget(key); spoil(key) },
			"invalidate": func(t *rapid.T) { key := keys.Draw(t, "key"); n.Invalidate(key); spoil(key) },
			"flush":      func(*rapid.T) { n.Flush(); kept = map[string]int{}; spoil("") },
			"": func(t *rapid.T) {
				if err := n.check(); err != nil {
					t.Fatalf("check: %v, want a consistent cache", err)
				}
			},
		})
	})
}
