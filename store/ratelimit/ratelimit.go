// Package ratelimit keeps rate limits in Redis: what was used of each, by whom, in which time.
package ratelimit

import (
	"sync/atomic"
	"time"

	"github.com/berthcare/larder/store/redis"
)

// Options configures a [Limiter].
type Options struct {
	// Replicas is the number of replicas of Larder that are expected to run, by which [FailLocal] divides limits; 0 means 1.
	Replicas int
	// NoLocalDenials asks Redis also about a limit that has just denied.
	NoLocalDenials bool
}

// Limiter decides about calls that are limited. It is safe for concurrent use.
//
// Usage is counted in Redis, by scripts and by the time of Redis, so that all replicas together keep to a limit. What is stored is
// the usage and not the limit: a rule that has changed acts at once.
type Limiter struct {
	redis    *redis.Client
	options  Options
	denials  *denials // nil if denials are not kept
	buckets  buckets
	counters counters
	scripts  scripts
}

// scripts are those of a limiter; tests give them another time.
type scripts struct{ consume, settle *redis.Script }

type counters struct{ local, open, closed, bucket, notReturned atomic.Int64 }

// New returns a limiter over a Redis client.
func New(c *redis.Client, o Options) *Limiter {
	if o.Replicas <= 0 {
		o.Replicas = 1
	}
	l := &Limiter{redis: c, options: o, scripts: scripts{consumeScript, settleScript}}
	if !o.NoLocalDenials {
		l.denials = newDenials()
	}
	return l
}

// Stats are counters of a [Limiter].
type Stats struct {
	// LocalDenials is the number of calls that were denied without asking Redis.
	LocalDenials int64
	// FailedOpen, FailedClosed and FailedLocal are the numbers of charges that were decided without Redis, by failure policy.
	FailedOpen, FailedClosed, FailedLocal int64
	// NotReturned is the number of charges of denied calls that could not be given back.
	NotReturned int64
}

// Stats returns the current counters.
func (l *Limiter) Stats() Stats {
	return Stats{
		LocalDenials: l.counters.local.Load(), FailedOpen: l.counters.open.Load(), FailedClosed: l.counters.closed.Load(),
		FailedLocal: l.counters.bucket.Load(), NotReturned: l.counters.notReturned.Load(),
	}
}

// Never is a retry time that does not come.
const Never time.Duration = -1

// A Charge is what a call takes of one limit.
type Charge struct {
	// Subject is who is limited, such as a user or an address. All limits of a subject are in one slot of a cluster.
	Subject string
	// Name tells the limits of a subject apart. It must not contain a colon.
	Name string
	// Rule is the limit.
	Rule Rule
	// Cost is what is charged. 0 charges nothing, and is denied only if more than the rule's capacity is used. A negative cost
	// gives back what was charged, down to nothing, and is never denied.
	Cost int64
	// Peek decides as usual and changes nothing.
	Peek bool
}

// Mode says how the limits of a call depend on each other.
type Mode string

// The modes.
const (
	// All charges every limit or, if one that is not in shadow denies, none.
	All Mode = "all"
	// Partial is All, but charges as much as every limit allows, at most the cost, which must be the same for all limits. Nothing
	// left means that the call is denied.
	Partial Mode = "partial"
	// Each charges each limit by itself, also those that deny: a window counts in full what is beyond its capacity, a GCRA bucket
	// is filled up.
	Each Mode = "each"
)

// Outcome is what one limit says to a call.
type Outcome int64

// The outcomes, as the scripts number them.
const (
	// Allowed means that the cost is within the limit.
	Allowed Outcome = 1
	// Denied means that too much has been used.
	Denied Outcome = 2
	// TooCostly means that the cost is more than may ever be used at once.
	TooCostly Outcome = 3
	// Unavailable means that Redis did not decide in time and that the rule is [FailClosed].
	Unavailable Outcome = 4
)

// A Result is what one limit says to a call.
type Result struct {
	// Outcome is the limit's own decision, whatever others say.
	Outcome Outcome
	// Charged is what the limit was charged.
	Charged int64
	// Used is what is used now, and Remaining what is left of the rule's capacity or burst.
	Used, Remaining int64
	// AvailableAfter is the time until Remaining grows, 0 if nothing is used. ResetAfter is the time until nothing is used.
	AvailableAfter, ResetAfter time.Duration
	// RetryAfter is the time until the cost would be allowed if nothing else were charged: 0 if it is now, [Never] if it is more
	// than may ever be used at once.
	RetryAfter time.Duration
	// Degraded means that Redis did not decide in time, and that the rule's failure policy did; the numbers are then those of the
	// bucket of [FailLocal], and else unknown and 0.
	Degraded bool
}

// A Decision is the answer to a call.
type Decision struct {
	// Allowed reports whether every limit that is not in shadow allows the call.
	Allowed bool
	// Granted is the cost that was charged: that of the first charge, less in the mode [Partial], 0 if the call is denied.
	Granted int64
	// RetryAfter is the time until all limits would allow the call, 0 if they do, [Never] if one never will.
	RetryAfter time.Duration
	// Degraded means that the failure policy of a rule has decided.
	Degraded bool
	// Local means that the call was denied without asking Redis, because a limit has denied it within the last second.
	Local bool
	// Repeated means that the answer is that to an earlier attempt of the same request.
	Repeated bool
	// Results has one for each charge.
	Results []Result
}
