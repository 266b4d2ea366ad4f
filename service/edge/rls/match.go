package rls

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
)

// find returns the rule of a descriptor, nil if there is none, and the values by which the descriptor is counted: nil for
// those of its entries, otherwise with the pattern in the place of each value that shares its limit with others.
//
// The entries are followed one level each. A level prefers the key with the value, then the first pattern with * in the
// order of the file, then the key alone, and never goes back: if nothing is nested below what it has found, the other two
// are not tried. Only a rule at the last entry applies.
func (l *level) find(entries []*common.RateLimitDescriptor_Entry) (rule *Rule, shared []string) {
	for i, entry := range entries {
		n, wild := l.step(entry.GetKey(), entry.GetValue())
		if n == nil {
			return nil, nil
		}
		if wild && n.share {
			if shared == nil {
				shared = make([]string, len(entries))
			}
			shared[i] = n.pattern
		}
		if i == len(entries)-1 {
			return n.rule, shared
		}
		if n.below == nil {
			return nil, nil
		}
		l = n.below
	}
	return nil, nil
}

// step returns what an entry leads to, nil for nothing, and whether by a pattern with *.
func (l *level) step(key, value string) (n *node, wild bool) {
	both := key + "_" + value
	if n = l.byKey[both]; n != nil {
		return n, false
	}
	for _, n = range l.wildcards {
		if matches(n.pattern, both) {
			return n, true
		}
	}
	return l.byKey[key], false
}

// matches reports whether text is pattern with each * replaced by any number of bytes.
func matches(pattern, text string) bool {
	before, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, before)
	for ok {
		before, rest, wild = strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(text, before)
		}
		_, text, ok = strings.Cut(text, before) // the first place is as good as any later one
	}
	return false
}

// subject names the counter of a descriptor. Descriptors have different subjects if and only if their domains, their
// entries, or the number of the entries differ. The values are hashed, because they may be secrets such as API keys.
func subject(domain string, entries []*common.RateLimitDescriptor_Entry, shared []string) string {
	text := make([]byte, 0, 256)
	add := func(s string) {
		text = binary.AppendUvarint(text, uint64(len(s)))
		text = append(text, s...)
	}
	add(domain)
	for i, entry := range entries {
		add(entry.GetKey())
		if i < len(shared) && shared[i] != "" {
			text = append(text, 1)
			add(shared[i])
		} else {
			text = append(text, 0)
			add(entry.GetValue())
		}
	}
	sum := sha256.Sum256(text)
	name := base64.RawURLEncoding.EncodeToString(sum[:subjectBytes])
	if readable(domain) {
		return domain + ":" + name
	}
	return name
}

// subjectBytes is the length of the hash in a subject. Two of 2^64 descriptors have the same one.
const subjectBytes = 16

// readable reports whether a domain may stand in the name of a counter, where operators look for it.
func readable(domain string) bool {
	for _, c := range []byte(domain) {
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(domain) <= 64
}
