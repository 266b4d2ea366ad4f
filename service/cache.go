package service

import (
	"context"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
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

// Set writes one entry.
func (c *Cache) Set(ctx context.Context, r *cachev1.SetRequest) (*cachev1.SetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.SetRequest_Never)
	w := f.write(r, neverSet)
	cond := f.condition(r)
	if err := f.err(); err != nil {
		return nil, err
	}
	stored, etag, err := c.store.Cache.Set(ctx, ns, key, w, cond)
	if err != nil {
		return nil, err
	}
	outcome := cachev1.SetOutcome_SET_OUTCOME_NOT_STORED
	if stored {
		outcome = cachev1.SetOutcome_SET_OUTCOME_STORED
	}
	return &cachev1.SetResponse{Outcome: outcome, Etag: etag}, nil
}

// Delete removes one entry.
func (c *Cache) Delete(ctx context.Context, r *cachev1.DeleteRequest) (*cachev1.DeleteResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	var match *cache.ETag
	if r.GetIfMatch() != "" {
		e := f.etag("if_match", r.GetIfMatch())
		match = &e
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	deleted, etag, err := c.store.Cache.Delete(ctx, ns, key, match)
	if err != nil {
		return nil, err
	}
	outcome := cachev1.DeleteOutcome_DELETE_OUTCOME_MISS
	switch {
	case deleted:
		outcome = cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED
	case etag != "":
		outcome = cachev1.DeleteOutcome_DELETE_OUTCOME_NOT_DELETED
	}
	return &cachev1.DeleteResponse{Outcome: outcome, Etag: etag}, nil
}

// touchModes maps the modes of the API to those of the store.
var touchModes = map[cachev1.TouchMode]cache.TouchMode{
	cachev1.TouchMode_TOUCH_MODE_UNSPECIFIED:  cache.TouchOverwrite,
	cachev1.TouchMode_TOUCH_MODE_OVERWRITE:    cache.TouchOverwrite,
	cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY:  cache.TouchExtend,
	cachev1.TouchMode_TOUCH_MODE_SHORTEN_ONLY: cache.TouchShorten,
}

// Touch changes the expiry of one entry.
func (c *Cache) Touch(ctx context.Context, r *cachev1.TouchRequest) (*cachev1.TouchResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.TouchRequest_Never)
	fresh := f.jittered(f.fresh(r, neverSet), r, neverSet)
	mode := enum(f, "mode", r.GetMode(), cachev1.TouchMode_name)
	if err := f.err(); err != nil {
		return nil, err
	}
	found, changed, err := c.store.Cache.Touch(ctx, ns, key, fresh, touchModes[mode])
	if err != nil {
		return nil, err
	}
	outcome := cachev1.TouchOutcome_TOUCH_OUTCOME_MISS
	switch {
	case changed:
		outcome = cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED
	case found:
		outcome = cachev1.TouchOutcome_TOUCH_OUTCOME_UNCHANGED
	}
	return &cachev1.TouchResponse{Outcome: outcome}, nil
}

// ttlPolicies maps the ttl policies of the API to those of the store.
var ttlPolicies = map[cachev1.TtlPolicy]cache.TTLPolicy{
	cachev1.TtlPolicy_TTL_POLICY_UNSPECIFIED: cache.TTLOnCreate,
	cachev1.TtlPolicy_TTL_POLICY_ON_CREATE:   cache.TTLOnCreate,
	cachev1.TtlPolicy_TTL_POLICY_ALWAYS:      cache.TTLAlways,
	cachev1.TtlPolicy_TTL_POLICY_KEEP:        cache.TTLKeep,
}

