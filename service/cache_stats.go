package service

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// GetStats returns the counts of this replica since it started.
func (c *Cache) GetStats(_ context.Context, r *cachev1.GetStatsRequest) (*cachev1.GetStatsResponse, error) {
	f := c.fields()
	f.namespace(r.GetNamespace())
	if err := f.err(); err != nil {
		return nil, err
	}
	s := c.store.Stats()
	resp := &cachev1.GetStatsResponse{
		StartedAt: timestamppb.New(c.reads.since),
		NearCache: &cachev1.NearCacheStats{
			Entries: s.Near.Entries, Bytes: s.Near.Bytes, Evictions: s.Near.Evictions, Invalidations: s.Near.Invalidations, Flushes: s.Near.Flushes,
		},
	}
	all := c.reads.all()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if r.GetNamespace() == "" || r.GetNamespace() == name {
			resp.Namespaces = append(resp.Namespaces, namespaceStats(name, all[name]))
		}
	}
	return resp, nil
}

// namespaceStats returns the counts of a namespace. The hit ratio leaves failed reads out, and is unset without other reads.
func namespaceStats(name string, counts *readCounts) *cachev1.NamespaceStats {
	stats := &cachev1.NamespaceStats{Namespace: name}
	hits, reads := 0.0, 0.0
	counts.each(func(outcome cachev1.ReadOutcome, source cachev1.Source, n int64) {
		stats.Reads = append(stats.Reads, &cachev1.ReadCount{Outcome: outcome, Source: source, Count: n})
		switch outcome {
		case cachev1.ReadOutcome_READ_OUTCOME_FAILED:
			return
		case cachev1.ReadOutcome_READ_OUTCOME_MISS, cachev1.ReadOutcome_READ_OUTCOME_PENDING:
		default:
			hits += float64(n)
		}
		reads += float64(n)
	})
	if reads > 0 {
		ratio := hits / reads
		stats.HitRatio = &ratio
	}
	return stats
}
