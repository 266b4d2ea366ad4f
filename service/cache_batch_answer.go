package service

import (
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store/cache"
)

// resultOverhead is the approximate size of a result in a response without its key, value, content type and tags.
const resultOverhead = 128

// tagOverhead is the approximate size of a tag in a response beyond its own bytes.
const tagOverhead = 3

// A batchAnswer builds the response of a BatchGet within a maximum size.
type batchAnswer struct {
	resp  *cachev1.BatchGetResponse
	keys  []string
	size  int // approximate, in bytes
	most  int // the maximum of size
	items []batchItem
	added int // number of keys that were read

	allowStale bool
	reads      *readCounts
}

// A batchItem is a result with its durations.
type batchItem struct {
	result cachev1.BatchGetResult
	times  entryTimes
}

func newBatchAnswer(keys []string, most int, allowStale bool, reads *readCounts) *batchAnswer {
	a := &batchAnswer{
		resp: &cachev1.BatchGetResponse{Results: make([]*cachev1.BatchGetResult, len(keys))},
		keys: keys, most: most, items: make([]batchItem, len(keys)),
		allowStale: allowStale, reads: reads,
	}
	for i, key := range keys {
		a.size += 2*len(key) + resultOverhead // an unprocessed key appears twice
		a.items[i].result.Key = key
		a.resp.Results[i] = &a.items[i].result
	}
	return a
}

// add sets the result of key i, which is unprocessed if its value does not fit.
func (a *batchAnswer) add(i int, found *cache.BatchFound, now time.Time) {
	result := &a.items[i].result
	a.added = i + 1
	if found.Err != nil {
		a.reads.add(cachev1.ReadOutcome_READ_OUTCOME_FAILED, false)
		result.Outcome, result.Reason = cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_FAILED, reason(found.Err)
		return
	}
	v := view(found.Found, now, &a.items[i].times)
	if v.outcome == cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE && !a.allowStale {
		v = view(cache.Found{}, now, nil)
	}
	more := len(v.value) + len(v.contentType)
	for _, tag := range v.tags {
		more += len(tag) + tagOverhead
	}
	if i > 0 && more > 0 && a.size+more > a.most { // the first always fits, so that callers make progress
		a.leaveOut(i)
		return // a smaller one may still fit
	}
	a.size += more
	result.Outcome, result.Value, result.Etag, result.Ttl = v.outcome, v.value, v.etag, v.ttl
	result.StaleTtl, result.Age, result.Source, result.ContentType = v.staleTTL, v.age, v.source, v.contentType
	result.Tags = v.tags
	a.reads.add(cachev1.ReadOutcome(v.outcome), found.Near)
}

// leaveOut marks key i as unprocessed.
func (a *batchAnswer) leaveOut(i int) {
	a.items[i].result.Outcome = cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED
	a.resp.Unprocessed = append(a.resp.Unprocessed, a.keys[i])
}

// end returns the response, in which the keys that were not read are unprocessed.
func (a *batchAnswer) end() *cachev1.BatchGetResponse {
	for i := a.added; i < len(a.keys); i++ {
		a.leaveOut(i)
	}
	return a.resp
}
