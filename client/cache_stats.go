package client

import (
	"context"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// StatsOptions say which figures to ask for.
type StatsOptions struct {
	// AllNamespaces asks for every namespace that was read, not for that of this cache alone.
	AllNamespaces bool
}

// Stats are figures of one replica.
type Stats struct {
	// StartedAt is when the replica began to count.
	StartedAt time.Time
	// Namespaces are those that were read since, in the order of their names. A replica tells the first 100 apart; all
	// later ones are counted together as "_other".
	Namespaces []NamespaceStats
	// NearCache is the memory of the replica, of all namespaces and of sessions together.
	NearCache NearCacheStats
}

// NamespaceStats counts the reads of one namespace.
type NamespaceStats struct {
	// Namespace is its name.
	Namespace string
	// HitRatio is the share of Hit, Stale, Negative and NotModified in all reads but Failed ones, 0 to 1; zero when there
	// are none.
	HitRatio float64
	// Reads are the counts that are not zero.
	Reads []ReadCount
}

// A ReadCount is how many reads had one outcome and one source.
type ReadCount struct {
	// Outcome is what was found: Hit, Stale, Negative, Miss, NotModified, Pending or Failed.
	Outcome Outcome
	// Source is where that was known, also of a Miss.
	Source Source
	// Count is how many there were.
	Count int64
}

// NearCacheStats are figures of a near cache. All are zero where there is none.
type NearCacheStats struct {
	// Entries is how many entries it holds, and Bytes about how much memory it takes.
	Entries, Bytes int64
	// Evictions counts entries dropped for want of room.
	Evictions int64
	// Invalidations counts entries dropped because they changed in Redis.
	Invalidations int64
	// Flushes counts the times that everything was dropped, as when a connection was lost.
	Flushes int64
}

// Stats tells what reads of this cache's namespace have found, and what the near cache holds, in one replica since it
// started: whichever answers. It is for people; metrics are the way to watch all replicas.
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
				Outcome: Outcome(name(read.GetOutcome(), "READ_OUTCOME_")), Source: Source(name(read.GetSource(), "SOURCE_")), Count: read.GetCount(),
			})
		}
		stats.Namespaces = append(stats.Namespaces, s)
	}
	return stats, nil
}
