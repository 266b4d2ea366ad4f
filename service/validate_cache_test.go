package service

import (
	"fmt"
	"strings"
	"time"
)

// in returns a time from now as prototext.
func in(d time.Duration) string {
	return fmt.Sprintf("expire_time {seconds: %d}", time.Now().Add(d).Unix())
}

// expiries are the edges of the oneof expiry, for every message that has one. The maximum is an hour.
func expiries() (bad, good [][2]string) {
	bad = [][2]string{
		{"ttl {}", "ttl"},
		{"ttl {nanos: -1}", "ttl"},
		{"ttl {seconds: -1}", "ttl"},
		{"ttl {seconds: -315576000000}", "ttl"},
		{"ttl {seconds: 3600 nanos: 1}", "ttl"},
		{"ttl {seconds: 315576000000}", "ttl"},
		{"ttl {seconds: 315576000001}", "ttl"},
		{"ttl {seconds: 9223372036854775807}", "ttl"},
		{"ttl {seconds: -9223372036854775808}", "ttl"},
		{"ttl {seconds: 1 nanos: -1}", "ttl"},
		{"ttl {seconds: 1 nanos: 1000000000}", "ttl"},
		{"expire_time {}", "expire_time"},
		{in(0), "expire_time"},
		{in(-time.Hour), "expire_time"},
		{in(time.Hour + time.Minute), "expire_time"},
		{"expire_time {seconds: -62135596801}", "expire_time"},
		{"expire_time {seconds: 253402300799}", "expire_time"},
		{"expire_time {seconds: 253402300800}", "expire_time"},
		{"expire_time {seconds: 9223372036854775807}", "expire_time"},
		{strings.Replace(in(time.Minute), "}", " nanos: -1}", 1), "expire_time"},
		{strings.Replace(in(time.Minute), "}", " nanos: 1000000000}", 1), "expire_time"},
		{"never: false", "never"},
	}
	good = [][2]string{
		{""},
		{"ttl {nanos: 1}"},
		{"ttl {nanos: 1000000}"},
		{"ttl {seconds: 3600}"},
		{in(time.Minute)},
		{in(time.Hour - time.Second)},
		{"never: true"},
	}
	return bad, good
}

// writes are the edges of what a SetRequest and an item of a batch have in common beside the expiry.
func writes() (bad, good [][2]string) {
	bad = [][2]string{
		{"value: " + quoted(65), "value"},
		{`negative: true value: "v"`, "value"},
		{"stale_ttl {nanos: -1}", "stale_ttl"},
		{"stale_ttl {seconds: 3601}", "stale_ttl"},
		{"stale_ttl {seconds: 315576000001}", "stale_ttl"},
		{"stale_ttl {seconds: 3000 nanos: 1}", "stale_ttl"}, // the default is 600 s
		{"ttl {seconds: 1800} stale_ttl {seconds: 1800 nanos: 1}", "stale_ttl"},
		{"ttl {seconds: 3600} stale_ttl {nanos: 1}", "stale_ttl"},
		{in(30*time.Minute) + "stale_ttl {seconds: 1860}", "stale_ttl"},
		{"never: true stale_ttl {seconds: 1}", "stale_ttl"},
		{"negative: true stale_ttl {seconds: 1}", "stale_ttl"},
		{`never: true tags: "a"`, "never"},
		{numbered(33, `tags: "t%d"`), "tags"},
		{times(33, `tags: "same"`), "tags"},
		{`tags: "a" tags: ""`, "tags[1]"},
		{`tags: "a" tags: ` + quoted(129), "tags[1]"},
		{`tags: "tagged\000"`, "tags[0]"},
		{"content_type: " + quoted(256), "content_type"},
		{`content_type: "text/\000plain"`, "content_type"},
	}
	good = [][2]string{
		{"value: " + quoted(64)},
		{"negative: true"},
		{`value: "\000\377"`},
		{"stale_ttl {nanos: 1}"},
		{"stale_ttl {seconds: 3000}"},
		{"ttl {seconds: 1800} stale_ttl {seconds: 1800}"},
		{numbered(32, `tags: "t%d"`)},
		{times(32, `tags: "same"`)},
		{"tags: " + quoted(128)},
		{"content_type: " + quoted(255)},
	}
	return bad, good
}

