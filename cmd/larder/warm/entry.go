package warm

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthcare/larder/client"
)

// An entry is one line, a JSON object, as warm reads it and export writes it.
type entry struct {
	Namespace   string    `json:"namespace,omitempty"`
	Key         string    `json:"key"`
	Value       *string   `json:"value,omitempty"`
	ValueBase64 []byte    `json:"value_base64,omitempty"` // a value that is not UTF-8
	TTL         duration  `json:"ttl,omitempty"`
	ExpireTime  timestamp `json:"expire_time,omitzero"`
	Never       bool      `json:"never,omitempty"`
	StaleTTL    duration  `json:"stale_ttl,omitempty"`
	Negative    bool      `json:"negative,omitempty"`
	Tags        []string  `json:"tags,omitempty"`
	ContentType string    `json:"content_type,omitempty"`
}

// A duration is written in Go's format: 60s, 1h30m or 0.5s. Zero means that the line has none.
type duration time.Duration

// MarshalText formats the duration.
func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

var (
	errDuration = errors.New("must be a duration above zero, such as 60s or 1h30m")
	errTime     = errors.New("must be a time, such as 2026-11-23T12:00:00Z")
)

// UnmarshalText parses a duration, which must be above zero.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return errDuration
	}
	*d = duration(v)
	return nil
}

// A timestamp is written in the format of RFC 3339. The zero time means that the line has none.
type timestamp struct{ time.Time }

// UnmarshalJSON parses a timestamp.
func (t *timestamp) UnmarshalJSON(text []byte) error {
	if t.Time.UnmarshalJSON(text) != nil || t.IsZero() {
		return errTime
	}
	return nil
}

// parseEntry parses a line. Its errors are shown to the operator and repeat neither keys nor values.
func parseEntry(text []byte) (*entry, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("must be UTF-8; put other bytes in value_base64")
	}
	e := new(entry)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(e); err != nil {
		return nil, explain(err, text)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("must hold one JSON object and nothing else")
	}
	// encoding/json replaces half of a surrogate pair by U+FFFD, without an error. A U+FFFD that the line itself contains,
	// as a character or as an escape, is meant.
	if strings.ContainsRune(e.Key, utf8.RuneError) || e.Value != nil && strings.ContainsRune(*e.Value, utf8.RuneError) {
		if !bytes.ContainsRune(text, utf8.RuneError) && !bytes.Contains(bytes.ToLower(text), []byte(`\ufffd`)) {
			return nil, errors.New(`must not contain half of a surrogate pair of \u escapes`)
		}
	}
	values := count(e.Value != nil, e.ValueBase64 != nil)
	switch {
	case e.Key == "":
		return nil, errors.New("key: must not be empty")
	case values > 1:
		return nil, errors.New("value: must not be set together with value_base64")
	case values == 0 && !e.Negative:
		return nil, errors.New("value: one of value, value_base64 and negative must be set")
	case count(e.TTL != 0, !e.ExpireTime.IsZero(), e.Never) > 1:
		return nil, errors.New("ttl: at most one of ttl, expire_time and never may be set")
	}
	return e, nil
}

// explain turns an error of encoding/json about a line into one that names the field and does not repeat the line.
func explain(err error, text []byte) error {
	var encoding base64.CorruptInputError
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		// Value is the type, followed by the number if it is one.
		return fmt.Errorf("%s: must not be a JSON %s", wrongType.Field, strings.Fields(wrongType.Value + " ")[0])
	case errors.As(err, &wrongType):
		return errors.New("must be a JSON object")
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("is not JSON: %w", err)
	case errors.Is(err, errDuration): // encoding/json does not say in which of the two fields
		var e struct {
			TTL duration `json:"ttl"`
		}
		if errors.Is(json.NewDecoder(bytes.NewReader(text)).Decode(&e), errDuration) {
			return fmt.Errorf("ttl: %w", err)
		}
		return fmt.Errorf("stale_ttl: %w", err)
	case errors.Is(err, errTime):
		return fmt.Errorf("expire_time: %w", err)
	case errors.As(err, &encoding):
		return fmt.Errorf("value_base64: %w", err)
	default:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
}

// count returns how many of the conditions are true.
func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

// value returns the value in either of its forms, nil if there is none.
func (e *entry) value() []byte {
	if e.Value != nil {
		return []byte(*e.Value)
	}
	return e.ValueBase64
}

// size returns about the number of bytes that the entry takes in a request.
func (e *entry) size() int {
	size := 64 + len(e.Key) + len(e.ContentType) + len(e.ValueBase64)
	if e.Value != nil {
		size += len(*e.Value)
	}
	for _, t := range e.Tags {
		size += 3 + len(t)
	}
	return size
}

// item returns the entry as the client sends it at the time now, or false if it has expired by then. expire_time is
// compared with now, a time of this machine's clock, because export wrote it by that clock.
func (e *entry) item(now time.Time) (client.SetItem, bool) {
	o := client.SetOptions{
		TTL: time.Duration(e.TTL), Never: e.Never, StaleTTL: time.Duration(e.StaleTTL), Negative: e.Negative, Tags: e.Tags, ContentType: e.ContentType,
	}
	if !e.ExpireTime.IsZero() {
		o.TTL = e.ExpireTime.Sub(now)
		if o.TTL <= 0 {
			if o.StaleTTL += o.TTL; e.StaleTTL == 0 || o.StaleTTL <= 0 {
				return client.SetItem{}, false
			}
			o.TTL = time.Millisecond // the minimum: the entry is stale from then on
		}
	}
	return client.SetItem{Key: e.Key, Value: e.value(), Options: o}, true
}

// entryOf returns the line for an entry that was read at the time now, or nil for a miss.
func entryOf(found client.Entry, now time.Time) *entry {
	e := &entry{Key: found.Key, StaleTTL: duration(found.StaleTTL), Tags: found.Tags, ContentType: found.ContentType}
	switch {
	case found.Outcome == client.Negative:
		e.Negative = true
	case !found.Found():
		return nil
	case utf8.Valid(found.Value):
		text := string(found.Value)
		e.Value = &text
	default:
		e.ValueBase64 = found.Value
	}
	switch {
	case found.TTL > 0:
		e.ExpireTime.Time = now.Add(found.TTL).UTC()
	case found.Outcome == client.Stale:
		e.ExpireTime.Time = now.UTC()
	default:
		e.Never = true
	}
	return e
}
