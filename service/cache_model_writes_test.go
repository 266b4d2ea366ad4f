package service

import (
	"maps"
	"path"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

func (m *cacheModelRun) anyETag(t *rapid.T, key string) string {
	if etag := m.liveETag(key); etag != "" && rapid.Bool().Draw(t, "etag of the entry") {
		return etag
	}
	if etag := m.storedETag(rapid.SampledFrom(modelKeys).Draw(t, "other")); etag != "" {
		return etag
	}
	return "0123456789abcdef"
}

func (m *cacheModelRun) write(t *rapid.T) (e *modelEntry, ttl *durationpb.Duration, expire *timestamppb.Timestamp, never bool) {
	m.now++
	e = &modelEntry{born: m.now, contentType: drawOf(t, "content type", "", "text/plain")}
	if e.negative = chance(t, "negative", 5); !e.negative {
		e.value = drawOf(t, "value", "", "a", "b", "7")
		e.stale = drawOf(t, "stale ttl", 0, 0, 100*time.Hour)
	}
	e.tags = slices.DeleteFunc(slices.Clone(modelTags), func(string) bool { return rapid.Bool().Draw(t, "without tag") })
	lasts := time.Duration(rapid.IntRange(1, 9).Draw(t, "hours")) * time.Hour
	switch how := drawOf(t, "expiry", "ttl", "ttl", "time", "default", "never"); {
	case how == "never" && len(e.tags) == 0:
		e.stale = 0
		return e, nil, nil, true
	case how == "time":
		expire = timestamppb.New(time.Now().Add(lasts))
	case how == "default":
		lasts = time.Hour
	default:
		ttl = durationpb.New(lasts)
	}
	e.soft.from = time.Now().Add(lasts)
	return e, ttl, expire, false
}

func optional(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func (m *cacheModelRun) written(key string, e *modelEntry, etag string) {
	e.etag = etag
	if !e.soft.from.IsZero() {
		e.soft.to = e.soft.from.Add(time.Minute) // the call did not take longer than that
	}
	m.entries[key] = e
}

func (m *cacheModelRun) set(t *rapid.T) {
	key := m.key(t)
	found := m.liveETag(key)
	req := &cachev1.SetRequest{Namespace: m.ns, Key: key}
	holds, always := true, false
	switch drawOf(t, "condition", "", "", "", "absent", "present", "match", "none match") {
	case "absent":
		req.Precondition, holds = &cachev1.SetRequest_IfAbsent{IfAbsent: true}, found == ""
	case "present":
		req.Precondition, holds = &cachev1.SetRequest_IfPresent{IfPresent: true}, found != ""
	case "match":
		etag := m.anyETag(t, key)
		req.Precondition, holds = &cachev1.SetRequest_IfMatch{IfMatch: etag}, found == etag
	case "none match":
		etag := m.anyETag(t, key)
		req.Precondition, holds = &cachev1.SetRequest_IfNoneMatch{IfNoneMatch: etag}, found != etag
	default:
		always = true
	}
	e, ttl, expire, never := m.write(t)
	req.Value, req.Negative, req.Tags, req.ContentType, req.StaleTtl = []byte(e.value), e.negative, e.tags, e.contentType, optional(e.stale)
	switch {
	case ttl != nil:
		req.Expiry = &cachev1.SetRequest_Ttl{Ttl: ttl}
	case expire != nil:
		req.Expiry = &cachev1.SetRequest_ExpireTime{ExpireTime: expire}
	case never:
		req.Expiry = &cachev1.SetRequest_Never{Never: true}
	}
	got := must[*cachev1.SetResponse](m.t)(m.writer(t).cache.Set(m.t.Context(), req))
	if !holds {
		if got.Outcome != cachev1.SetOutcome_SET_OUTCOME_NOT_STORED || got.Etag != found {
			t.Fatalf("set %v = %v, want NOT_STORED beside %s", req, got, found)
		}
		return
	}
	if got.Outcome != cachev1.SetOutcome_SET_OUTCOME_STORED || !isETag(got.Etag) {
		t.Fatalf("set %v = %v, want STORED", req, got)
	}
	m.written(key, e, got.Etag)
	if !always {
		delete(m.slots, key)
	}
}

func (m *cacheModelRun) setShort(t *rapid.T) {
	key := m.key(t)
	e, _, _, _ := m.write(t)
	req := &cachev1.SetRequest{
		Namespace: m.ns, Key: key, Value: []byte(e.value), Negative: e.negative, Tags: e.tags, ContentType: e.contentType,
		StaleTtl: optional(e.stale), Expiry: setTTL(time.Millisecond),
	}
	w := m.writer(t)
	e.soft = span{time.Now(), time.Now().Add(time.Minute)}
	got := must[*cachev1.SetResponse](m.t)(w.cache.Set(m.t.Context(), req))
	e.etag, e.late = got.Etag, true
	m.entries[key] = e
	if e.stale == 0 {
		delete(m.entries, key)
		delete(m.slots, key)
	}
	<-time.After(5 * time.Millisecond) // nobody tells of the end
	found, _ := m.read(key, false)
	for _, r := range m.replicas {
		eventually(m.t, "past its time", func() bool {
			got := m.get(r, key).Outcome
			return got == cachev1.GetOutcome_GET_OUTCOME_STALE && found == readStale || got == cachev1.GetOutcome_GET_OUTCOME_MISS && found == readMiss
		})
	}
}

func (m *cacheModelRun) batchSet(t *rapid.T) {
	var written []*modelEntry
	req := &cachev1.BatchSetRequest{Namespace: m.ns}
	for range rapid.IntRange(1, 4).Draw(t, "items") {
		e, ttl, expire, never := m.write(t)
		item := &cachev1.BatchSetItem{
			Key: m.key(t), Value: []byte(e.value), Negative: e.negative, Tags: e.tags, ContentType: e.contentType, StaleTtl: optional(e.stale),
		}
		switch {
		case ttl != nil:
			item.Expiry = &cachev1.BatchSetItem_Ttl{Ttl: ttl}
		case expire != nil:
			item.Expiry = &cachev1.BatchSetItem_ExpireTime{ExpireTime: expire}
		case never:
			item.Expiry = &cachev1.BatchSetItem_Never{Never: true}
		}
		req.Items, written = append(req.Items, item), append(written, e)
	}
	got := must[*cachev1.BatchSetResponse](m.t)(m.writer(t).cache.BatchSet(m.t.Context(), req))
	for i, result := range got.Results {
		if result.Outcome != cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED || result.Key != req.Items[i].Key {
			t.Fatalf("result %d of batch set = %v, want STORED of %s", i, result, req.Items[i].Key)
		}
		m.written(result.Key, written[i], result.Etag)
	}
}

func (m *cacheModelRun) deleteOne(t *rapid.T) {
	key := m.key(t)
	found := m.liveETag(key)
	req := &cachev1.DeleteRequest{Namespace: m.ns, Key: key}
	if rapid.Bool().Draw(t, "if match") {
		req.IfMatch = m.anyETag(t, key)
	}
	want := &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED}
	switch {
	case found == "":
		want.Outcome = cachev1.DeleteOutcome_DELETE_OUTCOME_MISS
	case req.IfMatch != "" && found != req.IfMatch:
		want = &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_NOT_DELETED, Etag: found}
	}
	got := must[*cachev1.DeleteResponse](m.t)(m.writer(t).cache.Delete(m.t.Context(), req))
	if !proto.Equal(got, want) {
		t.Fatalf("delete %v = %v, want %v", req, got, want)
	}
	if req.IfMatch == "" || want.Outcome == cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED {
		delete(m.entries, key)
		delete(m.slots, key)
	}
}

