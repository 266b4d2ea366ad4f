package near

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// keep puts a value that was just read.
func (c *Cache) keep(key string, value any, size int) {
	c.Put(key, c.Begin(key), value, size, time.Hour)
}

// check reports what is wrong with the bookkeeping.
func (c *Cache) check() error {
	for i := range c.shards {
		s := &c.shards[i]
		var bytes int64
		count, hand := 0, s.hand == nil
		for e := s.tail; e != nil; e = e.newer {
			bytes += e.size
			count++
			hand = hand || e == s.hand
			if s.entries[e.key] != e || e.newer == nil && s.head != e || e.newer != nil && e.newer.older != e {
				return fmt.Errorf("shard %d: %q is linked wrongly", i, e.key)
			}
		}
		if count != len(s.entries) || bytes != s.bytes || !hand || bytes > c.maxBytes || len(s.flights) > 0 {
			return fmt.Errorf("shard %d: %d of %d entries linked, %d of %d bytes, hand in place: %v, %d flights",
				i, count, len(s.entries), bytes, s.bytes, hand, len(s.flights))
		}
	}
	return nil
}

func TestNearKeepsUntilTold(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(n *Cache){
		"forget":     func(n *Cache) { n.Forget("other", "key") },
		"invalidate": func(n *Cache) { n.Invalidate("key") },
		"flush":      func(n *Cache) { n.Flush() },
	} {
		n := New(1<<20, time.Hour)
		if _, ok := n.Get("key"); ok {
			t.Errorf("%s: found before it was kept", name)
		}
		n.keep("key", 1, 10)
		n.keep("key", 2, 10)
		if v, ok := n.Get("key"); !ok || v != 2 {
			t.Errorf("%s: found %v, %v", name, v, ok)
		}
		drop(n)
		if v, ok := n.Get("key"); ok {
			t.Errorf("%s: %v is still there", name, v)
		}
		n.keep("key", 3, 10)
		if v, ok := n.Get("key"); !ok || v != 3 {
			t.Errorf("%s: kept again, found %v, %v", name, v, ok)
		}
		if err := n.check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNearKeepsNothingThere: that there is nothing is worth keeping as well.
func TestNearKeepsNothingThere(t *testing.T) {
	t.Parallel()
	n := New(1<<20, time.Hour)
	n.keep("key", (*string)(nil), 0)
	if v, ok := n.Get("key"); !ok || v.(*string) != nil {
		t.Errorf("found %v, %v", v, ok)
	}
}

func TestNoNearCache(t *testing.T) {
	t.Parallel()
	if New(0, time.Second) != nil || New(-1, time.Second) != nil || New(1<<20, 0) != nil {
		t.Error("a near cache without room or time")
	}
	var n *Cache
	n.keep("key", 1, 10)
	n.Forget("key")
	n.Flush()
	if _, ok := n.Get("key"); ok {
		t.Error("found what was not kept")
	}
	if entries, bytes := n.usage(); entries != 0 || bytes != 0 {
		t.Error(entries, bytes)
	}
	fetched := 0
	for range 2 {
		v, hit, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
			fetched++
			return fetched, 1, time.Hour, nil
		})
		if v != fetched || hit || err != nil {
			t.Error(v, hit, err)
		}
	}
	if fetched != 2 {
		t.Errorf("fetched %d times", fetched)
	}
}

func TestNearExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, 5*time.Second)
		for key, ttl := range map[string]time.Duration{"long": time.Hour, "short": 2 * time.Second, "over": 0, "negative": -time.Second} {
			n.Put(key, n.Begin(key), 1, 10, ttl)
		}
		want := func(after time.Duration, keys ...string) {
			t.Helper()
			time.Sleep(after) //nolint:forbidigo // virtual time
			for _, key := range []string{"long", "short", "over", "negative"} {
				_, ok := n.Get(key)
				wanted := false
				for _, k := range keys {
					wanted = wanted || k == key
				}
				if ok != wanted {
					t.Errorf("%s is there: %v", key, ok)
				}
			}
		}
		want(0, "long", "short")
		want(2*time.Second-time.Nanosecond, "long", "short")
		want(time.Nanosecond, "long")
		want(3*time.Second-time.Nanosecond, "long")
		want(time.Nanosecond)
	})
}

