package lock

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// A Holder is one holder of a lock, without its secret.
type Holder struct {
	// Owner is what the holder calls itself, and Metadata what it has attached.
	Owner, Metadata string
	// Fence is the fencing token of the acquisition.
	Fence int64
	// AcquiredAt is the time of Redis at which the lock was acquired.
	AcquiredAt time.Time
	// Left is the time until the lock ends unless it is renewed.
	Left time.Duration

	id string
}

// record is what Redis holds of a holder, in the layout of common.lua.
type record struct {
	salt, proof     string
	fence           int64
	at              time.Time
	ttl             time.Duration
	owner, metadata string
}

const numbersAt = saltBytes + secretBytes

// parseRecord is the inverse of what acquire.lua writes.
func parseRecord(text string) (r record, ok bool) {
	if len(text) < numbersAt {
		return r, false
	}
	r.salt, r.proof = text[:saltBytes], text[saltBytes:numbersAt]
	rest := text[numbersAt:]
	var n [4]int64
	for i := range n {
		digits, after, found := strings.Cut(rest, " ")
		v, err := strconv.ParseInt(digits, 10, 64)
		if !found || err != nil || v < 0 {
			return r, false
		}
		n[i], rest = v, after
	}
	if n[3] > int64(len(rest)) {
		return r, false
	}
	r.fence, r.at, r.ttl = n[0], time.UnixMicro(n[1]), time.Duration(n[2])*time.Millisecond
	r.owner, r.metadata = rest[:n[3]], rest[n[3]:]
	return r, true
}

// holder returns the holder of a record; a record that Redis has lost or that cannot be read says nothing but that there is one.
func holder(id, text string, left time.Duration) Holder {
	r, _ := parseRecord(text)
	return Holder{Owner: r.owner, Metadata: r.metadata, Fence: r.fence, AcquiredAt: r.at, Left: left, id: id}
}

// errUnreadable means that a script has answered what it never does.
var errUnreadable = errors.New("not in the form of the script")

// An answer reads the elements of a script's answer one after the other.
type answer struct {
	parts []rueidis.RedisMessage
	err   error
}

func read(m rueidis.RedisMessage) *answer {
	parts, err := m.ToArray()
	return &answer{parts, err}
}

// left is the number of elements that were not read.
func (a *answer) left() int { return len(a.parts) }

func (a *answer) text() (s string) {
	if m, ok := a.next(); ok {
		s, a.err = m.ToString()
	}
	return s
}

func (a *answer) number() (n int64) {
	if m, ok := a.next(); ok {
		n, a.err = m.AsInt64()
	}
	return n
}

// next returns the next element; ok is false if there is none or an earlier one could not be read.
func (a *answer) next() (m rueidis.RedisMessage, ok bool) {
	switch {
	case a.err != nil:
		return m, false
	case len(a.parts) == 0:
		a.err = errUnreadable
		return m, false
	}
	m, a.parts = a.parts[0], a.parts[1:]
	return m, true
}

// micros reads a number of microseconds.
func (a *answer) micros() time.Duration { return time.Duration(a.number()) * time.Microsecond }

// time reads a time of Redis in microseconds.
func (a *answer) time() time.Time { return time.UnixMicro(a.number()) }

// failed returns why an answer could not be read, nil if it could.
func (a *answer) failed() error {
	if a.err == nil {
		return nil
	}
	return redis.Fail(redis.ErrInternal, a.err)
}
