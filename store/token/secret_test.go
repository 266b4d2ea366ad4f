package token_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

// Nothing that Redis holds, logs or writes to its files lets anybody present a token: the test looks for every secret in every
// form, and then presents whatever it finds.
func TestRedisHoldsNoTokenSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := redistest.Start(t, redistest.Options{Dir: dir, Args: []string{
		"slowlog-log-slower-than", "0", "slowlog-max-len", "100000", "appendonly", "yes", "appendfsync", "always",
	}})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}, Keyring: newKeyring(t, "a")})
	long := func(i *token.Issue) {
		i.Alphabet, i.Length, i.MaxOpen, i.Binding = token.Crockford, 16, 5, "the-binding-cookie"
	}
	bound := func(p *token.Presented) { p.Binding = "the-binding-cookie" }
	var secrets []string
	link, code := issue(t, s, "n", a(token.Link, "ann", long)), issue(t, s, "n", a(token.Code, "ann", long))
	set := issue(t, s, "n", a(token.Recovery, "ann"))
	used := issue(t, s, "n", a(token.Code, "bob", long))
	expect(t, s, "n", present(used, bound, func(p *token.Presented) { p.Request = "the-request-id" }), token.Accepted)
	expect(t, s, "n", present(code, bound, wrong), token.Incorrect)
	expect(t, s, "n", present(set), token.Accepted)
	exchanged := issue(t, s, "n", a(token.Link, "carl", long))
	grant := exchange(t, s, "n", present(exchanged, bound), token.Grant{Binding: "the-binding-cookie"}, token.Accepted)
	for _, l := range []string{link.Link, exchanged.Link, grant.Grant} {
		b, err := base64.RawURLEncoding.DecodeString(l[len("lt1_"):])
		if err != nil {
			t.Fatalf("DecodeString = error %v, want none", err)
		}
		secret := b[17:]
		secrets = append(secrets, l, l[40:], string(secret), hex.EncodeToString(secret), base64.RawStdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret))
	}
	for _, c := range append(slices.Clone(set.RecoveryCodes), code.Code, used.Code) {
		bare := strings.ReplaceAll(c, "-", "")
		unkeyed := sha256.Sum256([]byte(bare))
		secrets = append(secrets, c, bare, strings.ToLower(bare), string(unkeyed[:]))
	}
	// A code is short, so that no hash without a key of anything that Redis holds may stand for it.
	for _, prefix := range []string{"", code.ID, recordOf("n", "ann", code.ID), "larder mac 0 " + recordOf("n", "ann", code.ID) + "\x00"} {
		sum := sha256.Sum256([]byte(prefix + code.Code))
		secrets = append(secrets, string(sum[:]))
	}
	secrets = append(secrets, "the-binding-cookie", "the-request-id", "payload of ann", "203.0.113.7")
	consume(t, s, "n", present(used, func(p *token.Presented) { p.Source = "203.0.113.7" }))

	seen := map[string][]byte{"slow log": fmt.Append(nil, server.Do(t, "SLOWLOG", "GET", "-1"))}
	var values []string // all that Redis can be asked for
	for _, key := range server.Do(t, "KEYS", "*").([]any) {
		key := key.(string)
		read := map[string][]string{
			"hash": {"HGETALL", key}, "zset": {"ZRANGE", key, "0", "-1"}, "set": {"SMEMBERS", key}, "string": {"GET", key}, "stream": {"XRANGE", key, "-", "+"}, "list": {"LRANGE", key, "0", "-1"},
		}[server.Do(t, "TYPE", key).(string)]
		found := server.Do(t, read...)
		seen[key] = fmt.Append([]byte(key), found)
		values = append(append(values, key), leaves(found)...)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			seen[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("WalkDir = error %v, want none", err)
	}
	for where, text := range seen {
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s holds %q, want no secret in any form", where, secret)
			}
		}
	}

	// Whoever has read Redis presents all that was found there: as a link, as the secret of a link, as a code.
	many := calm()
	many.Failures, many.Consecutive = 1<<30, 1<<30
	tried := 0
	try := func(p token.Presented) {
		p.Limits, p.Binding = many, "the-binding-cookie"
		tried++
		for _, purpose := range []string{purpose, purpose + token.GrantSuffix} {
			p.Purpose = purpose
			if c, err := s.Tokens.Consume(t.Context(), "n", p); err != nil || c.Verdict == token.Accepted || c.Payload != "" {
				t.Errorf("Consume of what Redis holds (%+v) = %+v, %v, want it refused", p, c, err)
			}
		}
		// An attacker is not stopped by the attempts here, so that each one is compared.
		for _, id := range []string{link.ID, code.ID} {
			server.Do(t, "HSET", recordOf("n", "ann", id), "att", "0")
		}
		server.Do(t, "HSET", recordOf("n", "carl", grant.GrantID), "att", "0")
	}
	for _, value := range values {
		for _, id := range []string{link.ID, grant.GrantID} {
			raw, _ := base64.RawURLEncoding.DecodeString(id)
			padded := append([]byte(value), make([]byte, 32)...)[:32]
			try(token.Presented{Link: "lt1_" + base64.RawURLEncoding.EncodeToString(append(raw, padded...))})
		}
		try(token.Presented{Link: value})
		try(token.Presented{ID: code.ID, Code: value})
		try(token.Presented{Subject: "ann", Code: value})
		try(token.Presented{Subject: "ann", Code: strings.TrimPrefix(value, "c:")})
	}
	if tried < 300 {
		t.Errorf("%d presentations were tried, want at least 300", tried)
	}
	expect(t, s, "n", present(code, bound, func(p *token.Presented) { p.Limits = many }), token.Accepted)
	expect(t, s, "n", present(set, func(p *token.Presented) { p.Code, p.Limits = set.RecoveryCodes[1], many }), token.Accepted)
}

