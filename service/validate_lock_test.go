package service

import "strings"

// lockToken has the form of a lock token, and is nobody's.
var lockToken = `lock_token: "ll1_` + strings.Repeat("A", 43) + `"`

func lockEdges() (bad, good [][3]string) {
	for _, rpc := range []string{"AcquireLock", "RenewLock", "ReleaseLock", "GetLock", "ForceReleaseLock", "HoldLock", "WatchLock"} {
		rest := ""
		if rpc == "RenewLock" || rpc == "ReleaseLock" {
			rest = " " + lockToken
		}
		for _, name := range []string{"", quoted(513), `"nul\000"`} {
			text := "name: " + name + rest
			if name == "" {
				text = rest
			}
			bad = append(bad, [3]string{rpc, text, "name"})
		}
		if rpc != "RenewLock" { // of a lock that nobody has
			good = append(good, [3]string{rpc, "name: " + quoted(512) + rest})
		}
	}
	for _, rpc := range []string{"AcquireLock", "HoldLock"} {
		for text, field := range map[string]string{
			"ttl {}": "ttl", "ttl {nanos: 99999999}": "ttl", "ttl {seconds: 86400 nanos: 1}": "ttl", "ttl {seconds: 1 nanos: -1}": "ttl",
			"ttl {seconds: 315576000001}": "ttl", "permits: -1": "permits", "permits: 1001": "permits", "owner: " + quoted(257): "owner",
			"metadata: " + quoted(1025): "metadata", `owner: "\000"`: "owner", `metadata: "\000"`: "metadata",
			"wait_timeout {nanos: -1}": "wait_timeout", "wait_timeout {seconds: 315576000001}": "wait_timeout",
		} {
			bad = append(bad, [3]string{rpc, `name: "n" ` + text, field})
		}
		good = append(good,
			[3]string{rpc, `name: "a` + rpc + `" ttl {nanos: 100000000} permits: 1000 owner: ` + quoted(256) + " metadata: " + quoted(1024)},
			[3]string{rpc, `name: "b` + rpc + `" ttl {seconds: 86400} wait_timeout {} fair: true`},
		)
	}
	bad = append(bad, [][3]string{
		{"AcquireLock", `name: "n" wait_timeout {seconds: 30 nanos: 1}`, "wait_timeout"},
		{"AcquireLock", `name: "n" request_id: ` + quoted(15), "request_id"},
		{"AcquireLock", `name: "n" request_id: ` + quoted(129), "request_id"},
		{"HoldLock", `name: "n" lock_token: "ll1_x"`, "lock_token"},
		{"RenewLock", `name: "n"`, "lock_token"},
		{"RenewLock", `name: "n" lock_token: "ll1_` + strings.Repeat("A", 42) + `"`, "lock_token"},
		{"RenewLock", `name: "n" lock_token: "ll1_` + strings.Repeat("A", 42) + `B"`, "lock_token"}, // its last bits are no part of it
		{"RenewLock", `name: "n" ttl {} ` + lockToken, "ttl"},
		{"ReleaseLock", `name: "n"`, "lock_token"},
		{"ReleaseLock", `name: "n" request_id: "short"`, "request_id"},
		{"ReleaseLock", `name: "n" request_id: ` + quoted(16) + " " + lockToken, "request_id"},
		{"ForceReleaseLock", `name: "n" fencing_token: -1`, "fencing_token"},
		{"ListLocks", `page_size: -1`, "page_size"},
		{"ListLocks", `pattern: "["`, "pattern"},
		{"ListLocks", `pattern: ` + quoted(1025), "pattern"},
	}...)
	for _, rpc := range []string{"Set", "Delete", "Fill"} {
		rest := `key: "k" `
		if rpc == "Fill" {
			rest += `lease_token: "$LEASE" `
		}
		for text, field := range map[string]string{
			"fencing_token: 1": "lock_name", "fencing_token: 1 lock_name: " + quoted(513): "lock_name",
			`lock_name: "n"`: "fencing_token", `lock_name: "n" fencing_token: -1`: "fencing_token", `lock_name: "n" fencing_token: 9007199254740992`: "fencing_token",
		} {
			bad = append(bad, [3]string{rpc, rest + "fence {" + text + "}", "fence." + field})
		}
		good = append(good, [3]string{rpc, rest + `fence {lock_name: ` + quoted(512) + ` fencing_token: 9007199254740991}`})
	}
	good = append(good, [][3]string{
		{"AcquireLock", `name: "n" request_id: ` + quoted(16)},
		{"AcquireLock", `name: "o" request_id: ` + quoted(128)},
		{"ReleaseLock", `name: "n" request_id: ` + quoted(128)},
		{"HoldLock", `name: "n" ` + lockToken},
		{"ForceReleaseLock", `name: "n" fencing_token: 9223372036854775807`},
		{"ListLocks", `pattern: "*[a-z]" page_size: 2147483647`},
	}...)
	return bad, good
}