// Increment adds to a counter.
func (c *Cache) Increment(ctx context.Context, r *cachev1.IncrementRequest) (*cachev1.IncrementResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	key := f.key("key", ns, r.GetKey())
	_, neverSet := r.GetExpiry().(*cachev1.IncrementRequest_Never)
	policy := ttlPolicies[enum(f, "ttl_policy", r.GetTtlPolicy(), cachev1.TtlPolicy_name)]
	onBound := enum(f, "on_bound", r.GetOnBound(), cachev1.BoundPolicy_name)
	inc := cache.Increment{
		Delta: 1, Initial: r.GetInitial(), TTL: f.fresh(r, neverSet), Policy: policy, Min: r.Min, Max: r.Max,
		Saturate: onBound == cachev1.BoundPolicy_BOUND_POLICY_SATURATE,
	}
	if r.Delta != nil {
		inc.Delta = r.GetDelta()
	}
	if policy == cache.TTLKeep && r.GetExpiry() != nil {
		f.add("ttl_policy", "must not be TTL_POLICY_KEEP if ttl, expire_time or never is set")
	}
	if inc.Min != nil && inc.Max != nil && *inc.Max < *inc.Min {
		f.add("max", "must not be below min")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	done, err := c.store.Cache.Increment(ctx, ns, key, inc)
	if err != nil {
		return nil, err
	}
	resp := &cachev1.IncrementResponse{Outcome: cachev1.IncrementOutcome(done.Outcome), Value: done.Value}
	if done.TTL >= 0 {
		resp.Ttl = durationpb.New(done.TTL)
	}
	return resp, nil
}

// BatchGet reads several entries.
func (c *Cache) BatchGet(ctx context.Context, r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.keys(ns, r.GetKeys())
	near := enum(f, "consistency", r.GetConsistency(), cachev1.Consistency_name) != cachev1.Consistency_CONSISTENCY_PRIMARY
	if err := f.err(); err != nil {
		return nil, err
	}
	answer := newBatchAnswer(r.GetKeys(), c.limits.MaxBatchBytes, f.rules.Cache.AllowStale, c.reads.of(ns))
	err := c.store.Cache.BatchGetEach(ctx, ns, r.GetKeys(), near && f.rules.Cache.NearCache, func(first int, found []cache.BatchFound) bool {
		now := c.store.Redis.Now()
		for i := range found {
			answer.add(first+i, &found[i], now)
		}
		return len(answer.resp.Unprocessed) == 0
	})
	if err != nil {
		return nil, err
	}
	return answer.end(), nil
}

// BatchSet writes several entries.
func (c *Cache) BatchSet(ctx context.Context, r *cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.count("items", len(r.GetItems()))
	items := make([]cache.BatchWrite, min(len(r.GetItems()), maxBatchItems))
	for i := range items {
		item := r.GetItems()[i]
		f.prefix = "items[" + strconv.Itoa(i) + "]."
		_, neverSet := item.GetExpiry().(*cachev1.BatchSetItem_Never)
		items[i] = cache.BatchWrite{Key: f.key("key", ns, item.GetKey()), Write: f.write(item, neverSet)}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	stored, err := c.store.Cache.BatchSet(ctx, ns, items)
	if err == nil {
		err = shared(stored, func(s cache.BatchStored) error { return s.Err })
	}
	if err != nil {
		return nil, err
	}
	resp := &cachev1.BatchSetResponse{Results: make([]*cachev1.BatchSetResult, len(items))}
	for i, s := range stored {
		resp.Results[i] = &cachev1.BatchSetResult{
			Key: items[i].Key, Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED, Etag: s.ETag,
		}
		if s.Err != nil {
			resp.Results[i].Outcome = cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED
			resp.Results[i].Reason = reason(s.Err)
		}
	}
	return resp, nil
}

// shared returns the error of the first item if every item of a batch failed for the same reason, otherwise nil.
func shared[T any](results []T, errOf func(T) error) error {
	first := errOf(results[0])
	for _, r := range results {
		if reason(errOf(r)) != reason(first) {
			return nil
		}
	}
	return first
}

// BatchDelete removes several entries.
func (c *Cache) BatchDelete(ctx context.Context, r *cachev1.BatchDeleteRequest) (*cachev1.BatchDeleteResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	f.keys(ns, r.GetKeys())
	if err := f.err(); err != nil {
		return nil, err
	}
	deleted, err := c.store.Cache.BatchDelete(ctx, ns, r.GetKeys())
	if err == nil {
		err = shared(deleted, func(d cache.BatchDeleted) error { return d.Err })
	}
	if err != nil {
		return nil, err
	}
	resp := &cachev1.BatchDeleteResponse{Results: make([]*cachev1.BatchDeleteResult, len(deleted))}
	for i, d := range deleted {
		result := &cachev1.BatchDeleteResult{Key: r.GetKeys()[i], Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_MISS}
		switch {
		case d.Err != nil:
			result.Outcome, result.Reason = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_FAILED, reason(d.Err)
		case d.Deleted:
			result.Outcome = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED
		}
		resp.Results[i] = result
	}
	return resp, nil
}

// DeleteMatching removes the entries whose keys match a pattern.
func (c *Cache) DeleteMatching(r *cachev1.DeleteMatchingRequest, stream grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	pattern := f.pattern(r.GetPattern(), 1)
	if err := f.err(); err != nil {
		return err
	}
	return c.store.Cache.DeleteMatching(stream.Context(), ns, pattern, r.GetResumeToken(), func(deleted int64, next string) error {
		return stream.Send(&cachev1.DeleteMatchingResponse{DeletedCount: deleted, Done: next == "", ResumeToken: next})
	})
}

// ListKeys lists keys page by page.
func (c *Cache) ListKeys(ctx context.Context, r *cachev1.ListKeysRequest) (*cachev1.ListKeysResponse, error) {
	f := c.fields()
	ns := f.namespace(r.GetNamespace())
	pattern := f.pattern(r.GetPattern(), 0)
	size := f.pageSize(r.GetPageSize(), 100, maxBatchItems)
	if err := f.err(); err != nil {
		return nil, err
	}
	keys, next, err := c.store.Cache.ListKeys(ctx, ns, pattern, r.GetPageToken(), size)
	if err != nil {
		return nil, err
	}
	// A key that is not UTF-8, as others may write, can be named by no request and would break the answer.
	keys = slices.DeleteFunc(keys, func(key string) bool { return !utf8.ValidString(key) })
	return &cachev1.ListKeysResponse{Keys: keys, NextPageToken: next}, nil
}
