package client

import (
	"context"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// StatsOptions are the options of [Cache.Stats].
type StatsOptions struct {
	// AllNamespaces returns the figures of every namespace that was read, and not only those of the Cache's namespace.
	AllNamespaces bool
}

// Stats are the figures of one replica.
type Stats struct {
	// StartedAt is when the replica began to count.
	StartedAt time.Time
	// Namespaces are the namespaces that were read since then, sorted by name. A replica counts the first 100 namespaces
	// separately and all later ones together as "_other".
	Namespaces []NamespaceStats
	// NearCache describes the replica's near cache, which all namespaces and all sessions share.
	NearCache NearCacheStats
}

// NamespaceStats counts the reads of one namespace. A read by [Cache.BatchGet] counts each of its keys.
type NamespaceStats struct {
	// Namespace is the name of the namespace.
	Namespace string
	// HitRatio is the share of reads with the outcome [Hit], [Stale], [Negative] or [NotModified] in all reads except
	// [Failed] ones, 0 to 1. It is zero if there were none.
	HitRatio float64
	// Reads are the counts that are above zero.
	Reads []ReadCount
}

// A ReadCount says how many reads had one outcome and one source.
type ReadCount struct {
	// Outcome is [Hit], [Stale], [Negative], [Miss], [NotModified], [Pending] or [Failed].
	Outcome Outcome
	// Source says where the replica read the entry, or its absence.
	Source Source
	// Count is the number of reads.
	Count int64
}

// NearCacheStats describes a near cache. All fields are zero if the replica has none.
type NearCacheStats struct {
	// Entries is the number of entries in the near cache, and Bytes approximately how much memory they use.
	Entries, Bytes int64
	// Evictions counts the entries that were dropped to make room.
	Evictions int64
	// Invalidations counts the entries that were dropped because they had changed in Redis.
	Invalidations int64
	// Flushes counts how often all entries were dropped at once, as when a connection to Redis was lost.
	Flushes int64
}

// Stats returns the figures of the replica that happens to answer. It is for people looking at one replica; to monitor
// all of them, scrape their metrics. It costs no Redis command and works while Redis is down.
func (c *Cache) Stats(ctx context.Context, o StatsOptions) (Stats, error) {
	req := &cachev1.GetStatsRequest{Namespace: c.namespace}
	switch {
	case o.AllNamespaces:
		req.Namespace = ""
	case req.Namespace == "":
		req.Namespace = "default"
	}
	r, err := c.rpc.GetStats(ctx, req)
	if err != nil {
		return Stats{}, err
	}
	near := r.GetNearCache()
	stats := Stats{StartedAt: r.GetStartedAt().AsTime(), NearCache: NearCacheStats{
		Entries: near.GetEntries(), Bytes: near.GetBytes(), Evictions: near.GetEvictions(),
		Invalidations: near.GetInvalidations(), Flushes: near.GetFlushes(),
	}}
	for _, n := range r.GetNamespaces() {
		s := NamespaceStats{Namespace: n.GetNamespace(), HitRatio: n.GetHitRatio()}
		for _, read := range n.GetReads() {
			s.Reads = append(s.Reads, ReadCount{
				Outcome: Outcome(text(read.GetOutcome(), "READ_OUTCOME_")), Source: Source(text(read.GetSource(), "SOURCE_")), Count: read.GetCount(),
			})
		}
		stats.Namespaces = append(stats.Namespaces, s)
	}
	return stats, nil
}