func (m *cacheModelRun) batchDelete(t *rapid.T) {
	keys := rapid.SliceOfN(rapid.SampledFrom(modelKeys), 1, 5).Draw(t, "keys")
	got := must[*cachev1.BatchDeleteResponse](m.t)(m.writer(t).cache.BatchDelete(m.t.Context(), &cachev1.BatchDeleteRequest{Namespace: m.ns, Keys: keys}))
	for i, key := range keys {
		// What was invalidated and is still there counts as well.
		want := cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_MISS
		if m.entries[key] != nil {
			want = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED
		}
		if got.Results[i].Outcome != want || got.Results[i].Key != key {
			t.Fatalf("batch delete of %v: result of %s = %v, want %v", keys, key, got.Results[i], want)
		}
		delete(m.entries, key)
		delete(m.slots, key)
	}
}

func (m *cacheModelRun) touch(t *rapid.T) {
	key := m.key(t)
	e, _ := m.live(key)
	fresh := time.Duration(rapid.IntRange(1, 9).Draw(t, "hours"))*time.Hour + 20*time.Minute
	never := chance(t, "never", 5)
	req := &cachev1.TouchRequest{Namespace: m.ns, Key: key, Mode: cachev1.TouchMode(rapid.IntRange(0, 3).Draw(t, "mode"))}
	req.Expiry = &cachev1.TouchRequest_Ttl{Ttl: durationpb.New(fresh)}
	if never {
		req.Expiry = &cachev1.TouchRequest_Never{Never: true}
	}
	want := cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED
	var soft span
	if e == nil {
		want = cachev1.TouchOutcome_TOUCH_OUTCOME_MISS
	} else {
		if !never {
			soft = span{time.Now().Add(fresh), time.Now().Add(fresh + time.Minute)}
		}
		before, after := e.soft.plus(e.stale), soft.plus(e.stale)
		if !before.never() && !after.never() && after.from.Sub(before.from).Abs() < 5*time.Minute {
			t.Skip("too near to tell which is later")
		}
		later := !before.never() && (after.never() || after.from.After(before.from))
		if req.Mode == cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY && !later ||
			req.Mode == cachev1.TouchMode_TOUCH_MODE_SHORTEN_ONLY && (later || before.never() && after.never()) {
			want = cachev1.TouchOutcome_TOUCH_OUTCOME_UNCHANGED
		}
	}
	got, err := m.writer(t).cache.Touch(m.t.Context(), req)
	if e != nil && never && len(e.tags) > 0 {
		if a := answerOf(m.t, err); a.Reason != "TAGGED_ENTRY_MUST_EXPIRE" {
			t.Fatalf("touch of %+v with never = %v, %v, want TAGGED_ENTRY_MUST_EXPIRE", e, got, a)
		}
		return
	}
	if must[*cachev1.TouchResponse](m.t)(got, err).Outcome != want {
		t.Fatalf("touch %v of %+v = %v, want %v", req, e, got, want)
	}
	if want == cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED {
		if e.soft, e.late = soft, false; never {
			e.stale = 0
		}
		delete(m.slots, key)
	}
}

