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
	// maxReadNamespaces is the maximum number of namespaces with counts of their own. Callers can invent any number of
	// namespaces, and each costs memory here and time series in Prometheus.
	maxReadNamespaces = 100
	// otherNamespaces is the name under which all other namespaces are counted; no namespace begins with an underscore.
	otherNamespaces = "_other"
)

// readOutcomes is the number of values of cachev1.ReadOutcome.
const readOutcomes = cachev1.ReadOutcome_READ_OUTCOME_FAILED + 1

// reads counts the reads of each namespace by outcome and source. Counting takes no lock and does not allocate, because the
// map of known namespaces is never changed, only replaced.
type reads struct {
	since time.Time
	other readCounts
	known atomic.Pointer[map[string]*readCounts]
	mu    sync.Mutex // held to add a namespace
}

// readCounts are the reads of one namespace, by outcome and by source: 0 is Redis, 1 the near cache.
type readCounts [readOutcomes][2]atomic.Int64

func newReads() *reads {
	r := &reads{since: time.Now()}
	r.known.Store(&map[string]*readCounts{})
	return r
}

// of returns the counts of a namespace, which are otherNamespaces' if maxReadNamespaces others are known.
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

// admit adds a namespace to the known ones unless there are maxReadNamespaces already.
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

// each calls visit for each count above zero.
func (c *readCounts) each(visit func(outcome cachev1.ReadOutcome, source cachev1.Source, n int64)) {
	for outcome := range c {
		for i, source := range [...]cachev1.Source{cachev1.Source_SOURCE_REDIS, cachev1.Source_SOURCE_NEAR_CACHE} {
			if n := c[outcome][i].Load(); n > 0 {
				visit(cachev1.ReadOutcome(outcome), source, n) //nolint:gosec // an index of the array
			}
		}
	}
}

// all returns the counts of every known namespace, and those of the others as otherNamespaces if there are any.
func (r *reads) all() map[string]*readCounts {
	all := maps.Clone(*r.known.Load())
	r.other.each(func(cachev1.ReadOutcome, cachev1.Source, int64) { all[otherNamespaces] = &r.other })
	return all
}