// leaves are the strings of an answer of Redis.
func leaves(v any) (all []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			all = append(all, leaves(e)...)
		}
	case string:
		all = append(all, v)
	default:
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// Codes are good under every key of the keyring, and those from before there was one; without their key nothing is compared and
// nothing is counted.
func TestCodesUnderReplacedKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	under := func(k *keyring.Keyring) *store.Store {
		return storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}}, Keyring: k})
	}
	none, before, both, after := under(nil), under(newKeyring(t, "a")), under(newKeyring(t, "b", "a")), under(newKeyring(t, "b"))
	for _, kind := range kinds {
		subject := "ann-" + string(kind)
		i := issue(t, none, "n", a(kind, subject))
		expect(t, before, "n", present(i), token.Accepted)
		i = issue(t, before, "n", a(kind, subject))
		for _, other := range []*store.Store{after, none} {
			if c, err := other.Tokens.Consume(t.Context(), "n", present(i)); !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("Consume without the key = %+v, %v, want ErrKeyUnknown", c, err)
			}
		}
		if b := budgetOf(t, both, "n", subject, limits); b.Failures != 0 {
			t.Errorf("the budget is %+v, want no failure: nothing was compared", b)
		}
		expect(t, both, "n", present(i, wrong), token.Incorrect)
		if c := expect(t, both, "n", present(i), token.Accepted); c.Payload != "payload of "+subject {
			t.Errorf("the payload is %q, want it decrypted", c.Payload)
		}
	}
}

// Each digit is as likely as any other, at every place: chi-squared at 9 degrees of freedom, of which one in 10^9 exceeds 58.
func TestCodesAreUnbiased(t *testing.T) {
	t.Parallel()
	const codes = 20000
	for alphabet, most := range map[string]float64{token.Digits: 58, token.Crockford: 96} {
		counts := [6]map[rune]int{}
		for at := range counts {
			counts[at] = map[rune]int{}
		}
		for range codes {
			for at, c := range token.NewCode(alphabet, 6) {
				counts[at][c]++
			}
		}
		for at := range counts {
			expected, chi := float64(codes)/float64(len(alphabet)), 0.0
			for _, c := range alphabet {
				chi += math.Pow(float64(counts[at][c])-expected, 2) / expected
			}
			if chi > most || len(counts[at]) != len(alphabet) {
				t.Errorf("place %d of %d codes has chi-squared %.1f over %d characters, want at most %v over %d", at, codes, chi, len(counts[at]), most, len(alphabet))
			}
		}
	}
}

