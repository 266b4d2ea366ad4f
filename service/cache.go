package service

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
)

// Cache answers larder.cache.v1.CacheService.
type Cache struct {
	cachev1.UnimplementedCacheServiceServer

	store    *store.Store
	policies *policy.Policies
	limits   *policy.Limits
	reads    *reads
	now      func() time.Time // the store's Now, kept because each method value allocates
}

// NewCache returns a CacheService over a store, which adds its counts of reads to the metrics.
func NewCache(st *store.Store, p *policy.Policies, m *Metrics) *Cache {
	c := &Cache{store: st, policies: p, limits: p.Limits(), reads: newReads(), now: st.Redis.Now}
	m.watchReads(c.reads)
	return c
}

func (c *Cache) fields() *fields { return newFields(c.policies, c.now) }

// Get reads one entry.
func (c *Cache) Get(ctx context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	near := enum(f, "consistency", r.GetConsistency(), cachev1.Consistency_name) != cachev1.Consistency_CONSISTENCY_PRIMARY
	if r.GetIfNoneMatch() != "" {
		f.etag("if_none_match", r.GetIfNoneMatch())
	}
	var maxAge time.Duration
	if r.GetMaxAge() != nil {
		maxAge = f.exactDuration("max_age", r.GetMaxAge(), 1, time.Duration(1<<63-1))
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	found, err := c.store.Cache.Get(ctx, ns, key, near && f.rules.Cache.NearCache)
	if err != nil {
		return nil, err
	}
	now := c.store.Redis.Now()
	if found.Entry != nil && maxAge > 0 && !found.AsOf.IsZero() && now.Sub(found.AsOf) > maxAge {
		found.Stale = true
	}
	answer := new(struct { // one allocation for both
		times entryTimes
		resp  cachev1.GetResponse
	})
	allowStale := f.rules.Cache.AllowStale
	if r.AllowStale != nil {
		allowStale = r.GetAllowStale()
	}
	v := view(found, now, &answer.times)
	if v.outcome == cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE && !allowStale {
		v = view(cache.Found{}, now, nil)
	}
	resp := &answer.resp
	resp.Outcome, resp.Value, resp.Etag, resp.ContentType = cachev1.GetOutcome(v.outcome), v.value, v.etag, v.contentType
	resp.Tags = v.tags
	resp.Ttl, resp.StaleTtl, resp.Age, resp.Source = v.ttl, v.staleTTL, v.age, v.source
	if resp.Outcome == cachev1.GetOutcome_GET_OUTCOME_HIT && resp.Etag == r.GetIfNoneMatch() {
		resp.Outcome, resp.Value = cachev1.GetOutcome_GET_OUTCOME_NOT_MODIFIED, nil
	}
	c.reads.of(ns).add(cachev1.ReadOutcome(resp.Outcome), found.Near)
	return resp, nil
}

// An entryView is an entry as it appears in responses. The outcomes that Get and BatchGet have in common have the same
// numbers.
type entryView struct {
	outcome            cachev1.BatchGetOutcome
	value              []byte
	etag               string
	ttl, staleTTL, age *durationpb.Duration
	source             cachev1.Source
	contentType        string
	tags               []string
}

// entryTimes has the durations of a response, allocated together.
type entryTimes struct{ ttl, staleTTL, age durationpb.Duration }

// setDuration sets d to v and returns d, where durationpb.New would allocate.
func setDuration(d *durationpb.Duration, v time.Duration) *durationpb.Duration {
	d.Seconds, d.Nanos = int64(v/time.Second), int32(v%time.Second)
	return d
}

// view returns an entry as it is at the time now. Its durations are stored in times, which may be nil for a miss.
func view(found cache.Found, now time.Time, times *entryTimes) entryView {
	e := found.Entry
	if e == nil {
		return entryView{outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS}
	}
	v := entryView{
		outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, value: e.Value, etag: e.ETag.String(),
		source: cachev1.Source_SOURCE_REDIS, contentType: e.ContentType, tags: e.Tags,
	}
	if found.Near {
		v.source = cachev1.Source_SOURCE_NEAR_CACHE
	}
	if !e.AsOf.IsZero() {
		v.age = setDuration(&times.age, max(now.Sub(e.AsOf), 0))
	}
	if e.Negative {
		v.outcome = cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_NEGATIVE
	}
	switch {
	case found.Stale && e.Negative:
		return entryView{outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS}
	case found.Stale:
		v.outcome = cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE
	}
	if e.Soft.IsZero() {
		return v
	}
	if fresh := e.Soft.Sub(now); fresh > 0 && !found.Stale {
		v.ttl = setDuration(&times.ttl, fresh)
		now = e.Soft
	} else {
		v.outcome = cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE
	}
	if stale := e.Hard.Sub(now); stale > 0 {
		v.staleTTL = setDuration(&times.staleTTL, stale)
	}
	return v
}
