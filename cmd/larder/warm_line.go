package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthcare/larder/client"
)

// An entryLine is one entry as warm reads it and export writes it: a JSON object on a line of its own.
type entryLine struct {
	Namespace   string       `json:"namespace,omitempty"`
	Key         string       `json:"key"`
	Value       *string      `json:"value,omitempty"`
	ValueBase64 []byte       `json:"value_base64,omitempty"` // for bytes that are not UTF-8
	TTL         lineDuration `json:"ttl,omitempty"`
	ExpireTime  lineTime     `json:"expire_time,omitzero"`
	Never       bool         `json:"never,omitempty"`
	StaleTTL    lineDuration `json:"stale_ttl,omitempty"`
	Negative    bool         `json:"negative,omitempty"`
	Tags        []string     `json:"tags,omitempty"`
	ContentType string       `json:"content_type,omitempty"`
}

// A lineDuration is written as in 60s, 1h30m or 0.5s.
type lineDuration time.Duration

// MarshalText writes the duration.
//
//nolint:unparam // encoding.TextMarshaler has an error
func (d lineDuration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration above zero: zero is how one that is not there looks.
func (d *lineDuration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return errors.New("a duration must be above zero and written as in 60s or 1h30m")
	}
	*d = lineDuration(v)
	return nil
}

// A lineTime is written by RFC 3339.
type lineTime struct{ time.Time }

// UnmarshalJSON reads a time.
func (t *lineTime) UnmarshalJSON(text []byte) error {
	if t.Time.UnmarshalJSON(text) != nil || t.IsZero() {
		return errors.New("a time must be written as in 2026-11-23T12:00:00Z")
	}
	return nil
}

// readLine reads an entry. Its errors are for people and repeat no keys and no values.
func readLine(text []byte) (*entryLine, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("must be UTF-8; other bytes go into value_base64")
	}
	l := new(entryLine)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(l); err != nil {
		return nil, lineError(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("must hold one JSON object and nothing else")
	}
	// The decoder replaces what is no character without a word.
	if strings.ContainsRune(l.Key, utf8.RuneError) || l.Value != nil && strings.ContainsRune(*l.Value, utf8.RuneError) {
		if !bytes.ContainsRune(text, utf8.RuneError) && !bytes.Contains(bytes.ToLower(text), []byte(`\ufffd`)) {
			return nil, errors.New(`must not hold half of a pair of \u escapes`)
		}
	}
	values := count(l.Value != nil, l.ValueBase64 != nil)
	switch {
	case l.Key == "":
		return nil, errors.New("key: must not be empty")
	case values > 1:
		return nil, errors.New("value: must not be set beside value_base64")
	case values == 0 && !l.Negative:
		return nil, errors.New("value: must be set, or value_base64 or negative")
	case count(l.TTL != 0, !l.ExpireTime.IsZero(), l.Never) > 1:
		return nil, errors.New("ttl: at most one of ttl, expire_time and never may be set")
	}
	return l, nil
}

// lineError says what is wrong with the JSON.
func lineError(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%s: must not be a JSON %s", wrongType.Field, strings.Fields(wrongType.Value + " ")[0])
	case errors.As(err, &wrongType):
		return errors.New("must be a JSON object")
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("is not JSON: %w", err)
	default:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}

func (l *entryLine) value() []byte {
	if l.Value != nil {
		return []byte(*l.Value)
	}
	return l.ValueBase64
}

// size is about what the entry takes in a request.
func (l *entryLine) size() int {
	size := 64 + len(l.Key) + len(l.ContentType) + len(l.ValueBase64)
	if l.Value != nil {
		size += len(*l.Value)
	}
	for _, t := range l.Tags {
		size += 3 + len(t)
	}
	return size
}

// item is the entry as it is to be written at a time; false means that it has expired by then. An expire_time is by the
// clock of this machine, as export wrote it, whatever that of the server shows.
func (l *entryLine) item(now time.Time) (client.SetItem, bool) {
	o := client.SetOptions{
		TTL: time.Duration(l.TTL), Never: l.Never, StaleTTL: time.Duration(l.StaleTTL), Negative: l.Negative, Tags: l.Tags, ContentType: l.ContentType,
	}
	if !l.ExpireTime.IsZero() {
		o.TTL = l.ExpireTime.Sub(now)
		if o.TTL <= 0 {
			if o.StaleTTL += o.TTL; l.StaleTTL == 0 || o.StaleTTL <= 0 {
				return client.SetItem{}, false
			}
			o.TTL = time.Millisecond // the shortest that there is: from then on it is stale
		}
	}
	return client.SetItem{Key: l.Key, Value: l.value(), Options: o}, true
}

// lineOf is the entry that was found at a time; nil if there was none.
func lineOf(e client.Entry, now time.Time) *entryLine {
	l := &entryLine{Key: e.Key, StaleTTL: lineDuration(e.StaleTTL), Tags: e.Tags, ContentType: e.ContentType}
	switch {
	case e.Outcome == client.Negative:
		l.Negative = true
	case !e.Found():
		return nil
	case utf8.Valid(e.Value):
		text := string(e.Value)
		l.Value = &text
	default:
		l.ValueBase64 = e.Value
	}
	switch {
	case e.TTL > 0:
		l.ExpireTime.Time = now.Add(e.TTL).UTC()
	case e.Outcome == client.Stale:
		l.ExpireTime.Time = now.UTC()
	default:
		l.Never = true
	}
	return l
}