// TestNearAgeBeginsWithTheRead: a reply may take long, and the value is as old as the question.
func TestNearAgeBeginsWithTheRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := New(1<<20, 5*time.Second)
		load := func(key string, reply time.Duration) {
			if _, _, err := n.Load(t.Context(), key, func() (any, int, time.Duration, error) {
				time.Sleep(reply) //nolint:forbidigo // virtual time
				return 1, 10, time.Hour, nil
			}); err != nil {
				t.Error(err)
			}
		}
		load("key", 2*time.Second)
		time.Sleep(3*time.Second - time.Nanosecond) //nolint:forbidigo // virtual time
		if _, ok := n.Get("key"); !ok {
			t.Error("gone before its time")
		}
		time.Sleep(time.Nanosecond) //nolint:forbidigo // virtual time
		if _, ok := n.Get("key"); ok {
			t.Error("served 5 s after it was asked for")
		}
		load("late", 5*time.Second)
		if _, ok := n.Get("late"); ok {
			t.Error("kept what was too old on arrival")
		}
	})
}

// TestNearConfirmedIsKept: what is confirmed is as good as read again at the time of the question, until its own end.
func TestNearConfirmedIsKept(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	for _, test := range []struct {
		name string
		// confirm is called 4 s after the values were read, with a ticket of 3 s after.
		confirm func(n *Cache, t Ticket)
		// kept says how long after they were read the values are kept.
		long, short time.Duration
	}{
		{"NotConfirmed", func(*Cache, Ticket) {}, ttl, ttl},
		{"Confirmed", func(n *Cache, t Ticket) { n.Confirm(t, "a b") }, 3*time.Second + ttl, 6 * time.Second},
		{"OlderAnswerLater", func(n *Cache, t Ticket) {
			n.Confirm(t, "a b")
			n.Confirm(Ticket{generation: t.generation}, "a b")
		}, 3*time.Second + ttl, 6 * time.Second},
		{"AskedBeforeEverythingWasDropped", func(n *Cache, t Ticket) {
			n.Flush()
			n.keep("long", 1, 10)
			n.Put("short", n.Begin("short"), 1, 10, 2*time.Second)
			n.Confirm(t, "a b")
		}, 4*time.Second + ttl, 6 * time.Second},
		{"OtherSources", func(n *Cache, t Ticket) { n.Confirm(t, "a c") }, 4 * time.Second, 4 * time.Second},
		{"NoSources", func(n *Cache, t Ticket) { n.Confirm(t, ""); n.Confirm(t, "") }, 4 * time.Second, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := New(1<<20, ttl)
			n.Confirm(n.Begin(""), "a b")
			read := time.Now()
			n.keep("long", 1, 10)
			n.Put("short", n.Begin("short"), 1, 10, 6*time.Second)
			time.Sleep(3 * time.Second) //nolint:forbidigo // virtual time
			ticket := n.Begin("")
			time.Sleep(time.Second) //nolint:forbidigo // virtual time
			test.confirm(n, ticket)
			kept := map[string]time.Duration{}
			for ; len(kept) < 2; time.Sleep(time.Second) { //nolint:forbidigo // virtual time
				for _, key := range []string{"short", "long"} {
					if _, gone := kept[key]; !gone && !n.Has(key) {
						kept[key] = time.Since(read)
					}
				}
			}
			if kept["long"] != test.long || kept["short"] != test.short {
				t.Errorf("%s: kept for %v, want %v and %v", test.name, kept, test.long, test.short)
			}
		})
	}
}

