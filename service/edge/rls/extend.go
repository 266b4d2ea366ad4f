package rls

import (
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

const (
	// maxPeriod is the maximum period that an extension sets, and minPeriod the minimum.
	maxPeriod = 366 * 24 * time.Hour
	minPeriod = time.Second
)

// An extender reads an extension file: what only Larder knows of rules, by the path of the rule, in a file of its own, so
// that the file of rules stays as other implementations read it.
//
//	rules:
//	  messaging.to_number:
//	    algorithm: gcra
//	    burst: 20
//	    period: 15m
//	    failure_policy: fail_closed
type extender struct {
	reader
	config *Config
}

func (e *extender) root(n ast.Node) {
	if n == nil {
		return
	}
	for _, f := range e.fields(n, "", 1) {
		if f.name != "rules" {
			e.fault(f.line, f.path, "is not known")
			continue
		}
		for _, named := range e.fields(f.value, f.path, f.line) {
			e.rule(named)
		}
	}
}

// rule applies what is said of one rule.
func (e *extender) rule(f field) {
	var found []*Rule
	for _, r := range e.config.rules {
		if r.Path == f.name {
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 0:
		e.fault(f.line, f.path, "is not the path of a rule, such as domain.key_value.key")
		return
	case len(found) > 1: // keys and values may contain dots
		e.fault(f.line, f.path, "is the path of %d rules", len(found))
		return
	}
	r := found[0]
	burst := field{}
	for _, f := range e.fields(f.value, f.path, f.line) {
		switch f.name {
		case "algorithm":
			r.Algorithm = word(e, f, FixedWindow, SlidingWindow, GCRA)
		case "failure_policy":
			r.Failure = word(e, f, FailOpen, FailClosed, Local)
		case "burst":
			if burst, r.Burst = f, e.number(f); r.Burst == 0 {
				e.fault(f.line, f.path, "must be at least 1")
			}
		case "period":
			e.period(f, r)
		default:
			e.fault(f.line, f.path, "is not known")
		}
	}
	if r.Burst > 0 && r.Algorithm != GCRA {
		e.fault(burst.line, burst.path, "needs algorithm: gcra; a window has no burst")
	}
	if r.Unlimited {
		e.warn(f.line, f.path, "has no effect on a rule that is unlimited")
	}
}

// period reads the time in which requests_per_unit are allowed. The answer can name only a unit, so that of another period
// it names none.
func (e *extender) period(f field, r *Rule) {
	period, err := time.ParseDuration(e.text(f))
	if err != nil || period < minPeriod || period > maxPeriod || period%time.Second != 0 {
		e.fault(f.line, f.path, "must be a duration of whole seconds, such as 90s or 15m, from 1s to %.0fh", maxPeriod.Hours())
		return
	}
	r.Period, r.Unit = period, 0
	for unit, length := range lengths {
		if length == period {
			r.Unit = unit
		}
	}
}

// word returns a field that must be one of a few words.
func word[W ~string](e *extender, f field, words ...W) W {
	w := W(strings.ToLower(e.text(f)))
	if !slices.Contains(words, w) {
		names := make([]string, len(words))
		for i, w := range words {
			names[i] = string(w)
		}
		last := len(names) - 1
		e.fault(f.line, f.path, "must be %s or %s", strings.Join(names[:last], ", "), names[last])
	}
	return w
}