func (m *cacheModelRun) invalidate(t *rapid.T) {
	mode := cachev1.InvalidationMode(rapid.IntRange(0, 2).Draw(t, "mode"))
	tags := []string{""}
	r := m.writer(t)
	m.now++
	if chance(t, "the namespace", 3) {
		must[*cachev1.ClearNamespaceResponse](m.t)(r.cache.ClearNamespace(m.t.Context(), &cachev1.ClearNamespaceRequest{Namespace: m.ns, Mode: mode}))
	} else {
		tags = rapid.SliceOfNDistinct(rapid.SampledFrom(modelTags), 1, 2, rapid.ID[string]).Draw(t, "tags")
		must[*cachev1.InvalidateTagsResponse](m.t)(r.cache.InvalidateTags(m.t.Context(), &cachev1.InvalidateTagsRequest{Namespace: m.ns, Tags: tags, Mode: mode}))
	}
	for _, tag := range tags {
		mark := m.marks[tag]
		if mode == cachev1.InvalidationMode_INVALIDATION_MODE_STALE {
			mark.stale = m.now
		} else {
			mark.deleted = m.now
		}
		m.marks[tag] = mark
	}
	m.invalidatedBy = r
}

func (m *cacheModelRun) matching(pattern string) (keys []string) {
	for key := range m.entries {
		if ok, err := path.Match(pattern, key); ok && err == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (m *cacheModelRun) deleteMatching(t *rapid.T) {
	pattern := rapid.SampledFrom(modelPatterns).Draw(t, "pattern")
	stream, err := m.writer(t).cache.DeleteMatching(m.t.Context(), &cachev1.DeleteMatchingRequest{Namespace: m.ns, Pattern: pattern})
	var last *cachev1.DeleteMatchingResponse
	for err == nil && (last == nil || !last.Done) {
		last, err = stream.Recv()
	}
	if err == nil {
		_, _ = stream.Recv() // the end of the stream
	}
	keys := m.matching(pattern)
	if err != nil || last.DeletedCount != int64(len(keys)) {
		t.Fatalf("delete matching %s = %v, %v, want the %d keys %v", pattern, last, err, len(keys), keys)
	}
	for _, key := range keys {
		delete(m.entries, key)
		delete(m.slots, key)
	}
}

func (m *cacheModelRun) list(t *rapid.T) {
	req := &cachev1.ListKeysRequest{Namespace: m.ns, Pattern: rapid.SampledFrom(modelPatterns).Draw(t, "pattern"), PageSize: rapid.Int32Range(0, 3).Draw(t, "page size")}
	r := rapid.SampledFrom(m.replicas).Draw(t, "replica")
	listed := make(map[string]bool)
	for {
		got := must[*cachev1.ListKeysResponse](m.t)(r.cache.ListKeys(m.t.Context(), req))
		for _, key := range got.Keys {
			listed[key] = true
		}
		if req.PageToken = got.NextPageToken; req.PageToken == "" {
			break
		}
	}
	if got, want := slices.Sorted(maps.Keys(listed)), m.matching(req.Pattern); !slices.Equal(got, want) {
		t.Fatalf("list of %s = %v, want %v", req.Pattern, got, want)
	}
}
