package service

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/service/policy"
)

// The limits of the API, which no setting changes.
const (
	defaultNamespace  = "default"
	maxRequestIDBytes = 128

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
	maxClassBytes         = 32
	maxAAL                = 3
	maxMethodBytes        = 32
	maxClockSkew          = time.Minute
	maxValidations        = 100
)

// FieldError is an invalid field of a request. It never contains the field's value.
type FieldError struct {
	// Field is the path of the field, such as items[3].ttl.
	Field string
	// Description says what the field must be.
	Description string
}

// Error returns the field and what it must be.
func (e *FieldError) Error() string { return e.Field + ": " + e.Description }

// FieldErrors are the invalid fields of a request, at least one.
type FieldErrors []*FieldError

// Error returns the text of the first one.
func (e FieldErrors) Error() string { return e[0].Error() }

// fields checks the fields of one request and collects the invalid ones. Each method checks a field and returns it in the
// form that the store takes.
type fields struct {
	limits *policy.Limits
	policy *policy.Ruleset
	rules  *policy.Rules // of the request's namespace, set by the method namespace
	now    func() time.Time
	prefix string
	wrong  FieldErrors
}

// newFields returns the fields of one request. The policy in force at this moment applies to the whole request.
func newFields(p *policy.Policies, now func() time.Time) *fields {
	current := p.Current()
	return &fields{limits: p.Limits(), policy: current, rules: current.Defaults(), now: now}
}

// maxFieldErrors is the maximum number of invalid fields that an error lists.
const maxFieldErrors = 20

// add records an invalid field; the format says what the field must be.
func (f *fields) add(field, format string, args ...any) {
	if len(f.wrong) < maxFieldErrors {
		f.wrong = append(f.wrong, &FieldError{f.prefix + field, fmt.Sprintf(format, args...)})
	}
}

// once records an invalid field unless it is recorded already, as another entry of the same map.
func (f *fields) once(field, description string) {
	if !slices.ContainsFunc(f.wrong, func(e *FieldError) bool { return e.Field == f.prefix+field }) {
		f.add(field, "%s", description)
	}
}

// err returns the invalid fields as FieldErrors, nil if there are none.
func (f *fields) err() error {
	if len(f.wrong) == 0 {
		return nil
	}
	return f.wrong
}

// namespace checks the namespace and looks up its rules. It must be called before methods that use f.rules.
func (f *fields) namespace(ns string) string {
	if ns == "" {
		ns = defaultNamespace
	}
	if !policy.ValidNamespace(ns) {
		f.add("namespace", policy.NamespaceForm)
	}
	f.rules = f.policy.Of(ns)
	return ns
}

// key checks a key, which in the plain namespace must not be one of Larder's own.
func (f *fields) key(field, namespace, key string) string {
	f.text(field, key, 1, maxKeyBytes)
	if namespace == f.limits.PlainNamespace && strings.HasPrefix(key, "ld:") {
		f.add(field, `must not begin with "ld:" in this namespace`)
	}
	return key
}

// text checks that a string has least to most bytes and no NUL.
func (f *fields) text(field, s string, least, most int) {
	switch {
	case len(s) < least && least == 1:
		f.add(field, "must not be empty")
	case len(s) < least || len(s) > most:
		f.add(field, "must be %d to %d bytes long", least, most)
	case strings.IndexByte(s, 0) >= 0:
		f.add(field, "must not contain NUL")
	}
}

// requestID checks the id of a call that can be repeated; it may be empty.
func (f *fields) requestID(id string) string {
	f.text("request_id", id, 0, maxRequestIDBytes)
	return id
}

// keys checks the keys of a batch.
func (f *fields) keys(namespace string, keys []string) {
	if f.count("keys", len(keys)); len(keys) > maxBatchItems {
		return
	}
	for i, k := range keys {
		f.key("keys["+strconv.Itoa(i)+"]", namespace, k)
	}
}

// count checks the number of items of a batch.
func (f *fields) count(field string, n int) {
	if n < 1 || n > maxBatchItems {
		f.add(field, "must have 1 to %d items", maxBatchItems)
	}
}

// duration checks a duration as exactDuration does, and rounds one below 1 ms, the resolution of Redis, up to 1 ms.
func (f *fields) duration(field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	return max(f.exactDuration(field, d, least, most), time.Millisecond)
}

// exactDuration checks that a duration is between least and most. A least of 1 means above zero.
func (f *fields) exactDuration(field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	if d.CheckValid() != nil {
		f.add(field, "must be a valid duration")
		return 0
	}
	v := d.AsDuration()
	switch {
	case v < least && least == 1:
		f.add(field, "must be above zero")
	case v < least || v > most:
		f.add(field, "must be at least %s and at most %s", policy.Span(max(least, time.Millisecond)), policy.Span(most))
	}
	return v
}

// pageSize returns the size of a page: normal if it is unset, at most most.
func (f *fields) pageSize(n int32, normal, most int) int {
	switch {
	case n < 0:
		f.add("page_size", "must not be negative")
	case n == 0:
		return normal
	}
	return min(int(n), most)
}

// enum checks that v is one of the defined values, which names has.
func enum[E ~int32](f *fields, field string, v E, names map[int32]string) E {
	if _, ok := names[int32(v)]; !ok {
		f.add(field, "must be a defined enum value")
	}
	return v
}