// cacheEdges are the edges of the requests of CacheService.
func cacheEdges() (bad, good [][3]string) {
	lease := ` lease_token: "$LEASE"`
	keyed := map[string]string{
		"Get": "", "Set": "", "Delete": "", "Touch": "", "Increment": "", "GetOrLease": "", "Fill": lease, "ReleaseLease": lease,
	}
	for rpc, rest := range keyed {
		for _, key := range []string{`""`, quoted(1025), `"\000"`, `"key with \000"`, `"` + strings.Repeat("ä", 513) + `"`} {
			bad = append(bad, [3]string{rpc, "key: " + key + rest, "key"})
		}
		for _, key := range []string{`"k"`, quoted(1024), `"` + strings.Repeat("ä", 512) + `"`, `"\n\r\t {}[]*?"`} {
			good = append(good, [3]string{rpc, "key: " + key + rest})
		}
		bad = append(bad, [3]string{rpc, `namespace: "plain" key: "ld:c:{default:k}"` + rest, "key"})
		good = append(good, [3]string{rpc, `namespace: "plain" key: "ldx"` + rest}, [3]string{rpc, `key: "ld:c:{default:k}"` + rest})
	}
	badExpiries, goodExpiries := expiries()
	badWrites, goodWrites := writes()
	for _, e := range badExpiries {
		for _, rpc := range []string{"Set", "Touch", "Increment"} {
			bad = append(bad, [3]string{rpc, `key: "k" ` + e[0], e[1]})
		}
		bad = append(bad, [3]string{"Fill", `key: "k" ` + e[0] + lease, e[1]},
			[3]string{"BatchSet", times(3, `items {key: "k"}`) + `items {key: "k" ` + e[0] + `}`, "items[3]." + e[1]})
	}
	for _, e := range goodExpiries {
		for _, rpc := range []string{"Set", "Touch", "Increment"} {
			good = append(good, [3]string{rpc, `key: "k" ` + e[0]})
		}
		good = append(good, [3]string{"BatchSet", `items {key: "k" ` + e[0] + "}"}, [3]string{"Fill", `key: "k" ` + e[0] + lease})
	}
	for _, w := range badWrites {
		bad = append(bad,
			[3]string{"Set", `key: "k" ` + w[0], w[1]},
			[3]string{"Fill", `key: "k" ` + w[0] + lease, w[1]},
			[3]string{"BatchSet", `items {key: "k"} items {key: "k" ` + w[0] + "}", "items[1]." + w[1]})
	}
	for _, w := range goodWrites {
		good = append(good, [3]string{"Fill", `key: "k" ` + w[0] + lease}, [3]string{"Set", `key: "k" ` + w[0]}, [3]string{"BatchSet", `items {key: "k" ` + w[0] + "}"})
	}
	for _, etag := range []string{`"0123456789abcde"`, `"0123456789abcdef0"`, `"0123456789abcdeg"`, `"0123456789ABCDEF"`, `"\"0123456789abcd"`, quoted(2000)} {
		bad = append(bad,
			[3]string{"Get", `key: "k" if_none_match: ` + etag, "if_none_match"},
			[3]string{"Set", `key: "k" if_none_match: ` + etag, "if_none_match"},
			[3]string{"Set", `key: "k" if_match: ` + etag, "if_match"},
			[3]string{"Delete", `key: "k" if_match: ` + etag, "if_match"})
	}
	for _, rpc := range []string{"BatchGet", "BatchDelete"} {
		bad = append(bad, [][3]string{
			{rpc, "", "keys"},
			{rpc, times(1001, `keys: "k"`), "keys"},
			{rpc, `keys: "a" keys: "b" keys: ""`, "keys[2]"},
			{rpc, `keys: "a" keys: "b" keys: ` + quoted(1025), "keys[2]"},
			{rpc, `keys: "a" keys: "batch\000"`, "keys[1]"},
			{rpc, `namespace: "plain" keys: "ld:s:secret"`, "keys[0]"},
		}...)
		good = append(good, [3]string{rpc, times(1000, `keys: "none"`)}, [3]string{rpc, "keys: " + quoted(1024)})
	}
	// The grammar of patterns: classes hold ASCII characters and ranges in order, and \ stands before a special character.
	for _, p := range []string{
		quoted(1025), `"a\000b"`, `"[a"`, `"a["`, `"[a-"`, `"a\\"`, `"[a\\]"`, `"[^a"`, `"x[a]["`,
		`"[]"`, `"[^]"`, `"[]a]"`, `"[z-a]"`, `"[a-]"`, `"[a-\\]]"`, `"[A-]x]"`, `"[A-\\]]"`, `"[A-[]"`, `"[\\a]"`, `"[[a]"`, `"[[:alpha:]]"`, `"[ä]"`, `"[a-ä]"`, `"[\\--!]"`,
	} {
		bad = append(bad, [3]string{"ListKeys", "pattern: " + p, "pattern"}, [3]string{"DeleteMatching", "pattern: " + p, "pattern"})
	}
	for _, p := range []string{`"*"`, `"no]match"`, `"no[a-c^]match"`, `"no\\[match"`, `"[^a-z]no"`, `"no[\\]\\\\\\-\\^]match"`, `"no[-a]match"`, quoted(1024)} {
		good = append(good, [3]string{"ListKeys", "pattern: " + p})
	}

	for _, d := range [][3]string{
		{"Get", "max_age", ""}, {"GetOrLease", "max_age", ""}, {"GetOrLease", "lease_ttl", "60"}, {"GetOrLease", "wait_timeout", "30"}, {"ReleaseLease", "retry_after", "60"},
	} {
		start := `key: "k" `
		if d[0] == "ReleaseLease" {
			start += lease + " "
		}
		start += d[1]
		wrong := []string{"nanos: -1", "seconds: -1", "seconds: 315576000001", "seconds: 1 nanos: -1"}
		right := []string{"nanos: 1", "seconds: 1"}
		if d[2] != "" {
			wrong, right = append(wrong, "seconds: "+d[2]+" nanos: 1"), append(right, "seconds: "+d[2])
		} else {
			right = append(right, "seconds: 315576000000")
		}
		if d[1] == "wait_timeout" {
			right = []string{"", "nanos: 1", "seconds: 30"}
		} else {
			wrong = append(wrong, "")
		}
		for _, w := range wrong {
			bad = append(bad, [3]string{d[0], start + " {" + w + "}", d[1]})
		}
		for _, r := range right {
			if d[1] == "wait_timeout" {
				r += `} namespace: "waits" lease_ttl {nanos: 1000000`
			}
			good = append(good, [3]string{d[0], start + " {" + r + "}"})
		}
	}
	for _, beta := range []string{"-0.1", "100.1", "nan", "inf", "-inf"} {
		bad = append(bad, [3]string{"GetOrLease", `key: "k" beta: ` + beta, "beta"})
	}
	for _, beta := range []string{"0", "0.5", "100"} {
		good = append(good, [3]string{"GetOrLease", `key: "k" beta: ` + beta})
	}
	for _, rpc := range []string{"Fill", "ReleaseLease"} {
		for _, token := range []string{`""`, `"malformed"`, quoted(22), quoted(2000)} {
			bad = append(bad, [3]string{rpc, `key: "k" lease_token: ` + token, "lease_token"})
		}
	}
	bad = append(bad, [][3]string{
		{"InvalidateTags", "", "tags"},
		{"InvalidateTags", numbered(33, `tags: "t%d"`), "tags"},
		{"InvalidateTags", `tags: "a" tags: ""`, "tags[1]"},
		{"InvalidateTags", "tags: " + quoted(129), "tags[0]"},
		{"InvalidateTags", `tags: "tagged\000"`, "tags[0]"},
		{"InvalidateTags", `tags: "a" mode: 3`, "mode"},
		{"InvalidateTags", `tags: "a" mode: -1`, "mode"},
		{"ClearNamespace", "", "namespace"},
		{"ClearNamespace", `namespace: "default" mode: 3`, "mode"},
		{"ClearNamespace", `namespace: "default" mode: -1`, "mode"},
		{"GetStats", `namespace: "_other"`, "namespace"},
		{"Watch", numbered(17, `prefixes: "p%d"`), "prefixes"},
		{"Watch", `prefixes: "a" prefixes: ""`, "prefixes[1]"},
		{"Watch", "prefixes: " + quoted(1025), "prefixes[0]"},
		{"Watch", `prefixes: "prefix\000"`, "prefixes[0]"},
	}...)
	good = append(good, [][3]string{
		{"Get", `key: "k" allow_stale: false`},
		{"Get", `key: "k" allow_stale: true`},
		{"InvalidateTags", numbered(32, `tags: "t%d"`)},
		{"InvalidateTags", `tags: "same" tags: "same" mode: INVALIDATION_MODE_STALE`},
		{"InvalidateTags", "tags: " + quoted(128)},
		{"ClearNamespace", `namespace: "default"`},
		{"ClearNamespace", `namespace: "other" mode: INVALIDATION_MODE_STALE`},
		{"Watch", ""},
		{"Watch", numbered(16, `prefixes: "p%d"`)},
		{"Watch", "prefixes: " + quoted(1024)},
	}...)

	bad = append(bad, [][3]string{
		{"Get", `key: "k" consistency: 3`, "consistency"},
		{"Get", `key: "k" consistency: -1`, "consistency"},
		{"Set", `key: "k" if_absent: false`, "if_absent"},
		{"Set", `key: "k" if_present: false`, "if_present"},
		{"Set", `key: "k" if_match: ""`, "if_match"},
		{"Set", `key: "k" if_none_match: ""`, "if_none_match"},
		{"Touch", `key: "k" mode: 4`, "mode"},
		{"Touch", `key: "k" mode: -1`, "mode"},
		{"Increment", `key: "k" ttl_policy: 4`, "ttl_policy"},
		{"Increment", `key: "k" ttl_policy: -2147483648`, "ttl_policy"},
		{"Increment", `key: "k" on_bound: 3`, "on_bound"},
		{"Increment", `key: "k" ttl_policy: TTL_POLICY_KEEP ttl {seconds: 1}`, "ttl_policy"},
		{"Increment", `key: "k" ttl_policy: TTL_POLICY_KEEP never: true`, "ttl_policy"},
		{"Increment", `key: "k" ttl_policy: TTL_POLICY_KEEP ` + in(time.Minute), "ttl_policy"},
		{"Increment", `key: "k" min: 2 max: 1`, "max"},
		{"BatchGet", `keys: "k" consistency: 99`, "consistency"},
		{"BatchSet", "", "items"},
		{"BatchSet", times(1001, `items {key: "k"}`), "items"},
		{"BatchSet", `items {key: "k"} items {}`, "items[1].key"},
		{"BatchSet", `items {key: ` + quoted(1025) + "}", "items[0].key"},
		{"BatchSet", `namespace: "plain" items {key: "ld:secret"}`, "items[0].key"},
		{"DeleteMatching", "", "pattern"},
		{"ListKeys", "page_size: -1", "page_size"},
		{"ListKeys", "page_size: -2147483648", "page_size"},
	}...)
	good = append(good, [][3]string{
		{"Get", `key: "k" consistency: CONSISTENCY_PRIMARY if_none_match: "0123456789abcdef"`},
		{"Get", `key: "k" if_none_match: ""`},
		{"Set", `key: "k" if_absent: true`},
		{"Set", `key: "k" if_present: true`},
		{"Set", `key: "k" if_match: "0123456789abcdef"`},
		{"Delete", `key: "k" if_match: ""`},
		{"Touch", `key: "k" mode: TOUCH_MODE_SHORTEN_ONLY`},
		{"Increment", `key: "n" min: 5 max: 5`},
		{"Increment", `key: "n" min: -9223372036854775808 max: 9223372036854775807`},
		{"Increment", `key: "n" ttl_policy: TTL_POLICY_KEEP on_bound: BOUND_POLICY_SATURATE`},
		{"BatchSet", times(1000, `items {key: "k"}`)},
		{"DeleteMatching", `pattern: "[x]none"`},
		{"ListKeys", "page_size: 2147483647"},
	}...)
	return bad, good
}
