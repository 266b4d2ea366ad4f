package lock

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// FuzzToken: a token is what its parts make, no other text is one, and a request makes one holder and one secret for each salt.
func FuzzToken(f *testing.F) {
	f.Add("n", "name", "request", "salt", "ll1_")
	f.Add("n", "a\x00b", "c", "", "ll1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("", "", "", "", "ll1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB")
	f.Add("", "", "", "", "ll1_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nA")
	f.Fuzz(func(t *testing.T, namespace, name, request, salt, other string) {
		k := lockKey{namespace, name}
		id, secret := holderID(k, request), secretOf(k, request, salt)
		token := tokenOf(id, secret)
		c, ok := parseToken(token)
		if !ok || c.id != id || c.proof != proofOf(secret) {
			t.Fatalf("parseToken of the token of %q = %v, %t, want its parts", id, c, ok)
		}
		if strings.Contains(c.id+c.proof, string(secret)) {
			t.Fatalf("what Redis holds has the secret, want its hash")
		}
		if holderID(k, request+"x") == id || bytes.Equal(secretOf(k, request+"x", salt), secret) || bytes.Equal(secretOf(k, request, salt+"x"), secret) {
			t.Fatalf("another request or salt has the same holder or secret, want others")
		}
		if c, ok := parseToken(other); ok {
			if again := tokenPrefix + other[len(tokenPrefix):]; again != other || len(c.id) != 2*idBytes || len(other) != len(token) {
				t.Fatalf("parseToken(%q) = %v, want only whole tokens", other, c)
			}
		}
	})
}

// FuzzRecord: what the script writes is read as it was, and nothing else makes the reader fail badly.
func FuzzRecord(f *testing.F) {
	f.Add(int64(1), int64(2), int64(3), "owner", "metadata", "")
	f.Add(int64(1795629541940124), int64(0), int64(86400000), "", " 1 2 3 ", strings.Repeat("x", 32)+"1 2 3 9 short")
	f.Add(int64(1), int64(1), int64(1), "9 9", "", strings.Repeat("x", 32)+"-1 2 3 0 ")
	f.Fuzz(func(t *testing.T, fence, at, ttl int64, owner, metadata, other string) {
		if fence < 0 || at < 0 || ttl < 0 || ttl > MaxTTL.Milliseconds() {
			return
		}
		salt, proof := strings.Repeat("s", saltBytes), strings.Repeat("p", secretBytes)
		r, ok := parseRecord(fmt.Sprintf("%s%s%d %d %d %d %s%s", salt, proof, fence, at, ttl, len(owner), owner, metadata))
		want := record{salt, proof, fence, time.UnixMicro(at), time.Duration(ttl) * time.Millisecond, owner, metadata}
		if !ok || r != want {
			t.Fatalf("parseRecord = %+v, %t, want %+v", r, ok, want)
		}
		if r, ok := parseRecord(other); ok && (r.fence < 0 || r.ttl < 0 || len(r.salt) != saltBytes) {
			t.Fatalf("parseRecord(%q) = %+v, want a record or none", other, r)
		}
	})
}

// FuzzKeys: no two locks share a key, whatever kind, and the name of a lock can be read from the key of its holders.
func FuzzKeys(f *testing.F) {
	f.Add("n", "a", "n", "a}")
	f.Add("n", "a}:kept", "n", "a")
	f.Add("n", "x}:taken", "n", "x")
	f.Fuzz(func(t *testing.T, ns1, name1, ns2, name2 string) {
		if strings.ContainsAny(ns1+ns2, ":{}") || ns1 == "" || ns2 == "" {
			return // no namespaces
		}
		a, b := lockKey{ns1, name1}, lockKey{ns2, name2}
		all := func(k lockKey) []string {
			return []string{k.holders(), k.records(), k.counter(), k.queue(), k.kept(), k.taken()}
		}
		seen := map[string]string{}
		for i, key := range all(a) {
			seen[key] = fmt.Sprint("a", i)
		}
		if len(seen) != len(all(a)) {
			t.Fatalf("keys of %v = %q, want different ones", a, all(a))
		}
		if a != b {
			for _, key := range all(b) {
				if seen[key] != "" {
					t.Fatalf("%v and %v share the key %q, want different ones", a, b, key)
				}
			}
		}
		if name, ok := lockName(ns1, a.holders()); !ok || name != name1 {
			t.Fatalf("lockName of the key of %v = %q, %t, want its name", a, name, ok)
		}
		for _, key := range []string{a.kept(), a.taken(), a.counter()} {
			if name, ok := lockName(ns1, key); ok && !strings.HasSuffix(key, "}") {
				t.Fatalf("lockName(%q) = %q, want none", key, name)
			}
		}
	})
}
