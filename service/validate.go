package service

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/service/policy"
)

// The limits of the API that no setting changes.
const (
	defaultNamespace = "default"

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
	limits *policy.Limits
	policy *policy.Ruleset
	rules  *policy.Rules // of the request's namespace, once that is known
	now    func() time.Time
	prefix string
	wrong  FieldErrors
}

// newFields returns the fields of one request, which is under the policy in force now until it ends.
func newFields(p *policy.Policies, now func() time.Time) *fields {
	current := p.Current()
	return &fields{limits: p.Limits(), policy: current, rules: current.Defaults(), now: now}
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

// namespace checks the namespace and looks up what holds in it, so that it comes before what depends on that.
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

// duration checks the bounds of a duration that Redis is to keep: below a millisecond it rounds up to one.
func (f *fields) duration(field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	return max(f.exactDuration(field, d, least, most), time.Millisecond)
}

// exactDuration checks a duration's bounds.
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
		f.add(field, "must be at least %v and at most %v", max(least, time.Millisecond), most)
	}
	return v
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
