package rls

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

// entries makes a descriptor of "key=value" words.
func entries(words ...string) []*common.RateLimitDescriptor_Entry {
	list := make([]*common.RateLimitDescriptor_Entry, len(words))
	for i, word := range words {
		key, value, _ := strings.Cut(word, "=")
		list[i] = &common.RateLimitDescriptor_Entry{Key: key, Value: value}
	}
	return list
}

func descriptor(words ...string) *common.RateLimitDescriptor {
	return &common.RateLimitDescriptor{Entries: entries(words...)}
}

func hits(d *common.RateLimitDescriptor, n uint64) *common.RateLimitDescriptor {
	d.HitsAddend = wrapperspb.UInt64(n)
	return d
}

func request(domain string, descriptors ...*common.RateLimitDescriptor) *envoy.RateLimitRequest {
	return &envoy.RateLimitRequest{Domain: domain, Descriptors: descriptors}
}

// matching has a rule for each line of what the protocol's documents say of matching. The limits tell the rules apart.
const matching = `
domain: m
descriptors:
  - key: exact
    value: one
    rate_limit: {unit: second, requests_per_unit: 1}
  - key: exact
    rate_limit: {unit: second, requests_per_unit: 2}
  - key: wild
    value: aaa*
    rate_limit: {unit: second, requests_per_unit: 3}
  - key: wild
    value: a*
    rate_limit: {unit: second, requests_per_unit: 4}
  - key: wild
    value: aaaa*
    rate_limit: {unit: second, requests_per_unit: 5}
  - key: wild
    value: "*end"
    rate_limit: {unit: second, requests_per_unit: 6}
  - key: wild
    value: "x*y*z"
    rate_limit: {unit: second, requests_per_unit: 7}
  - key: wild
    rate_limit: {unit: second, requests_per_unit: 8}
  - key: "ke*"
    rate_limit: {unit: second, requests_per_unit: 9}
  - key: database
    value: default
    rate_limit: {unit: second, requests_per_unit: 10}
  - key: outer
    rate_limit: {unit: second, requests_per_unit: 11}
    descriptors:
      - key: inner
        rate_limit: {unit: second, requests_per_unit: 12}
  - key: outer
    value: dead
    rate_limit: {unit: second, requests_per_unit: 13}
  - key: allowed
  - key: foo_bar
    rate_limit: {unit: second, requests_per_unit: 14}
`

func TestMatching(t *testing.T) {
	t.Parallel()
	c := load(t, matching)
	for _, tt := range []struct {
		why     string
		entries []string
		want    uint32 // 0 for no rule
	}{
		{"key and value are preferred", []string{"exact=one"}, 1},
		{"else the key alone", []string{"exact=two"}, 2},
		{"else the key alone, without a value", []string{"exact="}, 2},
		{"upper and lower case differ", []string{"exact=One"}, 2},
		{"the first pattern in the file wins", []string{"wild=aaab"}, 3},
		{"the first pattern that matches wins, not the longest", []string{"wild=aaaab"}, 3},
		{"* is also no character", []string{"wild=aaa"}, 3},
		{"a later pattern", []string{"wild=ab"}, 4},
		{"* at the beginning", []string{"wild=the end"}, 6},
		{"* twice", []string{"wild=xxyyzz"}, 7},
		{"* twice, each no character", []string{"wild=xyz"}, 7},
		{"patterns are tried before the key alone", []string{"wild=b"}, 8},
		{"a * in the key", []string{"key=v"}, 9},
		{"the value default is a value like any other", []string{"database=default"}, 10},
		{"and no default", []string{"database=users"}, 0},
		{"a limit above nested descriptors", []string{"outer=v"}, 11},
		{"a nested limit", []string{"outer=v", "inner=w"}, 12},
		{"a longer descriptor does not fall back", []string{"exact=one", "more=v"}, 0},
		{"nor one that no nested rule is for", []string{"outer=v", "other=w"}, 0},
		{"an exact match is not given up for the key alone", []string{"outer=dead", "inner=w"}, 0},
		{"a descriptor without a limit allows", []string{"allowed=v"}, 0},
		{"no rule", []string{"unknown=v"}, 0},
		{"no entries", nil, 0},
		{"key and value are joined by _", []string{"foo=bar"}, 14},
	} {
		p, err := c.Plan(request("m", descriptor(tt.entries...)), new(Options))
		if err != nil {
			t.Fatalf("%s: Plan(%q) = %v, want nil", tt.why, tt.entries, err)
		}
		got := uint32(0)
		if len(p.Charges) > 0 {
			got = p.Charges[0].Rule.RequestsPerUnit
		}
		if got != tt.want {
			t.Errorf("%s: %q has the rule with the limit %d, want %d", tt.why, tt.entries, got, tt.want)
		}
	}
}

