package service

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

// strictLimits are limits that small requests reach.
var strictLimits = policy.Limits{
	MaxValueBytes: 64, DefaultTTL: 10 * time.Minute, MaxTTL: time.Hour,
	SessionIdleTimeout: 10 * time.Minute, SessionAbsoluteTimeout: time.Hour, PlainNamespace: "plain",
	SessionsPerSubject: 3, SessionsPerClass: 2,
}

// violations are the fields that are named in an answer, in its order.
func violations(t testing.TB, err error) (fields []string) {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				fields = append(fields, v.Field)
				if v.Description == "" {
					t.Errorf("nothing is said of %s", v.Field)
				}
			}
		}
	}
	return fields
}

// texts are all strings and bytes of a message that are long enough to be told from others.
func texts(m protoreflect.Message) (all []string) {
	add := func(kind protoreflect.FieldDescriptor, v protoreflect.Value) {
		var s string
		switch kind.Kind() {
		case protoreflect.StringKind:
			s = v.String()
		case protoreflect.BytesKind:
			s = string(v.Bytes())
		case protoreflect.MessageKind:
			all = append(all, texts(v.Message())...)
		default:
		}
		if len(s) > 4 {
			all = append(all, s)
		}
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				add(field.MapKey(), k.Value())
				add(field.MapValue(), v)
				return true
			})
		case field.IsList():
			for i := range v.List().Len() {
				add(field, v.List().Get(i))
			}
		default:
			add(field, v)
		}
		return true
	})
	return all
}

