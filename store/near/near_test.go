package near

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
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
			t.Errorf("%s: Get found a value before it was kept, want none", name)
		}
		n.keep("key", 1, 10)
		n.keep("key", 2, 10)
		if v, ok := n.Get("key"); !ok || v != 2 {
			t.Errorf("%s: Get = %v, %v, want 2", name, v, ok)
		}
		drop(n)
		if v, ok := n.Get("key"); ok {
			t.Errorf("%s: Get = %v after it was dropped, want nothing", name, v)
		}
		n.keep("key", 3, 10)
		if v, ok := n.Get("key"); !ok || v != 3 {
			t.Errorf("%s: Get = %v, %v after it was kept again, want 3", name, v, ok)
		}
		if err := n.check(); err != nil {
			t.Errorf("%s: check: %v, want a consistent cache", name, err)
		}
	}
}

// TestNearKeepsNothingThere: that there is nothing is worth keeping as well.
func TestNearKeepsNothingThere(t *testing.T) {
	t.Parallel()
	n := New(1<<20, time.Hour)
	n.keep("key", (*string)(nil), 0)
	if v, ok := n.Get("key"); !ok || v.(*string) != nil {
		t.Errorf("Get = %v, %v, want a nil pointer", v, ok)
	}
}

func TestNoNearCache(t *testing.T) {
	t.Parallel()
	if New(0, time.Second) != nil || New(-1, time.Second) != nil || New(1<<20, 0) != nil {
		t.Error("New without room or time returned a cache, want nil")
	}
	var n *Cache
	n.keep("key", 1, 10)
	n.Forget("key")
	n.Flush()
	if _, ok := n.Get("key"); ok {
		t.Error("Get of a nil cache found a value, want none")
	}
	if entries, bytes := n.usage(); entries != 0 || bytes != 0 {
		t.Errorf("usage of a nil cache = %d entries, %d bytes, want none", entries, bytes)
	}
	fetched := 0
	for range 2 {
		v, hit, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
			fetched++
			return fetched, 1, time.Hour, nil
		})
		if v != fetched || hit || err != nil {
			t.Errorf("Load = %v, %v, %v, want %d, which was fetched", v, hit, err, fetched)
		}
	}
	if fetched != 2 {
		t.Errorf("%d fetches, want 2", fetched)
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
					t.Errorf("Get of %s found a value: %v, want %v", key, ok, wanted)
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
				t.Errorf("Load: error %v, want none", err)
			}
		}
		load("key", 2*time.Second)
		time.Sleep(3*time.Second - time.Nanosecond) //nolint:forbidigo // virtual time
		if _, ok := n.Get("key"); !ok {
			t.Error("Get found nothing just before 5 s, want the value")
		}
		time.Sleep(time.Nanosecond) //nolint:forbidigo // virtual time
		if _, ok := n.Get("key"); ok {
			t.Error("Get found a value 5 s after its read began, want none")
		}
		load("late", 5*time.Second)
		if _, ok := n.Get("late"); ok {
			t.Error("Get found a value that took 5 s to read, want none")
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
			t.Errorf("%s: Get after Put = %v, want it kept: %v", test.name, v, test.kept)
		}

		n = New(1<<20, time.Hour)
		v, hit, err := n.Load(t.Context(), "key", func() (any, int, time.Duration, error) {
			test.meanwhile(n)
			return "read", 10, time.Hour, nil
		})
		if v != "read" || hit || err != nil {
			t.Errorf("%s: Load = %v, %v, %v, want read", test.name, v, hit, err)
		}
		if v, _ := n.Get("key"); (v == "read") != test.kept {
			t.Errorf("%s: Get after Load = %v, want it kept: %v", test.name, v, test.kept)
		}
		if err := n.check(); err != nil {
			t.Errorf("%s: check: %v, want a consistent cache", test.name, err)
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
			t.Fatalf("holds %d bytes, want at most %d", bytes, most)
		}
	}
	entries, bytes := n.usage()
	if entries == 0 || bytes < most/2 || n.evictions.Load() == 0 {
		t.Errorf("%d entries, %d bytes, %d evictions, want a full cache that evicts", entries, bytes, n.evictions.Load())
	}
	// What does not fit is not kept, and nothing makes room for it.
	n.keep("large", 1, most)
	if _, ok := n.Get("large"); ok {
		t.Error("Get found a value larger than its shard, want none")
	}
	if after, _ := n.usage(); after != entries {
		t.Errorf("%d entries are left, want all %d", after, entries)
	}
	if err := n.check(); err != nil {
		t.Errorf("check: %v, want a consistent cache", err)
	}
	for i := range 20000 {
		n.Forget(fmt.Sprintf("key-%d", i))
	}
	if entries, bytes := n.usage(); entries != 0 || bytes != 0 {
		t.Errorf("%d entries, %d bytes after all were forgotten, want none", entries, bytes)
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
			t.Errorf("found %d of 500, want at least 450", found)
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
		t.Errorf("%d of 50000 reads of hot values were hits, want at least 48000", hits)
	}
}

// usage returns how many values the cache holds and their size.
func (c *Cache) usage() (entries, bytes int64) {
	st := c.Stats()
	return st.Entries, st.Bytes
}