// Values that share a limit have one counter, also where the limit is further inside.
func TestSharedLimits(t *testing.T) {
	t.Parallel()
	c := load(t, `
domain: s
descriptors:
  - key: files
    value: files/*
    share_threshold: true
    rate_limit: {unit: hour, requests_per_unit: 10}
    descriptors:
      - key: user
        rate_limit: {unit: hour, requests_per_unit: 5}
  - key: own
    value: files/*
    rate_limit: {unit: hour, requests_per_unit: 10}
`)
	subjectOf := func(words ...string) string {
		t.Helper()
		p, err := c.Plan(request("s", descriptor(words...)), new(Options))
		if err != nil || len(p.Charges) != 1 {
			t.Fatalf("Plan(%q) = %v, %v, want one charge", words, p, err)
		}
		return p.Charges[0].Subject
	}
	for _, tt := range []struct {
		a, b []string
		same bool
	}{
		{[]string{"files=files/a"}, []string{"files=files/b"}, true},
		{[]string{"files=files/a", "user=u"}, []string{"files=files/b", "user=u"}, true},
		{[]string{"files=files/a", "user=u"}, []string{"files=files/a", "user=v"}, false},
		{[]string{"files=files/a"}, []string{"files=files/*"}, false}, // the pattern itself is an exact match
		{[]string{"own=files/a"}, []string{"own=files/b"}, false},
		{[]string{"own=files/a"}, []string{"own=files/a"}, true},
	} {
		if a, b := subjectOf(tt.a...), subjectOf(tt.b...); (a == b) != tt.same {
			t.Errorf("counters of %q and %q are %q and %q, want the same: %t", tt.a, tt.b, a, b, tt.same)
		}
	}
}

// The value of a descriptor may be an API key, and must not be in the name of its counter.
func TestSubjectsHideValues(t *testing.T) {
	t.Parallel()
	got := subject("gateway", entries("api_key=hunter2"), nil)
	if !regexp.MustCompile(`^gateway:[A-Za-z0-9_-]{22}$`).MatchString(got) || strings.Contains(got, "hunter2") {
		t.Errorf("subject = %q, want the domain and a hash", got)
	}
	if got := subject("a domain\n", entries("a=b"), nil); len(got) != 22 {
		t.Errorf("subject of a domain that is no name = %q, want a hash alone", got)
	}
}

// slowMatches is what matches means, written another way.
func slowMatches(pattern, text string) bool {
	if pattern == "" {
		return text == ""
	}
	if pattern[0] == '*' {
		for i := range len(text) + 1 {
			if slowMatches(pattern[1:], text[i:]) {
				return true
			}
		}
		return false
	}
	return text != "" && text[0] == pattern[0] && slowMatches(pattern[1:], text[1:])
}

func FuzzMatches(f *testing.F) {
	for _, seed := range [][2]string{{"a*", "ab"}, {"*", ""}, {"a*a", "a"}, {"*a*b*", "xaxb"}, {"a*b*c", "abcbc"}, {"**", "x"}, {"ab", "ab"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 12 || len(text) > 16 { // the slow way is exponential
			return
		}
		if got, want := matches(pattern, text), slowMatches(pattern, text); got != want {
			t.Errorf("matches(%q, %q) = %t, want %t", pattern, text, got, want)
		}
	})
}

// A modelRule is a descriptor of a file in the words of its README.
type modelRule struct {
	key, value string
	limit      uint32
	below      []modelRule
}

// fileOf writes rules as a file has them.
func fileOf(rules []modelRule, indent string) string {
	var text strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&text, "%s- key: %q\n", indent, r.key)
		if r.value != "" {
			fmt.Fprintf(&text, "%s  value: %q\n", indent, r.value)
		}
		if r.limit > 0 {
			fmt.Fprintf(&text, "%s  rate_limit: {unit: hour, requests_per_unit: %d}\n", indent, r.limit)
		}
		if len(r.below) > 0 {
			fmt.Fprintf(&text, "%s  descriptors:\n%s", indent, fileOf(r.below, indent+"    "))
		}
	}
	return text.String()
}

