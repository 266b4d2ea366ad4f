package service

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store"
)

// The limits of the API that no setting changes.
const (
	defaultNamespace = "default"

	maxNamespaceBytes   = 63
	maxKeyBytes         = 1024
	maxTags             = 32
	maxTagBytes         = 128
	maxContentTypeBytes = 255
	maxBatchItems       = 1000

	maxSubjectBytes       = 256
	maxAttributeNameBytes = 128
	maxIPBytes            = 64
	maxUserAgentBytes     = 512
	maxLabelBytes         = 128
	minSessionTimeout     = time.Second
)

// FieldError says what is wrong with one field of a request. It never repeats the field's value.
type FieldError struct {
	// Field is the path of the field, as in "items[3].ttl".
	Field string
	// Description says what the field must be.
	Description string
}

// Error returns the field and what it must be.
func (e *FieldError) Error() string { return e.Field + ": " + e.Description }

// FieldErrors are all that is wrong with a request.
type FieldErrors []*FieldError

// Error returns the first of them.
func (e FieldErrors) Error() string { return e[0].Error() }

// fields gathers what is wrong with a request. Each method checks one field and returns it as the store wants it.
type fields struct {
	limits *Limits
	now    func() time.Time
	prefix string
	wrong  FieldErrors
}

// maxFieldErrors bounds the answer to a batch in which everything is wrong.
const maxFieldErrors = 20

func (f *fields) add(field, format string, args ...any) {
	if len(f.wrong) < maxFieldErrors {
		f.wrong = append(f.wrong, &FieldError{f.prefix + field, fmt.Sprintf(format, args...)})
	}
}

func (f *fields) err() error {
	if len(f.wrong) == 0 {
		return nil
	}
	return f.wrong
}

