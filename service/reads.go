package service

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

const (
	// maxReadNamespaces is how many namespaces have counts of their own. Callers invent namespaces, and each takes memory
	// here and time series in Prometheus, so that their number must not be the callers' choice.
	maxReadNamespaces = 100
	// otherNamespaces is where all the rest is counted. No namespace begins with an underscore.
	otherNamespaces = "_other"
)

// readOutcomes is one more than the greatest outcome of a read.
const readOutcomes = cachev1.ReadOutcome_READ_OUTCOME_FAILED + 1

// reads counts what the reads of each namespace have found. Counting takes no lock and no memory: a namespace that is
// known is looked up in a map that is never changed, only replaced.
type reads struct {
	since time.Time
	other readCounts
	known atomic.Pointer[map[string]*readCounts]
	mu    sync.Mutex // held to add a namespace
}

// readCounts are the reads of one namespace, by outcome and by whether the near cache answered.
type readCounts [readOutcomes][2]atomic.Int64

func newReads() *reads {
	r := &reads{since: time.Now()}
	r.known.Store(&map[string]*readCounts{})
	return r
}

// of returns where the reads of a namespace are counted.
func (r *reads) of(namespace string) *readCounts {
	known := *r.known.Load()
	if c, ok := known[namespace]; ok {
		return c
	}
	if len(known) >= maxReadNamespaces {
		return &r.other
	}
	return r.admit(namespace)
}

// admit gives a namespace counts of its own if there is room.
func (r *reads) admit(namespace string) *readCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := *r.known.Load()
	if c, ok := known[namespace]; ok {
		return c
	}
	if len(known) >= maxReadNamespaces {
		return &r.other
	}
	more, c := maps.Clone(known), new(readCounts)
	more[strings.Clone(namespace)] = c
	r.known.Store(&more)
	return c
}

// add counts one read.
func (c *readCounts) add(outcome cachev1.ReadOutcome, near bool) {
	source := 0
	if near {
		source = 1
	}
	c[outcome][source].Add(1)
}

// each visits the counts that are not zero.
func (c *readCounts) each(visit func(outcome cachev1.ReadOutcome, source cachev1.Source, n int64)) {
	for outcome := range c {
		for i, source := range [...]cachev1.Source{cachev1.Source_SOURCE_REDIS, cachev1.Source_SOURCE_NEAR_CACHE} {
			if n := c[outcome][i].Load(); n > 0 {
				visit(cachev1.ReadOutcome(outcome), source, n) //nolint:gosec // an index of the array
			}
		}
	}
}

// all returns the counts of every namespace, and those of the rest together if there are any.
func (r *reads) all() map[string]*readCounts {
	all := maps.Clone(*r.known.Load())
	r.other.each(func(cachev1.ReadOutcome, cachev1.Source, int64) { all[otherNamespaces] = &r.other })
	return all
}