// find follows the documents step by step: key and value, else the first pattern, else the key; the last entry decides.
func find(rules []modelRule, words []string) uint32 {
	for i, word := range words {
		key, value, _ := strings.Cut(word, "=")
		pick := func(fits func(modelRule) bool) *modelRule {
			for n := range rules {
				if fits(rules[n]) {
					return &rules[n]
				}
			}
			return nil
		}
		composite := func(r modelRule) string { return strings.TrimSuffix(r.key+"_"+r.value, "_") }
		r := pick(func(r modelRule) bool { return composite(r) == key+"_"+value })
		if r == nil {
			r = pick(func(r modelRule) bool {
				return strings.Contains(composite(r), "*") && slowMatches(composite(r), key+"_"+value)
			})
		}
		if r == nil {
			r = pick(func(r modelRule) bool { return composite(r) == key })
		}
		switch {
		case r == nil:
			return 0
		case i == len(words)-1:
			return r.limit
		}
		rules = r.below
	}
	return 0
}

// Matching is that of a model over random files and descriptors.
func TestMatchingIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"a", "b", "ab", "ba"})
		pattern := rapid.SampledFrom([]string{"", "a", "b", "ab", "a*", "*b", "*", "a*b"})
		next := uint32(0)
		var rules func(depth int) []modelRule
		rules = func(depth int) (list []modelRule) {
			seen := map[string]bool{}
			for range rapid.IntRange(0, 4).Draw(t, "rules") {
				r := modelRule{key: word.Draw(t, "key"), value: pattern.Draw(t, "value")}
				if seen[r.key+"_"+r.value] {
					continue
				}
				seen[r.key+"_"+r.value] = true
				if rapid.Bool().Draw(t, "limited") {
					next++
					r.limit = next
				}
				if depth < 3 {
					r.below = rules(depth + 1)
				}
				list = append(list, r)
			}
			return list
		}
		all := rules(1)
		c, err := Load([]File{{"a.yaml", []byte("domain: d\ndescriptors:\n" + fileOf(all, "  "))}}, LoadOptions{})
		if err != nil {
			t.Fatalf("Load = %v, want nil", err)
		}
		for range 10 {
			words := make([]string, rapid.IntRange(0, 3).Draw(t, "entries"))
			for i := range words {
				words[i] = word.Draw(t, "key") + "=" + word.Draw(t, "value")
			}
			got := uint32(0)
			if rule, _ := c.domains["d"].find(entries(words...)); rule != nil {
				got = rule.RequestsPerUnit
			}
			if want := find(all, words); got != want {
				t.Fatalf("limit of %q = %d, want %d, of\n%s", words, got, want, fileOf(all, ""))
			}
		}
	})
}

// Two descriptors have one counter only if they are equal.
func FuzzSubjects(f *testing.F) {
	f.Add("d", "a", "bc", "d", "ab", "c", 1)
	f.Add("a:b", "", "", "a", "b", "", 0)
	f.Fuzz(func(t *testing.T, domain, key, value, domain2, key2, value2 string, more int) {
		one, two := entries(key+"="+value), entries(key2+"="+value2)
		one[0].Key, one[0].Value, two[0].Key, two[0].Value = key, value, key2, value2
		for range more % 3 {
			two = append(two, two[0])
		}
		same := domain == domain2 && key == key2 && value == value2 && len(two) == 1
		if a, b := subject(domain, one, nil), subject(domain2, two, nil); (a == b) != same {
			t.Errorf("subjects %q and %q of %q, %v and %q, %v, want the same: %t", a, b, domain, one, domain2, two, same)
		}
		if len(subject(domain, one, nil)) > 128 {
			t.Errorf("subject = %q, want at most 128 bytes", subject(domain, one, nil))
		}
		if a, b := subject(domain, one, nil), subject(domain, one, []string{value}); a == b && value != "" {
			t.Errorf("subject of the value %q and of the pattern %q = %q, want two", value, value, a)
		}
	})
}
