package ratelimit

import (
	"errors"
	"strconv"
	"time"
)

// The bounds of a [Rule]. They keep every product in the scripts exact.
const (
	// MaxCapacity is the maximum of Capacity and Burst.
	MaxCapacity = 1 << 40
	// MinPeriod and MaxPeriod bound Period.
	MinPeriod = time.Millisecond
	MaxPeriod = 366 * 24 * time.Hour
	// MaxRedisTimeout is the maximum and the default of RedisTimeout.
	MaxRedisTimeout = 50 * time.Millisecond
)

// A Rule says how much may be used in which time. Rules are comparable; equal ones are the same rule.
type Rule struct {
	// Algorithm says how usage is counted; empty means [GCRA].
	Algorithm Algorithm
	// Capacity is how much may be used in Period: 0 to [MaxCapacity]. Nothing passes a capacity of 0.
	Capacity int64
	// Period is the time in which Capacity may be used: [MinPeriod] to [MaxPeriod].
	Period time.Duration
	// Burst is for [GCRA] how much may be used at once after a pause; 0 means Capacity.
	Burst int64
	// Alignment says when the windows of [FixedWindow] begin; empty means [FirstUse].
	Alignment Alignment
	// Penalize charges the limit also for calls that are denied, as far as it is not used up.
	Penalize bool
	// Shadow lets calls pass that the limit denies, and reports what it would have done.
	Shadow bool
	// OnFailure says what is decided when Redis does not decide in time; empty means that the call fails.
	OnFailure FailurePolicy
	// RedisTimeout is how long Redis may take to decide; 0, and more than [MaxRedisTimeout], mean MaxRedisTimeout.
	RedisTimeout time.Duration
}

// Algorithm says how usage is counted.
type Algorithm string

// The algorithms.
const (
	// GCRA lets Burst pass at once and Capacity in each Period, evenly: what was used comes back one by one.
	GCRA Algorithm = "gcra"
	// SlidingWindow counts in windows of one Period from 1970 on. The previous window counts for the share of it that is less
	// than a Period ago.
	SlidingWindow Algorithm = "sliding_window"
	// FixedWindow lets Capacity pass in each window of one Period.
	FixedWindow Algorithm = "fixed_window"
)

// letters name the algorithms in scripts and keys.
var letters = map[Algorithm]string{"": "g", GCRA: "g", SlidingWindow: "s", FixedWindow: "f"}

// Alignment says when the windows of [FixedWindow] begin.
type Alignment string

// The alignments.
const (
	// FirstUse begins a window with the first charge after the previous window.
	FirstUse Alignment = "first_use"
	// Epoch begins windows at multiples of Period since 1970-01-01 00:00 UTC, so that seconds, minutes, hours and days are those
	// of UTC, and weeks begin on Thursday.
	Epoch Alignment = "epoch"
	// Calendar begins windows with the seconds, minutes, hours, days, weeks (from Monday), months and years of UTC: Period must be
	// 1 s, 1 min, 1 h, 24 h, 168 h, 720 h, which stands for a month, or 8760 h, which stands for a year.
	Calendar Alignment = "calendar"
)

// FailurePolicy says what is decided when Redis does not decide in time.
type FailurePolicy string

// The failure policies.
const (
	// FailOpen allows the call.
	FailOpen FailurePolicy = "fail_open"
	// FailClosed denies the call.
	FailClosed FailurePolicy = "fail_closed"
	// FailLocal decides by a bucket in this process, which has the rule's Capacity and Burst divided by [Options].Replicas, at
	// least 1.
	FailLocal FailurePolicy = "local"
)

const (
	month = 30 * 24 * time.Hour
	year  = 365 * 24 * time.Hour
	week  = 7 * 24 * time.Hour
)

// Calendars are the periods that [Calendar] knows.
var Calendars = []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, week, month, year}

// full returns how much may be used at once.
func (r *Rule) full() int64 {
	if r.Burst > 0 && letters[r.Algorithm] == "g" {
		return r.Burst
	}
	return r.Capacity
}

// fullText is full as an argument of a script.
func (r *Rule) fullText() string { return strconv.FormatInt(r.full(), 10) }

// errRule means that a rule is outside the bounds of [Rule], which callers of this package check.
var errRule = errors.New("a rule is out of bounds")

// check returns errRule if the scripts could not calculate exactly with the rule.
func (r *Rule) check() error {
	if letters[r.Algorithm] == "" || r.Capacity < 0 || r.Capacity > MaxCapacity || r.Burst < 0 || r.Burst > MaxCapacity ||
		r.Period < MinPeriod || r.Period > MaxPeriod {
		return errRule
	}
	return nil
}

// align returns the argument of a script that says when the windows of a rule begin.
func (l *Limiter) align(r *Rule) string {
	if r.Algorithm != FixedWindow {
		return ""
	}
	switch r.Alignment {
	case Epoch:
		return "0"
	case Calendar:
		return calendar(r.Period, l.redis.Now().UTC())
	default:
		return ""
	}
}

// calendar returns where the windows of a calendar begin: an offset from 1970 in microseconds, or, for months and years, which
// differ in length, the edges of the window at now, of the two before it and of the two after it.
func calendar(period time.Duration, now time.Time) string {
	var edge func(n int) time.Time
	switch period {
	case week:
		return strconv.FormatInt((4 * 24 * time.Hour).Microseconds(), 10) // 1970-01-05 was a Monday
	case month:
		edge = func(n int) time.Time {
			return time.Date(now.Year(), now.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
		}
	case year:
		edge = func(n int) time.Time { return time.Date(now.Year()+n, time.January, 1, 0, 0, 0, 0, time.UTC) }
	default:
		return "0"
	}
	text := make([]byte, 0, 6*17)
	for n := -2; n <= 3; n++ {
		text = strconv.AppendInt(text, edge(n).UnixMicro(), 10)
		if n < 3 {
			text = append(text, ' ')
		}
	}
	return string(text)
}
