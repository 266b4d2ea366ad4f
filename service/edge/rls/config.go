// Package rls decides what Envoy's rate limit protocol, envoy.service.ratelimit.v3, asks for: it reads the
// configuration files of envoyproxy/ratelimit, finds the rule of each descriptor, and builds the answer from what the
// counters say. It holds no counters and does no I/O besides reading the files.
//
// Names are those of the protocol. A request has descriptors, each a list of entries, which are pairs of a key and a value.
// A rule is a limit in a file, at a path such as "messaging.message_type_marketing.to_number". What is said of other
// implementations is the behaviour of envoyproxy/ratelimit of July 2026.
package rls

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// A Unit is the unit of a limit as the protocol numbers it.
type Unit = envoy.RateLimitResponse_RateLimit_Unit

// lengths are the lengths of the units. A month has 30 days and a year 365, as for other implementations.
var lengths = map[Unit]time.Duration{
	envoy.RateLimitResponse_RateLimit_SECOND: time.Second,
	envoy.RateLimitResponse_RateLimit_MINUTE: time.Minute,
	envoy.RateLimitResponse_RateLimit_HOUR:   time.Hour,
	envoy.RateLimitResponse_RateLimit_DAY:    24 * time.Hour,
	envoy.RateLimitResponse_RateLimit_WEEK:   7 * 24 * time.Hour,
	envoy.RateLimitResponse_RateLimit_MONTH:  30 * 24 * time.Hour,
	envoy.RateLimitResponse_RateLimit_YEAR:   365 * 24 * time.Hour,
}

// An Algorithm is how a rule counts. The zero value is FixedWindow.
type Algorithm string

// The algorithms. A fixed window begins at a multiple of its period since 1970, so that a window of a minute begins with the
// minute.
const (
	FixedWindow   Algorithm = "fixed_window"
	SlidingWindow Algorithm = "sliding_window"
	GCRA          Algorithm = "gcra"
)

// A FailurePolicy is what a rule answers while Redis does not. The zero value means that of the server.
type FailurePolicy string

// The failure policies: allow, deny, or count in this process alone.
const (
	FailOpen   FailurePolicy = "fail_open"
	FailClosed FailurePolicy = "fail_closed"
	Local      FailurePolicy = "local"
)

// A Rule is one limit of a configuration.
type Rule struct {
	// Domain is the domain of the rule's file, and Path the domain and the keys, with values where the file has one,
	// joined by dots.
	Domain, Path string
	// RequestsPerUnit and Unit are the limit as the answer reports it; Unit is UNKNOWN for a period that is no unit.
	RequestsPerUnit uint32
	Unit            Unit
	// Unlimited rules allow everything and are not counted in Redis.
	Unlimited bool
	// Name is the name that replaces of other rules refer to, and Replaces are the names that this rule replaces.
	Name     string
	Replaces []string
	// Shadow rules are counted and never deny. Quota rules deny only if all quota rules of a request do.
	Shadow, Quota bool
	// Metadata is added to the dynamic metadata of an answer in which the rule allows; nil for none.
	Metadata *structpb.Struct

	// Period is the time in which RequestsPerUnit are allowed: the length of Unit, unless an extension sets another.
	Period time.Duration
	// Algorithm, Burst and Failure come from an extension file. A Burst of 0 means RequestsPerUnit; only GCRA has one.
	Algorithm Algorithm
	Burst     uint32
	Failure   FailurePolicy

	counts *counts // nil until Stats.Adopt
}

// override is the rule of a descriptor that brings its own limit.
func override(domain string, requests uint32, unit Unit) *Rule {
	return &Rule{
		Domain: domain, Path: domain + "." + OverridePath, RequestsPerUnit: requests, Unit: unit, Period: lengths[unit], Algorithm: FixedWindow,
	}
}

// OverridePath is the last part of the path of limits that requests bring along. Counts of all of them are kept together,
// because their descriptors are no part of the configuration.
const OverridePath = "<override>"

// A level is what one step of a descriptor is looked up in: the rules of a domain, or those below another rule.
type level struct {
	// byKey has the key, or the key and the value joined by "_".
	byKey map[string]*node
	// wildcards are those nodes whose key and value contain "*", in the order of the file.
	wildcards []*node
	// overrides counts the limits that requests bring along; only on the level of a domain, and nil until Stats.Adopt.
	overrides *counts
}

// A node is one descriptor of a file.
type node struct {
	pattern string // the key, or the key and the value joined by "_"
	rule    *Rule  // nil without a limit
	share   bool   // share_threshold
	below   *level // nil if nothing is nested below
}

// A Config is a set of rules. It never changes, so that a request is under one configuration from beginning to end.
type Config struct {
	domains map[string]*level
	rules   []*Rule
	// Warnings are parts of the files that have no effect, one line each with file and line.
	Warnings []string
}

// Rules returns all rules, in the order of the files.
func (c *Config) Rules() []*Rule { return c.rules }

// Domains returns the number of domains.
func (c *Config) Domains() int { return len(c.domains) }

// Dump lists the rules, one line each, in the form in which envoyproxy/ratelimit shows its own. What only Larder has
// follows on the line.
func (c *Config) Dump() string {
	var text strings.Builder
	for _, r := range c.rules {
		fmt.Fprintf(&text, "%s: unit=%s requests_per_unit=%d, shadow_mode: %t", r.Path, r.Unit, r.RequestsPerUnit, r.Shadow)
		if r.Quota {
			text.WriteString(", quota_mode: true")
		}
		if r.Unlimited {
			text.WriteString(", unlimited: true")
		}
		if r.Algorithm != FixedWindow {
			fmt.Fprintf(&text, ", algorithm: %s", r.Algorithm)
		}
		if r.Period != lengths[r.Unit] {
			fmt.Fprintf(&text, ", period: %s", r.Period)
		}
		if r.Burst > 0 {
			fmt.Fprintf(&text, ", burst: %d", r.Burst)
		}
		if r.Failure != "" {
			fmt.Fprintf(&text, ", failure_policy: %s", r.Failure)
		}
		text.WriteByte('\n')
	}
	return text.String()
}

// A LoadError is one mistake in a file.
type LoadError struct {
	File string
	// Line is the line of the mistake, from 1; 0 if it is about the whole file.
	Line int
	// Path is where it is, such as descriptors[0].rate_limit.unit; empty if it is about the whole file.
	Path string
	// Problem says what is wrong, and what is expected.
	Problem string
}

// Error returns file, line, path and problem.
func (f *LoadError) Error() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if f.Path != "" {
		where += ": " + f.Path
	}
	return where + ": " + f.Problem
}

// LoadErrors are the mistakes in a set of files, at least one.
type LoadErrors []*LoadError

// maxFaults is the maximum number of mistakes that are reported at once.
const maxFaults = 20

// Error returns all mistakes, one line each.
func (f LoadErrors) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted puts faults in the order of file and line.
func (f LoadErrors) sorted() LoadErrors {
	slices.SortStableFunc(f, func(a, b *LoadError) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return f
}