// wantInvalid checks everything that an answer to a bad request says.
func wantInvalid(t testing.TB, req proto.Message, err error, fields ...string) {
	t.Helper()
	wantAnswer(t, err, answer{Code: codes.InvalidArgument, Reason: "INVALID_FIELD"})
	if diff := cmp.Diff(fields, violations(t, err)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	message := status.Convert(err).Message()
	if !strings.HasPrefix(message, fields[0]+": ") {
		t.Errorf("the message is %q", message)
	}
	said := status.Convert(err).Proto().String()
	for _, text := range texts(req.ProtoReflect()) {
		if strings.Contains(said, text) {
			t.Errorf("the answer repeats %.40q", text)
		}
	}
}

// snapshot is all that Redis holds.
const snapshot = `
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  all[#all + 1] = key .. redis.call('DUMP', key) .. redis.call('PEXPIRETIME', key)
end
table.sort(all)
return redis.sha1hex(table.concat(all))`

// in returns a time from now as prototext.
func in(d time.Duration) string {
	return fmt.Sprintf("expire_time {seconds: %d}", time.Now().Add(d).Unix())
}

func quoted(n int) string { return `"` + strings.Repeat("q", n) + `"` }

func times(n int, s string) string { return strings.Repeat(s+" ", n) }

// numbered repeats a format with a number that makes each one different.
func numbered(n int, format string) (s string) {
	for i := range n {
		s += fmt.Sprintf(format+" ", i)
	}
	return s
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

// edges returns requests, as prototext, that are just wrong, with the fields that are, and just right.
func edges() (bad, good [][3]string) {
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

		{"CreateSession", "subject: " + quoted(257), "subject"},
		{"CreateSession", `subject: "ann\000"`, "subject"},
		{"CreateSession", numbered(65, `attributes {key: "name%d"}`), "attributes"},
		{"CreateSession", `attributes {key: "" value: "value"}`, "attributes"},
		{"CreateSession", `attributes {key: ` + quoted(129) + "}", "attributes"},
		{"CreateSession", `attributes {key: "" value: "value"} attributes {key: ` + quoted(129) + "}", "attributes"},
		{"CreateSession", `attributes {key: "name" value: ` + quoted(64<<10-3) + "}", "attributes"},
		{"CreateSession", "device {ip: " + quoted(65) + "}", "device.ip"},
		{"CreateSession", "device {user_agent: " + quoted(513) + "}", "device.user_agent"},
		{"CreateSession", "device {label: " + quoted(129) + "}", "device.label"},
		{"CreateSession", `device {ip: "127.0.0.1\000"}`, "device.ip"},
		{"CreateSession", `device {user_agent: "agent\000"}`, "device.user_agent"},
		{"CreateSession", `device {label: "label\000"}`, "device.label"},
		{"CreateSession", `device {class: ` + quoted(33) + "}", "device.class"},
		{"CreateSession", `device {class: "Mobile"}`, "device.class"},
		{"CreateSession", `device {class: "a.b"}`, "device.class"},
		{"CreateSession", `device {class: "größe"}`, "device.class"},
		{"CreateSession", `subject: "ann" if_subject_epoch: -1`, "if_subject_epoch"},
		{"CreateSession", `if_subject_epoch: 0`, "if_subject_epoch"},
		{"CreateSession", `subject: "ann" max_sessions: -1`, "max_sessions"},
		{"CreateSession", `subject: "ann" max_sessions: 4`, "max_sessions"},
		{"CreateSession", `subject: "ann" max_class_sessions: -2147483648`, "max_class_sessions"},
		{"CreateSession", `subject: "ann" max_class_sessions: 3`, "max_class_sessions"},
		{"ValidateSession", "", "session_token"},
		{"ValidateSession", `session_token: "$TOKEN" touch: 4`, "touch"},
		{"ValidateSession", `session_token: "$TOKEN" touch: -1`, "touch"},
		{"ValidateSession", `session_token: "$TOKEN" consistency: 3`, "consistency"},
		{"ValidateSession", `session_token: "$TOKEN" require {min_aal: 4}`, "require.min_aal"},
		{"ValidateSession", `session_token: "$TOKEN" require {min_aal: -1}`, "require.min_aal"},
		{"ValidateSession", `session_token: "$TOKEN" require {max_auth_age {}}`, "require.max_auth_age"},
		{"ValidateSession", `session_token: "$TOKEN" require {max_auth_age {seconds: -1}}`, "require.max_auth_age"},
		{"ValidateSession", `session_token: "$TOKEN" require {max_auth_age {seconds: 315576000001}}`, "require.max_auth_age"},
		{"BatchValidateSessions", "", "items"},
		{"BatchValidateSessions", times(101, `items {session_token: "$TOKEN"}`), "items"},
		{"BatchValidateSessions", `items {session_token: "$TOKEN"} items {}`, "items[1].session_token"},
		{"BatchValidateSessions", `items {session_token: "$TOKEN" touch: 4}`, "items[0].touch"},
		{"BatchValidateSessions", `items {session_token: "$TOKEN" consistency: 3}`, "items[0].consistency"},
		{"BatchValidateSessions", `items {session_token: "$TOKEN" require {min_aal: 4}}`, "items[0].require.min_aal"},
		{"RotateSession", "", "session_token"},
		{"PromoteSession", `subject: "ann"`, "session_token"},
		{"PromoteSession", `session_token: "$TOKEN"`, "subject"},
		{"PromoteSession", `session_token: "$TOKEN" subject: ` + quoted(257), "subject"},
		{"PromoteSession", `session_token: "$TOKEN" subject: "ann\000"`, "subject"},
		{"ReauthenticateSession", `amr: "otp"`, "session_token"},
		{"ReauthenticateSession", `session_token: "$TOKEN"`, "amr"},
		{"ReauthenticateSession", `session_token: "$TOKEN" amr: "otp" aal: 4`, "aal"},
		{"ReauthenticateSession", `session_token: "$TOKEN" ` + numbered(17, `amr: "m%d"`), "amr"},
		{"ReauthenticateSession", `session_token: "$TOKEN" amr: "otp" amr: ""`, "amr[1]"},
		{"CreateSession", "assurance {}", "assurance"},
		{"GetSession", "", "session_id"},
		{"GetSession", `session_id: "$TOKEN"`, "session_id"},
		{"GetSession", `session_id: "$ID="`, "session_id"},
		{"GetSession", `session_id: "malformed"`, "session_id"},
		{"UpdateSession", `set_attributes {key: "a"}`, "target"},
		{"UpdateSession", `session_id: "" set_attributes {key: "a"}`, "target"},
		{"UpdateSession", `session_id: "$TOKEN" set_attributes {key: "a"}`, "session_id"},
		{"UpdateSession", `session_token: "" set_attributes {key: "a"}`, "target"},
		{"UpdateSession", `session_id: "$ID"`, "set_attributes"},
		{"UpdateSession", `session_id: "$ID" ` + numbered(65, `set_attributes {key: "name%d"}`), "set_attributes"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: ""}`, "set_attributes"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: "name" value: ` + quoted(64<<10-3) + "}", "set_attributes"},
		{"UpdateSession", `session_id: "$ID" ` + numbered(65, `delete_attributes: "name%d"`), "delete_attributes"},
		{"UpdateSession", `session_id: "$ID" delete_attributes: "a" delete_attributes: ""`, "delete_attributes[1]"},
		{"UpdateSession", `session_id: "$ID" delete_attributes: ` + quoted(129), "delete_attributes[0]"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: "color"} delete_attributes: "b" delete_attributes: "color"`, "delete_attributes[1]"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: "a"} expected_version: -1`, "expected_version"},
		{"UpdateSession", `session_id: "$ID" ` + numbered(65, `set_attributes_if_absent {key: "name%d"}`), "set_attributes_if_absent"},
		{"UpdateSession", `session_id: "$ID" set_attributes_if_absent {key: ""}`, "set_attributes_if_absent"},
		{"UpdateSession", `session_id: "$ID" set_attributes_if_absent {key: "name" value: ` + quoted(64<<10-3) + "}", "set_attributes_if_absent"},
		{"UpdateSession", `session_id: "$ID" ` + numbered(65, `increment_attributes {key: "name%d" value: 1}`), "increment_attributes"},
		{"UpdateSession", `session_id: "$ID" increment_attributes {key: "" value: 1}`, "increment_attributes"},
		{"UpdateSession", `session_id: "$ID" increment_attributes {key: ` + quoted(129) + " value: 1}", "increment_attributes"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: "x"} set_attributes_if_absent {key: "x"}`, "set_attributes_if_absent"},
		{"UpdateSession", `session_id: "$ID" set_attributes {key: "x"} increment_attributes {key: "x" value: 1}`, "increment_attributes"},
		{"UpdateSession", `session_id: "$ID" set_attributes_if_absent {key: "x"} increment_attributes {key: "x" value: 1}`, "increment_attributes"},
		{"UpdateSession", `session_id: "$ID" set_attributes_if_absent {key: "x"} delete_attributes: "x"`, "delete_attributes[0]"},
		{"UpdateSession", `session_id: "$ID" increment_attributes {key: "x" value: 1} delete_attributes: "x"`, "delete_attributes[0]"},
		{"RevokeSession", "", "target"},
		{"RevokeSession", `session_id: ""`, "target"},
		{"RevokeSession", `session_id: "$TOKEN"`, "session_id"},
		{"RevokeSession", `session_id: "malformed"`, "session_id"},
		{"RevokeSession", `session_token: ""`, "target"},
		{"RevokeSubjectSessions", "", "subject"},
		{"RevokeSubjectSessions", "subject: " + quoted(257), "subject"},
		{"RevokeSubjectSessions", `subject: "ann\000"`, "subject"},
		{"RevokeSubjectSessions", `subject: "ann" except_session_id: "malformed"`, "except_session_id"},
		{"RevokeSubjectSessions", `subject: "ann" except_session_id: "$TOKEN"`, "except_session_id"},
		{"RevokeSubjectSessions", `subject: "ann" device_class: "Mobile"`, "device_class"},
		{"RevokeSubjectSessions", `subject: "ann" device_class: ` + quoted(33), "device_class"},
		{"GetSubject", "", "subject"},
		{"GetSubject", "subject: " + quoted(257), "subject"},
		{"GetSubject", `subject: "ann\000"`, "subject"},
		{"ListSubjectSessions", `subject: "ann" device_class: "Mobile"`, "device_class"},
		{"ListSubjectSessions", `subject: "ann" current_session_id: "$ID" current_session_token: "$TOKEN"`, "current_session_token"},
		{"ListSubjectSessions", "", "subject"},
		{"ListSubjectSessions", "subject: " + quoted(257), "subject"},
		{"ListSubjectSessions", `subject: "ann\000"`, "subject"},
		{"ListSubjectSessions", `subject: "ann" page_size: -1`, "page_size"},
		{"WatchSessionEvents", "subject: " + quoted(257), "subject"},
		{"WatchSessionEvents", `subject: "ann\000"`, "subject"},
		{"WatchSessionEvents", "types: SESSION_EVENT_TYPE_UNSPECIFIED", "types[0]"},
		{"WatchSessionEvents", "types: SESSION_EVENT_TYPE_CREATED types: 99", "types[1]"},
		{"WatchSessionEvents", strings.Repeat("types: 1 ", 17), "types"},
		{"WatchSessionEvents", `resume_token: "forged"`, "resume_token"},
		{"WatchSessionEvents", "resume_token: " + quoted(1<<16), "resume_token"},
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

		{"CreateSession", "subject: " + quoted(256)},
		{"CreateSession", numbered(64, `attributes {key: "name%d"}`)},
		{"CreateSession", `attributes {key: ` + quoted(128) + "}"},
		{"CreateSession", `attributes {key: "name" value: ` + quoted(64<<10-4) + "}"},
		{"CreateSession", "device {ip: " + quoted(64) + " user_agent: " + quoted(512) + " label: " + quoted(128) + "}"},
		{"CreateSession", `subject: "ann" if_subject_epoch: 9223372036854775807 max_sessions: 3 max_class_sessions: 2 device {class: ` + quoted(32) + "}"},
		{"CreateSession", `subject: "ann" device {class: "a-z_09"} max_sessions: 1 max_class_sessions: 1`},
		{"GetSubject", "subject: " + quoted(256)},
		{"UpdateSession", `session_token: "malformed" ` + numbered(64, `increment_attributes {key: "name%d" value: -9223372036854775808}`)},
		{"UpdateSession", `session_token: "malformed" ` + numbered(64, `set_attributes_if_absent {key: "name%d"}`)},
		{"ListSubjectSessions", `subject: "ann" device_class: "mobile" current_session_token: "malformed"`},
		{"RevokeSubjectSessions", `subject: "ann" device_class: ` + quoted(32)},
		{"ValidateSession", `session_token: "malformed" touch: TOUCH_FORCE consistency: CONSISTENCY_PRIMARY`},
		{"ValidateSession", `session_token: "malformed" require {}`},
		{"ValidateSession", `session_token: "malformed" require {min_aal: 3 max_auth_age {seconds: 9223372036}}`},
		{"BatchValidateSessions", times(100, `items {session_token: "malformed" touch: TOUCH_FORCE require {}}`)},
		{"RotateSession", `session_token: "malformed"`},
		{"PromoteSession", `session_token: "malformed" assurance {} subject: ` + quoted(256)},
		{"ReauthenticateSession", `session_token: "malformed" ` + numbered(16, `amr: "m%d"`) + " aal: 3 reset_timeouts: true"},
		{"CreateSession", `subject: "ann" assurance {aal: 3 ` + numbered(16, `amr: "m%d"`) + " authenticated_at {seconds: 1}}"},
		{"CreateSession", `subject: "ann" assurance {amr: "a.b_c-0" amr: "` + strings.Repeat("m", 32) + `"}`},
		{"UpdateSession", `session_token: "malformed" ` + numbered(64, `delete_attributes: "name%d"`)},
		{"UpdateSession", `session_token: "malformed" expected_version: 9223372036854775807 set_attributes {key: "a"}`},
		{"RevokeSession", `session_token: "malformed"`},
		{"RevokeSubjectSessions", "subject: " + quoted(256)},
		{"ListSubjectSessions", `subject: "ann" page_size: 2147483647 current_session_id: "malformed"`},
		{"WatchSessionEvents", ""},
		{"WatchSessionEvents", "subject: " + quoted(256) + " " + strings.Repeat("types: 9 ", 16)},
	}...)
	for rpc, before := range map[string]string{"CreateSession": `subject: "ann"`, "PromoteSession": `session_token: "$TOKEN" subject: "ann"`} {
		for text, field := range map[string]string{
			"aal: 4": "aal", "aal: -1": "aal", numbered(17, `amr: "m%d"`): "amr", `amr: ""`: "amr[0]", `amr: "otp" amr: "OTP"`: "amr[1]",
			`amr: "` + strings.Repeat("m", 33) + `"`: "amr[0]", `amr: "a b"`: "amr[0]", `amr: "größe"`: "amr[0]",
			"authenticated_at {}": "authenticated_at", "authenticated_at {seconds: -1}": "authenticated_at",
			"authenticated_at {seconds: 99999999999}": "authenticated_at", "authenticated_at {seconds: 1 nanos: -1}": "authenticated_at",
		} {
			bad = append(bad, [3]string{rpc, before + " assurance {" + text + "}", "assurance." + field})
		}
	}
	for field, most := range map[string]int64{"idle_timeout": 600, "absolute_timeout": 3600} {
		for _, d := range []string{"", "nanos: -1", "nanos: 999999999", fmt.Sprintf("seconds: %d nanos: 1", most), "seconds: 315576000001", "seconds: 1 nanos: -1"} {
			bad = append(bad, [3]string{"CreateSession", field + " {" + d + "}", field})
		}
		for _, d := range []string{"seconds: 1", fmt.Sprintf("seconds: %d", most)} {
			good = append(good, [3]string{"CreateSession", field + " {" + d + "}"})
		}
	}
	return bad, good
}

// parse reads a request from prototext, in which $TOKEN and $ID are those of a session and $LEASE is a lease that has ended.
func parse(t testing.TB, rpc, text string, s *sessionv1.CreateSessionResponse) (protoreflect.MethodDescriptor, proto.Message) {
	t.Helper()
	m := methodOf(t, rpc)
	req := newMessage(t, m.Input())
	text = strings.NewReplacer("$LEASE", strings.Repeat("A", 43), "$TOKEN", s.SessionToken, "$ID", s.Session.GetSessionId()).Replace(text)
	if err := prototext.Unmarshal([]byte(text), req); err != nil {
		t.Fatalf("%s %.100s: %v", rpc, text, err)
	}
	return m, req
}

func TestBadRequestsAreNamedAndChangeNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	a.set(t, &cachev1.SetRequest{Key: "k", Value: []byte("untouched"), StaleTtl: secs(60)})
	session := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Attributes: map[string]string{"a": "1"}})
	before := a.do(t, "EVAL", snapshot, "0")

	check := func(rpc, text string, fields ...string) {
		t.Helper()
		m, req := parse(t, rpc, text, session)
		_, err := a.call(t.Context(), t, m, req)
		wantInvalid(t, req, err, fields...)
		if a.do(t, "EVAL", snapshot, "0") != before {
			t.Error("something was written")
		}
		if t.Failed() {
			t.Fatalf("this was the answer to %s %.300s", rpc, text)
		}
	}
	bad, _ := edges()
	covered := map[string]bool{}
	for _, b := range bad {
		check(b[0], b[1], b[2])
		covered[b[0]] = true
	}
	for _, m := range methods() {
		rpc := string(m.Name())
		if !covered[rpc] {
			t.Errorf("no bad request of %s", rpc)
		}
		for _, ns := range []string{"Upper", "-dash", ".dot", "_line", "white space", "a:colon", "a{brace", "a*star", "größe", "nul\x00", strings.Repeat("n", 64)} {
			req := newMessage(t, m.Input())
			req.ProtoReflect().Set(m.Input().Fields().ByName("namespace"), protoreflect.ValueOfString(ns))
			_, err := a.call(t.Context(), t, m, req)
			if got := violations(t, err); len(got) == 0 || got[0] != "namespace" {
				t.Errorf("%s in %q is told of %q", rpc, ns, got)
			}
			if text := status.Convert(err).Proto().String(); strings.Contains(text, ns) {
				t.Errorf("the answer repeats %q", ns)
			}
		}
	}

	// Whatever is wrong is said at once.
	check("Set", `namespace: "NS" key: "" value: `+quoted(65)+` ttl {} stale_ttl {nanos: -1} tags: "" tags: "ok" tags: "" content_type: `+quoted(300)+` if_match: "etag"`,
		"namespace", "key", "ttl", "tags[0]", "tags[2]", "value", "stale_ttl", "content_type", "if_match")
	check("Set", `key: "k" never: false stale_ttl {seconds: 1} negative: true value: "v" if_absent: false`, "never", "value", "stale_ttl", "if_absent")
	check("Increment", `ttl_policy: 9 on_bound: 9 ttl {} min: 1 max: 0`, "key", "ttl_policy", "on_bound", "ttl", "max")
	check("CreateSession", `subject: "\000" idle_timeout {} absolute_timeout {} attributes {} device {ip: "\000" user_agent: "\000" label: "\000"}`,
		"subject", "attributes", "idle_timeout", "absolute_timeout", "device.ip", "device.user_agent", "device.label")
	check("UpdateSession", `set_attributes {} delete_attributes: "" expected_version: -1`, "target", "set_attributes", "delete_attributes[0]", "delete_attributes[0]", "expected_version")
	check("BatchSet", `items {} items {key: "k" ttl {}} items {key: "k"} items {value: `+quoted(65)+`}`, "items[0].key", "items[1].ttl", "items[3].key", "items[3].value")

	// But not without end.
	var twenty []string
	for i := range 20 {
		twenty = append(twenty, fmt.Sprintf("items[%d].key", i))
	}
	check("BatchSet", times(1000, "items {}"), twenty...)
	m, req := parse(t, "BatchSet", times(1000, "items {}"), session)
	_, err := a.call(t.Context(), t, m, req)
	if got, want := status.Convert(err).Message(), "items[0].key: must not be empty (and 19 more)"; got != want {
		t.Errorf("the message is %q, want %q", got, want)
	}
}

func TestRequestsAtTheirLimitsAreTaken(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	_, good := edges()
	for _, g := range good {
		m, req := parse(t, g[0], g[1], &sessionv1.CreateSessionResponse{})
		if g[0] == "Increment" && !strings.HasPrefix(g[1], `key: "n"`) {
			a.do(t, "FLUSHALL") // what the others have written is no counter
		}
		if _, err := a.call(t.Context(), t, m, req); err != nil {
			t.Errorf("%s %.300s: %v", g[0], g[1], err)
		}
	}
	for _, m := range methods() {
		for _, ns := range []string{"a", "0", "a.b_c-d", "9-", strings.Repeat("n", 63)} {
			req := newMessage(t, m.Input())
			req.ProtoReflect().Set(m.Input().Fields().ByName("namespace"), protoreflect.ValueOfString(ns))
			if _, err := a.call(t.Context(), t, m, req); slices.Contains(violations(t, err), "namespace") {
				t.Errorf("%s in %q: %v", m.Name(), ns, err)
			}
		}
	}
}

func TestDurationsBelowAMillisecondAreRoundedUp(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]time.Duration{
		1: time.Millisecond, time.Millisecond - 1: time.Millisecond, time.Millisecond: time.Millisecond,
		time.Millisecond + 1: time.Millisecond + 1, time.Hour: time.Hour,
	} {
		f := &fields{}
		if got := f.duration("ttl", durationpb.New(d), 1, time.Hour); got != want || f.err() != nil {
			t.Errorf("%v became %v, %v", d, got, f.err())
		}
	}
}

func TestExpireTimeIsInTheFutureAndNotTooFar(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 5)
	for d, ok := range map[time.Duration]bool{-1: false, 0: false, 1: true, time.Hour: true, time.Hour + 1: false} {
		f := newFields(policy.New(strictLimits), func() time.Time { return now })
		r := &cachev1.SetRequest{Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(now.Add(d))}}
		if got := f.fresh(r, false); got != d || (f.err() == nil) != ok {
			t.Errorf("%v away: %v, %v", d, got, f.err())
		}
	}
}

// rawBytes sends bytes as they are.
type rawBytes struct{ encoding.CodecV2 }

func (c rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Text that is not UTF-8 is no message of proto3: gRPC itself refuses it, before any handler sees it, with a code that it
// does not let servers choose.
func TestTextThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	a := newAPI(t, strictLimits)
	codec := rawBytes{encoding.GetCodecV2(protocodec.Name)}
	for _, m := range methods() {
		for i := range m.Input().Fields().Len() {
			field := m.Input().Fields().Get(i)
			if field.Kind() != protoreflect.StringKind || field.IsMap() {
				continue
			}
			wire := []byte{byte(field.Number()<<3 | 2), 9, 's', 'e', 'c', 'r', 'e', 't', 0xff, 0xfe, 0xfd}
			_, err := a.call(t.Context(), t, m, wire, grpc.ForceCodecV2(codec))
			if st := status.Convert(err); st.Code() != codes.Internal || strings.Contains(st.String(), "secret") || !strings.Contains(st.Message(), "UTF-8") {
				t.Errorf("%s: %v", field.FullName(), err)
			}
		}
	}
	if n := a.do(t, "DBSIZE"); n != int64(0) {
		t.Errorf("%d keys were written", n)
	}
}