// TestNearDoesNotKeepASpoiledRead is the heart of the contract: what happens to the key while its read is under way
// makes the answer worthless.
func TestNearDoesNotKeepASpoiledRead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		meanwhile func(n *Cache)
		kept      bool
	}{
		{"nothing", func(*Cache) {}, true},
		{"written here", func(n *Cache) { n.Forget("key") }, false},
		{"written here among others", func(n *Cache) { n.Forget("a", "key", "b") }, false},
		{"written elsewhere", func(n *Cache) { n.Invalidate("key") }, false},
		{"everything dropped", func(n *Cache) { n.Flush() }, false},
		{"dropped and read again", func(n *Cache) { n.Forget("key"); n.keep("key", "newer", 10) }, false},
	}
	for _, test := range tests {
		n := New(1<<20, time.Hour)
		ticket := n.Begin("key")
		test.meanwhile(n)
		n.Put("key", ticket, "read", 10, time.Hour)
		if v, _ := n.Get("key"); (v == "read") != test.kept {
			t.Errorf("%s: put keeps %v", test.name, v)
		}

		n = New(1<<20, time.Hour)
		v, hit, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
			test.meanwhile(n)
			return "read", 10, time.Hour, nil
		})
		if v != "read" || hit || err != nil {
			t.Errorf("%s: load returns %v, %v, %v", test.name, v, hit, err)
		}
		if v, _ := n.Get("key"); (v == "read") != test.kept {
			t.Errorf("%s: load keeps %v", test.name, v)
		}
		if err := n.check(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestNearIsBounded(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	n := New(most, time.Hour)
	for i := range 20000 {
		n.keep(fmt.Sprintf("key-%d", i), i, i%1000)
		if _, bytes := n.usage(); i%100 == 0 && bytes > most {
			t.Fatalf("holds %d bytes", bytes)
		}
	}
	entries, bytes := n.usage()
	if entries == 0 || bytes < most/2 || n.evictions.Load() == 0 {
		t.Errorf("%d entries, %d bytes, %d evictions", entries, bytes, n.evictions.Load())
	}
	// What does not fit is not kept, and nothing makes room for it.
	n.keep("large", 1, most)
	if _, ok := n.Get("large"); ok {
		t.Error("kept what is larger than its shard")
	}
	if after, _ := n.usage(); after != entries {
		t.Errorf("%d of %d entries left", after, entries)
	}
	if err := n.check(); err != nil {
		t.Error(err)
	}
	for i := range 20000 {
		n.Forget(fmt.Sprintf("key-%d", i))
	}
	if entries, bytes := n.usage(); entries != 0 || bytes != 0 {
		t.Errorf("%d entries, %d bytes left of nothing", entries, bytes)
	}
}

// TestNearMakesRoomForTheLiving: what a flush left behind does not keep out what is read after it.
func TestNearMakesRoomForTheLiving(t *testing.T) {
	t.Parallel()
	n := New(1<<20, time.Hour)
	for i := range 5000 {
		key := fmt.Sprintf("dead-%d", i)
		n.keep(key, i, 100)
		n.Get(key)
	}
	n.Flush()
	for round := range 3 {
		found := 0
		for i := range 500 {
			key := fmt.Sprintf("key-%d", i)
			if _, ok := n.Get(key); ok {
				found++
				continue
			}
			n.keep(key, i, 100)
		}
		if round == 2 && found < 450 {
			t.Errorf("found %d of 500", found)
		}
	}
}

// TestNearKeepsWhatIsAskedFor: values that are read again survive a walk over many that are not.
func TestNearKeepsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	n := New(1<<20, time.Hour) // room for some 3500
	const hot = 500
	hits := 0
	for i := range 50000 {
		n.keep(fmt.Sprintf("cold-%d", i), i, 100)
		key := fmt.Sprintf("hot-%d", i%hot)
		if _, ok := n.Get(key); ok {
			hits++
		} else {
			n.keep(key, i, 100)
		}
	}
	if hits < 48000 {
		t.Errorf("%d of 50000 reads of hot values were hits", hits)
	}
}

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
					t.Fatalf("kept a spoiled read of %s", r.key)
				}
			},
			"get": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				if v, ok := n.Get(key); ok {
					if want, may := kept[key]; !may || v != want {
						t.Fatalf("found %v of %s, want %v, %v", v, key, want, may)
					}
				}
			},
			"forget":     func(t *rapid.T) { key := keys.Draw(t, "key"); n.Forget(key); spoil(key) },
			"invalidate": func(t *rapid.T) { key := keys.Draw(t, "key"); n.Invalidate(key); spoil(key) },
			"flush":      func(*rapid.T) { n.Flush(); kept = map[string]int{}; spoil("") },
			"": func(t *rapid.T) {
				if err := n.check(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

// usage returns how many values the cache holds and their size.
func (c *Cache) usage() (entries, bytes int64) {
	st := c.Stats()
	return st.Entries, st.Bytes
}