func (f *fields) namespace(ns string) string {
	if ns == "" {
		return defaultNamespace
	}
	ok := len(ns) <= maxNamespaceBytes
	for i := 0; ok && i < len(ns); i++ {
		c := ns[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-')
	}
	if !ok {
		f.add("namespace", "must be 1 to %d characters of a-z, 0-9, dot, underscore and dash, the first a letter or a digit", maxNamespaceBytes)
	}
	return ns
}

func (f *fields) key(field, namespace, key string) string {
	f.text(field, key, 1, maxKeyBytes)
	if namespace == f.limits.PlainNamespace && strings.HasPrefix(key, "ld:") {
		f.add(field, `must not begin with "ld:" in this namespace`)
	}
	return key
}

// text checks a string's length in bytes and that it holds no NUL.
func (f *fields) text(field, s string, least, most int) {
	switch {
	case len(s) < least && least == 1:
		f.add(field, "must not be empty")
	case len(s) < least || len(s) > most:
		f.add(field, "must be %d to %d bytes long", least, most)
	case strings.IndexByte(s, 0) >= 0:
		f.add(field, "must not hold NUL")
	}
}

func (f *fields) keys(namespace string, keys []string) {
	if f.count("keys", len(keys)); len(keys) > maxBatchItems {
		return
	}
	for i, k := range keys {
		f.key("keys["+strconv.Itoa(i)+"]", namespace, k)
	}
}

func (f *fields) count(field string, n int) {
	if n < 1 || n > maxBatchItems {
		f.add(field, "must hold 1 to %d", maxBatchItems)
	}
}

func (f *fields) etag(field, s string) store.ETag {
	e, ok := store.ParseETag(s)
	if !ok {
		f.add(field, "must be an etag, 16 lower-case hexadecimal digits")
	}
	return e
}

// expiry is the oneof of that name, which several requests have.
type expiry interface {
	GetTtl() *durationpb.Duration
	GetExpireTime() *timestamppb.Timestamp
	GetNever() bool
}

// fresh returns how long from now an entry is fresh; zero means for ever. NeverSet says that the oneof holds never.
func (f *fields) fresh(e expiry, neverSet bool) time.Duration {
	switch {
	case e.GetTtl() != nil:
		return f.duration("ttl", e.GetTtl(), 1, f.limits.MaxTTL)
	case e.GetExpireTime() != nil:
		if e.GetExpireTime().CheckValid() != nil {
			f.add("expire_time", "must be a valid time")
			return 0
		}
		d := e.GetExpireTime().AsTime().Sub(f.now())
		if d <= 0 || d > f.limits.MaxTTL {
			f.add("expire_time", "must be in the future and at most %v away", f.limits.MaxTTL)
		}
		return d
	case neverSet:
		if !e.GetNever() {
			f.add("never", "must be true where it is set")
		}
		return 0
	}
	return f.limits.DefaultTTL
}

// duration checks a duration's bounds. Below a millisecond it rounds up to one.
func (f *fields) duration(field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	if d.CheckValid() != nil {
		f.add(field, "must be a valid duration")
		return 0
	}
	v := d.AsDuration()
	switch {
	case v < least && least == 1:
		f.add(field, "must be above zero")
	case v < least || v > most:
		f.add(field, "must be at least %v and at most %v", max(least, time.Millisecond), most)
	}
	return max(v, time.Millisecond)
}

// entry is what SetRequest and BatchSetItem have in common.
type entry interface {
	expiry
	GetValue() []byte
	GetStaleTtl() *durationpb.Duration
	GetNegative() bool
	GetTags() []string
	GetContentType() string
}

func (f *fields) write(e entry, neverSet bool) store.Write {
	w := store.Write{
		Value: e.GetValue(), Fresh: f.fresh(e, neverSet), Negative: e.GetNegative(),
		Tags: f.tags(e.GetTags()), ContentType: e.GetContentType(),
	}
	if len(w.Value) > f.limits.MaxValueBytes {
		f.add("value", "must be at most %d bytes long", f.limits.MaxValueBytes)
	}
	if w.Negative && len(w.Value) > 0 {
		f.add("value", "must be empty where negative is set")
	}
	if e.GetStaleTtl() != nil {
		w.Stale = f.duration("stale_ttl", e.GetStaleTtl(), 1, f.limits.MaxTTL)
		switch {
		case neverSet:
			f.add("stale_ttl", "must be unset where never is set")
		case w.Negative:
			f.add("stale_ttl", "must be unset where negative is set")
		case w.Fresh+w.Stale > f.limits.MaxTTL && w.Stale <= f.limits.MaxTTL && w.Fresh <= f.limits.MaxTTL:
			f.add("stale_ttl", "must be at most %v together with ttl", f.limits.MaxTTL)
		}
	}
	if neverSet && len(w.Tags) > 0 {
		f.add("never", "must not be set where there are tags, as invalidations are remembered for the maximum ttl")
	}
	f.text("content_type", w.ContentType, 0, maxContentTypeBytes)
	return w
}

// tags drops duplicates.
func (f *fields) tags(tags []string) []string {
	if len(tags) > maxTags {
		f.add("tags", "must be at most %d", maxTags)
		return nil
	}
	var unique []string
	seen := make(map[string]struct{}, len(tags))
	for i, t := range tags {
		f.text("tags["+strconv.Itoa(i)+"]", t, 1, maxTagBytes)
		if _, dup := seen[t]; !dup {
			seen[t] = struct{}{}
			unique = append(unique, t)
		}
	}
	return unique
}

func (f *fields) condition(r *cachev1.SetRequest) store.Condition {
	isTrue := func(field string, b bool) {
		if !b {
			f.add(field, "must be true where it is set")
		}
	}
	switch p := r.GetPrecondition().(type) {
	case *cachev1.SetRequest_IfAbsent:
		isTrue("if_absent", p.IfAbsent)
		return store.Condition{Kind: store.IfAbsent}
	case *cachev1.SetRequest_IfPresent:
		isTrue("if_present", p.IfPresent)
		return store.Condition{Kind: store.IfPresent}
	case *cachev1.SetRequest_IfMatch:
		return store.Condition{Kind: store.IfMatch, ETag: f.etag("if_match", p.IfMatch)}
	case *cachev1.SetRequest_IfNoneMatch:
		return store.Condition{Kind: store.IfNoneMatch, ETag: f.etag("if_none_match", p.IfNoneMatch)}
	}
	return store.Condition{}
}

// pattern checks a glob and returns it in the form that means the same to every Redis. Redis itself reads on where a class
// or an escape is cut short, and the embedded one makes a regular expression of it and panics where it is none.
func (f *fields) pattern(s string, least int) string {
	f.text("pattern", s, least, maxKeyBytes)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		n := 1
		switch {
		case s[i] == '[':
			n = classLen(s[i:])
		case s[i] == '\\' && i+1 == len(s):
			f.add("pattern", `must not end with \`)
			return s
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteString(`[\\]`) // the embedded one quotes text with \Q and \E, and an E may follow
			i++
			continue
		case s[i] == '\\':
			n = 2
		}
		if n == 0 {
			f.add("pattern", `must hold in [ ] ASCII characters, ranges in order, and \ before those that are special`)
			return s
		}
		b.WriteString(s[i : i+n])
		i += n - 1
	}
	return b.String()
}

// classLen returns the length of the class that s begins with; zero if it is none.
func classLen(s string) int {
	plain := func(c byte) bool { return c < utf8.RuneSelf && strings.IndexByte(`[]\`, c) < 0 }
	i := 1
	if strings.HasPrefix(s, "[^") {
		i = 2
	}
	for first := i; i < len(s); i++ {
		switch c := s[i]; {
		case c == ']' && i > first:
			return i + 1
		case c == '\\' && i+2 < len(s):
			i++
			if e := s[i] | 0x20; e >= utf8.RuneSelf || 'a' <= e && e <= 'z' || '0' <= e && e <= '9' || s[i+1] == '-' {
				return 0
			}
		case !plain(c):
			return 0
		case i+2 < len(s) && s[i+1] == '-':
			if i += 2; !plain(s[i]) || s[i] < c {
				return 0
			}
		}
	}
	return 0
}

func (f *fields) pageSize(n int32, normal, most int) int {
	switch {
	case n < 0:
		f.add("page_size", "must not be negative")
	case n == 0:
		return normal
	}
	return min(int(n), most)
}

func enum[E ~int32](f *fields, field string, v E, names map[int32]string) E {
	if _, ok := names[int32(v)]; !ok {
		f.add(field, "must be one of the values of its enum")
	}
	return v
}

func (f *fields) subject(s string, least int) string {
	f.text("subject", s, least, maxSubjectBytes)
	return s
}

func (f *fields) sessionID(field, id string) string {
	if !store.ValidSessionID(id) {
		f.add(field, "must be the id of a session")
	}
	return id
}

// timeout returns a session's timeout, which may only be shorter than the server's.
func (f *fields) timeout(field string, d *durationpb.Duration, most time.Duration) time.Duration {
	if d == nil {
		return most
	}
	return f.duration(field, d, minSessionTimeout, most)
}

func (f *fields) attributes(field string, attributes map[string]string) map[string]string {
	if len(attributes) > store.MaxAttributes {
		f.add(field, "must be at most %d", store.MaxAttributes)
		return nil
	}
	size, named := 0, true
	for name, value := range attributes {
		named = named && isAttributeName(name)
		size += len(name) + len(value)
	}
	if !named {
		f.add(field, "must have names of 1 to %d bytes", maxAttributeNameBytes)
	}
	if size > store.MaxAttributeBytes {
		f.add(field, "must be at most %d bytes long together", store.MaxAttributeBytes)
	}
	return attributes
}

func isAttributeName(s string) bool { return len(s) >= 1 && len(s) <= maxAttributeNameBytes }

func (f *fields) device(d *sessionv1.Device) store.Device {
	f.text("device.ip", d.GetIp(), 0, maxIPBytes)
	f.text("device.user_agent", d.GetUserAgent(), 0, maxUserAgentBytes)
	f.text("device.label", d.GetLabel(), 0, maxLabelBytes)
	return store.Device{IP: d.GetIp(), UserAgent: d.GetUserAgent(), Label: d.GetLabel()}
}

func (f *fields) update(r *sessionv1.UpdateSessionRequest) store.SessionUpdate {
	u := store.SessionUpdate{
		Set:    f.attributes("set_attributes", r.GetSetAttributes()),
		Delete: r.GetDeleteAttributes(), ExpectedVersion: r.GetExpectedVersion(),
	}
	if len(r.GetSetAttributes())+len(u.Delete) == 0 {
		f.add("set_attributes", "must hold something, or delete_attributes")
	}
	if len(u.Delete) > store.MaxAttributes {
		f.add("delete_attributes", "must be at most %d", store.MaxAttributes)
	}
	for i, name := range u.Delete {
		field := "delete_attributes[" + strconv.Itoa(i) + "]"
		if !isAttributeName(name) {
			f.add(field, "must be 1 to %d bytes long", maxAttributeNameBytes)
		}
		if _, set := u.Set[name]; set {
			f.add(field, "must not be set as well")
		}
	}
	if u.ExpectedVersion < 0 {
		f.add("expected_version", "must not be negative")
	}
	return u
}

// target is the oneof of that name.
func (f *fields) target(r interface {
	GetSessionId() string
	GetSessionToken() string
},
) store.SessionTarget {
	t := store.SessionTarget{ID: r.GetSessionId(), Token: r.GetSessionToken()}
	if t.ID == "" && t.Token == "" {
		f.add("target", "must be a session_id or a session_token")
	}
	return t
}