func FuzzLink(f *testing.F) {
	f.Add("lt1_" + strings.Repeat("A", 66))
	f.Add("lt1_" + strings.Repeat("A", 65) + "\n")
	f.Add("ls1_" + strings.Repeat("A", 66))
	f.Fuzz(func(t *testing.T, link string) {
		id, digest, ok := token.ParseLink(link)
		if !ok {
			if id != "" || digest != "" {
				t.Errorf("ParseLink(%q) = %q, %q, malformed, want nothing", link, id, digest)
			}
			return
		}
		b, err := base64.RawURLEncoding.DecodeString(link[len("lt1_"):])
		if err != nil || len(b) != 49 || "lt1_"+base64.RawURLEncoding.EncodeToString(b) != link {
			t.Fatalf("ParseLink(%q) is well-formed, want only the one encoding of 49 bytes to be", link)
		}
		if sum := sha256.Sum256(b[17:]); id != base64.RawURLEncoding.EncodeToString(b[:17]) || digest != string(sum[:]) {
			t.Errorf("ParseLink(%q) = %q, %x, want the id and the SHA-256 of the secret", link, id, digest)
		}
	})
}

func FuzzNormalizedCodes(f *testing.F) {
	f.Add("abcde-fghjk")
	f.Add("O0 1Il")
	f.Fuzz(func(t *testing.T, code string) {
		once := token.Normalize(code)
		if again := token.Normalize(once); again != once {
			t.Errorf("Normalize(%q) = %q and then %q, want it to be settled", code, once, again)
		}
		if strings.Trim(code, token.Digits) == "" && once != code {
			t.Errorf("Normalize(%q) = %q, want digits unchanged", code, once)
		}
	})
}

// The keys of tokens begin with letters that nothing else has.
func TestKeysHaveLettersOfTheirOwn(t *testing.T) {
	t.Parallel()
	for _, k := range token.Keys(7, "n", strings.Repeat("0", 32), purpose, strings.Repeat("A", 23), "ip") {
		if !strings.HasPrefix(k, "ld:") || !strings.ContainsAny(k[3:4], "obj") || k[4:7] != ":{p" {
			t.Errorf("a key is %q, want ld:o:, ld:b: or ld:j: and a partition", k)
		}
	}
}

// Keys of different things are never equal, whatever the purpose and the source are called.
func FuzzKeysAreInjective(f *testing.F) {
	f.Add("n", "source", "reset", "n", "reset", "source")
	f.Add("a", "x", "b", "a.b", "x", "y")
	f.Fuzz(func(t *testing.T, ns, source, purpose, ns2, source2, purpose2 string) {
		for _, name := range []string{ns, ns2, purpose, purpose2} {
			if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
				return // not a name that reaches the store
			}
		}
		hash, id := strings.Repeat("0", 32), strings.Repeat("A", 23)
		keys := map[string]string{}
		for n, k := range token.Keys(7, ns, hash, purpose, id, source) {
			keys[k] = fmt.Sprint(n)
		}
		if len(keys) != 6 {
			t.Errorf("the keys are %q, want six different ones", slices.Collect(maps.Keys(keys)))
		}
		for n, k := range token.Keys(7, ns2, hash, purpose2, id, source2) {
			same := n == 0 && ns == ns2 || n == 1 && ns == ns2 && purpose == purpose2 || n == 2 && ns == ns2 && source == source2 || n > 2
			if (keys[k] != "") != same || keys[k] != "" && keys[k] != fmt.Sprint(n) {
				t.Errorf("key %d of (%q, %q, %q) is %q, that of (%q, %q, %q): %s; want it the same: %t", n, ns2, purpose2, source2, k, ns, purpose, source, keys[k], same)
			}
		}
	})
}
