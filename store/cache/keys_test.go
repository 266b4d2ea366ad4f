package cache

import (
	"regexp"
	"strings"
	"testing"

	"github.com/berthcare/larder/store/redis"
)

// namespaceSyntax is what the API allows.
var namespaceSyntax = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// slotTag returns what decides the slot of a key, as the Redis Cluster specification has it.
func slotTag(key string) string {
	if _, after, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

func FuzzCacheKey(f *testing.F) {
	f.Add("a", "b", "a", "b")
	f.Add("a", "b:c", "a.b", "c")
	f.Add("a", "}", "a", "{")
	f.Add("a", "x}", "a", "x")
	f.Add("a", "}:{a:x", "a", "x")
	f.Add("a-b", "c", "a", "b-c")
	f.Add("default", "ld:c:{other:key}", "other", "key")
	f.Add("plain", "user:123", "default", "user:123")
	f.Add("plain", "{}", "plain", "}{")
	f.Fuzz(func(t *testing.T, namespace1, key1, namespace2, key2 string) {
		s := &Cache{options: Options{PlainNamespace: "plain"}}
		// What the API turns away: other namespaces, no key, and Larder's own keys in the plain namespace.
		for _, p := range [][2]string{{namespace1, key1}, {namespace2, key2}} {
			if !namespaceSyntax.MatchString(p[0]) || p[1] == "" || p[0] == "plain" && strings.HasPrefix(p[1], redis.KeyPrefix) {
				return
			}
		}
		redis1, redis2 := s.entryKey(namespace1, key1), s.entryKey(namespace2, key2)
		if (redis1 == redis2) != (namespace1 == namespace2 && key1 == key2) {
			t.Fatalf("keys of (%q, %q) and (%q, %q) = %q and %q, want equal keys only for equal arguments", namespace1, key1, namespace2, key2, redis1, redis2)
		}
		if got, ok := s.userKey(namespace1, redis1); !ok || got != key1 {
			t.Fatalf("userKey(%q) = %q, %v, want %q", redis1, got, ok, key1)
		}
		if got, ok := s.userKey(namespace1, redis2); ok != (namespace1 == namespace2) && namespace1 != "plain" {
			t.Fatalf("userKey of %q in %s = %q, want no key: it is one of %s", redis2, namespace1, got, namespace2)
		}
		if namespace1 == "plain" {
			return
		}
		// What later stands beside an entry has the same key but for the letter.
		sidecar := "ld:x:" + strings.TrimPrefix(redis1, "ld:c:")
		if slotTag(sidecar) != slotTag(redis1) {
			t.Fatalf("%q and %q are in different slots, want one slot", redis1, sidecar)
		}
		if strings.HasPrefix(redis1, redis.KeyPrefix) && slotTag(redis1) == redis1 {
			t.Fatalf("%q has no hash tag, want one", redis1)
		}
	})
}

// TestPlainNamespaceHidesLardersKeys: walks of the plain namespace see every key, and must tell Larder's own apart.
func TestPlainNamespaceHidesLardersKeys(t *testing.T) {
	t.Parallel()
	s := &Cache{options: Options{PlainNamespace: "plain"}}
	for redisKey, visible := range map[string]bool{
		"user:123": true, "ld": true, "LD:c": true, "xld:c:{a:b}": true, "ld:c:{a:b}": false, "ld:": false, "ld:s:{p1}:a:b": false,
	} {
		if got, ok := s.userKey("plain", redisKey); ok != visible || ok && got != redisKey {
			t.Errorf("userKey(%q) = %q, %v, want visible %v", redisKey, got, ok, visible)
		}
	}
}

func FuzzUserKey(f *testing.F) {
	for _, k := range []string{"", "ld:c:{a:}", "ld:c:{a:b}", "ld:c:{a:b", "ld:c:{ab:c}", "ld:c:{a", "ld:s:{p1}:a:b", "a"} {
		f.Add("a", k)
	}
	f.Fuzz(func(t *testing.T, namespace, redisKey string) {
		s := new(Cache)
		if !namespaceSyntax.MatchString(namespace) {
			return
		}
		if key, ok := s.userKey(namespace, redisKey); ok && s.entryKey(namespace, key) != redisKey {
			t.Fatalf("userKey(%q) = %q, whose Redis key is %q, want the same Redis key", redisKey, key, s.entryKey(namespace, key))
		}
	})
}

func TestAppendedKeysAreTheSame(t *testing.T) {
	t.Parallel()
	s := &Cache{options: Options{PlainNamespace: "plain"}}
	for want, got := range map[string][]byte{
		s.entryKey("n", "key"):        s.appendEntryKey(nil, "n", "key"),
		s.entryKey("plain", "user:1"): s.appendEntryKey(nil, "plain", "user:1"),
		tagKey("n", "tag"):            appendTagKey(nil, "n", "tag"),
		clearKey("n"):                 appendClearKey(nil, "n"),
	} {
		if string(got) != want {
			t.Errorf("appended key = %q, want %q", got, want)
		}
	}
}
